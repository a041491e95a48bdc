"""`python -m benchmarks.mini vae|foundation|adapter|reads|timing`: docs/mini.md, experiments.md."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.mini.adapters import write_adapter
from benchmarks.mini.films import write_films
from benchmarks.mini.foundation import FoundationTraining, train_foundation, training_videos
from benchmarks.mini.reads import losses_of
from benchmarks.mini.sheet import draw_foundation_sheet, draw_vae_sheet
from benchmarks.mini.timing import timing_when_moved
from benchmarks.mini.vae import VaeTraining, train_vae
from benchmarks.mini.vae_file import score_vae, write_vae
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.vae import load_codec
from exo2ego.model.wan_expert import LOW_NOISE
from stores.progress import drawn
from stores.zarr_store import open_store

SIDES = (64, 128)
"""At which the VAE is scored."""


def make_vae(index: Path, out: Path, steps: int | None) -> None:
    """Trains, writes OUT/vae, prints its scores on split val, and draws OUT/vae.png."""
    films, settings = write_films(index, out, drawn), VaeTraining()
    if steps:
        whole, decoder = (replace(one, steps=steps) for one in (settings.whole, settings.decoder))
        settings = replace(settings, whole=whole, decoder=decoder)
    vae = train_vae(films, out, settings, drawn)
    write_vae(vae, films, out / "vae", settings.statistics)
    for side in SIDES:
        print(score_vae(out / "vae", films, "val", side), flush=True)
    draw_vae_sheet(str(out / "vae"), films, out / "vae.png")


def make_foundation(index: Path, vae: str, out: Path, steps: int | None) -> None:
    """Trains, writes OUT/transformer_2 in half precision, and draws OUT/foundation.png."""
    films, settings = write_films(index, out, drawn), FoundationTraining()
    if steps:
        settings = replace(settings, schedule=replace(settings.schedule, steps=steps))
    videos = training_videos(films, load_codec(vae), out / "latents.npy", drawn)
    wan = train_foundation(videos, out, settings, drawn)
    wan.half().save_pretrained(out / LOW_NOISE)
    draw_foundation_sheet(str(out), vae, films, out / "foundation.png")


def print_losses(store: Path, runs: list[Path]) -> None:
    """A line for each run and split, as it is done."""
    opened = open_store(store, derive=CLIP_CAMERAS)
    for run in runs:
        for split in ("train", "test"):
            print(run, losses_of(run, opened, split), flush=True)


def main() -> None:
    """Does what was asked for; stopped and called again, it goes on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mini", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    vae, foundation = parts.add_parser("vae"), parts.add_parser("foundation")
    foundation.add_argument("--vae", required=True, help="a trained one's folder, or `mini`")
    for part in (vae, foundation):
        part.add_argument("index", type=Path, help="clips of a simulated world at 128x128")
        part.add_argument("out", type=Path)
        part.add_argument("--steps", type=int, help="fewer than the shipped weights took")
        part.add_argument(
            "--threads", type=int, default=1, help="results depend on it, in the last bits"
        )
    adapter = parts.add_parser("adapter")
    adapter.add_argument("run", type=Path, help="a trained stage's")
    adapter.add_argument("out", type=Path)
    adapter.add_argument("--parent", type=Path, help="the adapter that it went on from")
    reads = parts.add_parser("reads", help="what stages read of a clip, by their losses")
    reads.add_argument("store", type=Path)
    reads.add_argument("runs", type=Path, nargs="+")
    timing = parts.add_parser("timing", help="how timing changes when samples are a frame off")
    timing.add_argument("store", type=Path)
    timing.add_argument("samples", type=Path)
    asked = parser.parse_args()
    if asked.part == "timing":
        for line in timing_when_moved(open_store(asked.store), asked.samples):
            print(line, flush=True)
        return
    if asked.part == "reads":
        print_losses(asked.store, asked.runs)
        return
    if asked.part == "adapter":
        print(write_adapter(asked.run, asked.out, asked.parent))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    if asked.part == "vae":
        make_vae(asked.index, asked.out, asked.steps)
    else:
        make_foundation(asked.index, asked.vae, asked.out, asked.steps)


if __name__ == "__main__":
    main()
