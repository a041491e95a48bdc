"""The bias probe: stock Wan on exo first frames, a folder of samples a prompt, and its report.

OUT/general-1/ and so on       samples of each prompt (sample.py), which `evaluate` scores, too
OUT/bias.json                  the view bias of every video and family
OUT/bias.png                   contact sheet of the first clips
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import orjson
import torch

from exo2ego.evaluation.bias.contact_sheet import SheetRow, video_row, write_sheet
from exo2ego.evaluation.bias.prompts import Prompt, Prompts
from exo2ego.evaluation.bias.report import (
    BiasReport,
    VideoBias,
    family_bias,
    measure_video,
)
from exo2ego.evaluation.bias.stock_wan import StockWan, exo_first_frame, load_stock_wan
from exo2ego.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.lpips import Lpips, default_trunk_path, load_lpips
from exo2ego.evaluation.manifest import SampleSettings, read_manifest
from exo2ego.evaluation.sample import Samples
from exo2ego.evaluation.sample_files import read_frames
from exo2ego.evaluation.scene import Scene
from exo2ego.evaluation.scores import NOT_MEASURED
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import file_digest, software_versions
from stores.atomic import write_whole
from stores.damage import name_some
from stores.errors import StoreFault
from stores.progress import Track, silent
from stores.reading import Store
from stores.version import ABSENT_ROW

NAME = "stock-wan"
REPORT, SHEET = "bias.json", "bias.png"
SHEET_CLIPS = 4
"""Clips on the contact sheet, the first by id."""


@dataclass(frozen=True)
class BiasPlan:
    """What a call of `bias` would do, as one video showed it."""

    videos: int
    videos_done: int
    device: str
    seconds_a_video: float
    gpu_hours: float
    """Of the videos that are left, on this device; loading the model is not counted."""


@dataclass(frozen=True, eq=False)
class BiasProbe:
    """Stock Wan, clips and prompts, ready to be run or planned."""

    store: Store
    wan: StockWan
    prompts: Prompts
    out: Path
    choice: ClipChoice
    wanted: list[str]
    view: int
    sampler: SamplerSettings
    seed: int
    lpips: Lpips | None
    trunk: Path | None
    device: str

    def samples(self, prompt: Prompt) -> Samples:
        """The folder of one prompt."""
        about = self.wan.about | {"name": NAME, "prompt": prompt.text}
        about |= {"negative": self.prompts.negative, "view": self.view}
        digest = blake3.blake3(orjson.dumps(about, option=orjson.OPT_SORT_KEYS)).hexdigest()
        film = self.wan.film(
            self.store,
            prompt.text,
            self.prompts.negative,
            view=self.view,
            sampler=self.sampler,
            seed=self.seed,
        )
        settings = SampleSettings(
            store_hash=self.store.hash,
            stage=NAME,
            step=0,
            weights_digest=digest,
            first_frames=None,
            evaluation_set=self.choice.set_meant,
            split=self.choice.split,
            sampler=self.sampler,
            seed=self.seed,
            views=(self.view,),
            baseline=about,
            device=torch.device(self.device).type,
        )
        scene, folder = Scene((self.view,)), self.out / prompt.name
        return Samples(
            folder, self.store, self.wan.codec, settings, self.wanted, lambda: film, scene
        )

    def run(self, track: Track) -> BiasReport:
        """Makes the videos that are not there yet, measures all, writes report and sheet."""
        for prompt in self.prompts.all:
            self.samples(prompt).fill(track)
        count = len(self.prompts.all) * len(self.wanted)
        videos = list(track(self._measured(), total=count, what="view bias", unit="videos"))
        report = BiasReport(
            families={
                family: family_bias(family, [v for v in videos if v.family == family])
                for family in ("general", "ego")
            },
            videos=videos,
            prompts={prompt.name: prompt.text for prompt in self.prompts.all},
            provenance=self.provenance(),
        )
        write_whole(self.out / REPORT, report.model_dump_json(indent=2).encode())
        write_sheet(self.out / SHEET, list(self._rows(videos)))
        return report

    def plan(self) -> BiasPlan:
        """What `run` would do: one video is made and thrown away."""
        plans = [self.samples(prompt) for prompt in self.prompts.all]
        done = sum(_done(samples.out, self.wanted) for samples in plans)
        seconds, count = plans[0].plan().seconds_a_clip, len(plans) * len(self.wanted)
        return BiasPlan(count, done, self.device, seconds, seconds * (count - done) / 3600)

    def provenance(self) -> dict[str, Any]:
        """What the numbers were made of."""
        trunk = file_digest(self.trunk or default_trunk_path()) if self.lpips else NOT_MEASURED
        return {
            "store": self.store.hash,
            "clips": {"evaluation_set": self.choice.set_meant, "split": self.choice.split},
            "wan": {"spec": self.wan.spec, **self.wan.about},
            "negative": self.prompts.negative,
            "view": self.view,
            "sampler": self.sampler.model_dump(),
            "seed": self.seed,
            "lpips_trunk": trunk,
            "intervals": {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED, "over": "takes"},
            "software": software_versions(),
        }

    def _measured(self) -> Iterator[VideoBias]:
        """Each video, clip by clip."""
        for clip_id in self.wanted:
            truth = torch.from_numpy(self.store.read("ego_frames", [clip_id])[0]).to(self.device)
            exo = exo_first_frame(self.store, clip_id, self.view).to(self.device)
            for prompt in self.prompts.all:
                frames = self._frames(clip_id, prompt).to(self.device)
                found = measure_video(frames, truth, exo, self.lpips)
                yield VideoBias(
                    clip_id=clip_id,
                    take_name=self.store.row(clip_id).take_name,
                    family=prompt.family,
                    prompt=prompt.name,
                    **found.model_dump(),
                )

    def _frames(self, clip_id: str, prompt: Prompt) -> torch.Tensor:
        recipe, path = self.store.recipe.clips, self.out / prompt.name / f"{clip_id}.safetensors"
        return read_frames(path, clip_id, (recipe.frames, *recipe.hw))

    def _rows(self, videos: list[VideoBias]) -> Iterator[SheetRow]:
        """Rows of the contact sheet."""
        texts = {prompt.name: prompt for prompt in self.prompts.all}
        for video in videos:
            if video.clip_id not in self.wanted[:SHEET_CLIPS]:
                continue
            clip_id, prompt = video.clip_id, texts[video.prompt]
            yield video_row(
                f"{clip_id}  {prompt.name}: {prompt.text}",
                exo_first_frame(self.store, clip_id, self.view).numpy(),
                self.store.read("ego_frames", [clip_id])[0, 0],
                self._frames(clip_id, prompt).numpy(),
                (video.view_bias_pixels, video.last_view_bias_pixels),
            )


def open_bias(
    store: Store,
    wan_spec: str,
    out: Path,
    *,
    prompts: Prompts,
    clips: ClipChoice = ClipChoice(),  # noqa: B008 (frozen)
    view: int = 0,
    steps: int = SamplerSettings().steps,
    guidance: float = SamplerSettings().guidance,
    seed: int = 0,
    trunk: Path | None = None,
    offload: bool = False,
    device: str = "cpu",
) -> BiasProbe:
    """The probe, with Wan loaded; nothing is written yet.

    Choice: videos of the store's own shape, Table 8's steps and guidance, the shift of the
    pipeline's own scheduler. Raises StoreFault for clips whose frames the store does not keep,
    SceneFault for clips without the view, WeightsFault for another Wan, TrunkFault.
    """
    wanted = chosen_clips(store, clips)
    Scene((view,)).check(store, wanted)
    _check_kept(store, wanted)
    lpips = load_lpips(trunk, device=device)
    wan = load_stock_wan(wan_spec, device=device, offload=offload)
    sampler = SamplerSettings(steps=steps, shift=wan.shift, guidance=guidance)
    return BiasProbe(
        store, wan, prompts, out, clips, wanted, view, sampler, seed, lpips, trunk, device
    )


def probe_bias(
    store: Store, wan_spec: str, out: Path, *, track: Track = silent, **told: Any
) -> BiasReport:
    """Runs the probe; `told` is what else `open_bias` takes."""
    return open_bias(store, wan_spec, out, **told).run(track)


def _check_kept(store: Store, clip_ids: list[str]) -> None:
    for array in ("exo_frames", "ego_frames"):
        if bare := [c for c in clip_ids if store.row(c).rows[array] == ABSENT_ROW]:
            raise StoreFault(
                "The store does not keep the pictures of these clips.",
                where=f"{store.path}@{store.hash[:12]}, {array}",
                expected=f"{array} of every clip that is chosen",
                got=f"none of {name_some(bare)}",
                fix="Choose clips of the test split with an ego video, or encode the store with "
                "`--ego-frames all`.",
            )


def _done(folder: Path, wanted: list[str]) -> int:
    if not any(folder.glob("manifest*.json")):
        return 0
    return len(set(read_manifest(folder).clips) & set(wanted))
