"""The shell: each command parses, loads, calls one function and prints what came of it."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperGroup

from stores.errors import UserFault

Item = TypeVar("Item")


class FaultGroup(TyperGroup):
    """Commands whose user faults end as one message and exit code 2, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; a fault or Ctrl-C becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except UserFault as fault:
            typer.secho(str(fault), err=True, fg="red")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.secho("Stopped. Nothing finished is lost: run the same command again.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=FaultGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="First-person video out of four third-person ones: from Ego-Exo4D to latents in a "
    "versioned store, to the trained modules of Exo2EgoSyn, to ego videos and their scores.",
)
store_app = typer.Typer(cls=FaultGroup, no_args_is_help=True, help="Look into a latent store.")
app.add_typer(store_app, name="store")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: the GPU if there is one.")]
Vae = Annotated[
    str,
    typer.Option(help="VAE: a diffusers folder, a hub id, or `tiny` (random, for trying things)."),
]
Wan = Annotated[
    str | None,
    typer.Option(
        help="Wan2.2-I2V-A14B: a diffusers folder, a hub id, or `tiny` (random) "
        "[what the run or its parent was given]."
    ),
]
PUBLISHED = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
Store = Annotated[str, typer.Option(help="The store, or one version of it: FOLDER@HASH.")]
AllowOtherStore = Annotated[
    bool, typer.Option(help="Go on although the run was trained on a store of another hash.")
]
StoreArgument = Annotated[str, typer.Argument(help="The store, or one version: FOLDER@HASH.")]


def draw_progress(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
    """The items, with a line on stderr that shows count, rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    clock = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"))
    began = time.perf_counter()
    with Progress(
        *columns, *clock, TimeRemainingColumn(), console=Console(stderr=True)
    ) as progress:
        task = progress.add_task(what, total=total, rate="")
        for done, item in enumerate(items, start=1):
            yield item
            seconds = (time.perf_counter() - began) / done
            each = f"{1 / seconds:.1f} {unit}/s" if seconds < 1 else f"{seconds:.1f} s for each"
            progress.update(task, advance=1, rate=each)


def tell(report: Any, *, as_json: bool) -> None:
    """Prints a report: one line a field for people, or one JSON object."""
    plain = report if isinstance(report, dict) else dataclasses.asdict(report)
    if as_json:
        import orjson

        option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        typer.echo(orjson.dumps(plain, option=option, default=str).decode())
        return
    width = max(map(len, plain))
    for name, value in plain.items():
        for line in _lines(value):
            typer.echo(f"{name:<{width}}  {line}")
            name = ""


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {inner}" for key, inner in value.items()] or ["none"]
    if isinstance(value, list | tuple):
        return [str(item) for item in value] or ["none"]
    return [f"{value:.4g}" if isinstance(value, float) else str(value)]


def show_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def chosen_device(device: str) -> str:
    """The device's name, with `auto` settled."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write, of Ego-Exo4D's own shape.")],
    takes: Annotated[int, typer.Option(help="Takes; categories and splits take turns.")] = 6,
    seconds: Annotated[float, typer.Option(help="Length of a take.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Film a simulated world: five synchronised videos a take, with exact cameras.

    Somebody works at a table (a bike, a ball, a patient) while four or five fixed fisheyes and one
    on the head look on. The folder holds what Ego-Exo4D's holds, traps included, so that everything
    else can be tried without the dataset. Finished takes are kept when run again.
    """
    from pipeline.simulate.root import simulate_root

    report = simulate_root(
        out,
        takes=takes,
        seconds=seconds,
        seed=seed,
        device=chosen_device(device),
        track=draw_progress,
    )
    tell(report, as_json=as_json)


@app.command()
def ingest(
    root: Annotated[Path, typer.Argument(help="Ego-Exo4D's folder, where takes.json lies.")],
    out: Annotated[Path, typer.Option(help="Clip index to write (Parquet).")] = Path(
        "clips.parquet"
    ),
    category: Annotated[
        list[str] | None, typer.Option(help="Only these: bike, basketball, covid, cpr.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames a clip: 4k + 1.")] = 9,
    stride: Annotated[int, typer.Option(min=1, help="Source frames from one to the next.")] = 4,
    window_step: Annotated[
        int | None, typer.Option(min=1, help="Source frames between clip starts [frames x stride].")
    ] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of a frame.")] = 256,
    ego_lens: Annotated[
        Literal["pinhole", "fisheye"],
        typer.Option(help="pinhole: undistorted ego frames; fisheye: raw, upright ones."),
    ] = "pinhole",
    as_json: AsJson = False,
) -> None:
    """Read Ego-Exo4D and list its clips, with the camera of every frame.

    Opens metadata and video headers only. What is left out is written, with the reason, to
    rejects.parquet beside the list.
    """
    from pipeline.ingest import ingest as list_clips
    from stores.index import ClipRecipe

    recipe = ClipRecipe.model_validate(
        {
            "frames": frames,
            "stride": stride,
            "window_step": window_step or frames * stride,
            "hw": (size, size),
            "ego_lens": ego_lens,
        }
    )
    categories = tuple(category) if category else None
    report = list_clips(root, out, recipe=recipe, categories=categories, track=draw_progress)
    tell(report, as_json=as_json)


@app.command()
def encode_latents(
    clips: Annotated[Path, typer.Argument(help="The clip index that `ingest` wrote.")],
    store: Annotated[Path, typer.Option(help="Store to make, or to add to.")],
    vae: Vae = PUBLISHED,
    split: Annotated[list[str] | None, typer.Option(help="Only these splits.")] = None,
    frames_for: Annotated[
        list[str] | None, typer.Option(help="Splits that keep their RGB frames [test].")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads, each with a VAE [cores, at most 2].")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode, encode with the VAE, make the rays, and write the store.

    Finished shards are kept: stop it at any time and run it again.
    """
    from pipeline.encode import encode_latents as encode

    report = encode(
        clips,
        store,
        vae_spec=vae,
        splits=tuple(split) if split else None,
        frames_for=tuple(frames_for) if frames_for else ("test",),
        workers=workers,
        device=chosen_device(device),
        track=draw_progress,
    )
    tell(report, as_json=as_json)


@app.command()
def train(
    stage: Annotated[str, typer.Option(help="align, multiexocon or poseinj.")],
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    experiment: Annotated[
        str | None, typer.Option(help="Name of a shipped experiment, or a TOML file [the stage's].")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the experiment's own.")
    ] = None,
    wan: Wan = None,
    parent: Annotated[
        Path | None, typer.Option("--from", help="Run to start from (poseinj: a multiexocon run).")
    ] = None,
    first_frames: Annotated[
        str | None, typer.Option(help="Which of several of Align's predictions, by digest.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
    allow_other_store: AllowOtherStore = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train one stage from the store: EgoExo-Align, MultiExoCon, then PoseInj."""
    from exo2ego.training.experiment import load_experiment
    from exo2ego.training.trainer import train as run_stage
    from stores.zarr_store import open_store

    report = run_stage(
        stage,
        open_store(store),
        out,
        load_experiment(experiment or stage, tuple(setting or ())),
        wan_spec=wan,
        parent=parent,
        first_frames=first_frames,
        resume=resume,
        allow_other_store=allow_other_store,
        device=chosen_device(device),
        track=draw_progress,
    )
    tell(report, as_json=as_json)


@app.command()
def encode_first_frames(
    store: Store,
    align: Annotated[Path, typer.Option(help="Run of the stage align.")],
    vae: Vae = PUBLISHED,
    fill: Annotated[
        Literal["decode", "grey", "zeros"],
        typer.Option(help="What follows the first frame: see docs/experiments.md."),
    ] = "decode",
    allow_other_store: AllowOtherStore = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Let EgoExo-Align predict every clip's first ego frame, and keep it beside the store.

    MultiExoCon, PoseInj and sampling take these predictions as their image condition.
    """
    from exo2ego.training.first_frames import encode_first_frames as predict
    from stores.zarr_store import open_store

    report = predict(
        open_store(store),
        align,
        vae_spec=vae,
        fill=fill,
        allow_other_store=allow_other_store,
        device=chosen_device(device),
        track=draw_progress,
    )
    tell(report, as_json=as_json)


@app.command()
def sample(
    store: Store,
    checkpoint: Annotated[Path, typer.Option(help="Run of multiexocon or poseinj.")],
    out: Annotated[Path, typer.Option(help="Folder for videos and manifest.")],
    clips: Annotated[
        str, typer.Option(help="test-1: the central clip of each test take; or test-all.")
    ] = "test-1",
    wan: Wan = None,
    vae: Vae = PUBLISHED,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps (paper: Table 8).")] = 40,
    guidance: Annotated[float, typer.Option(min=1, help="1 turns guidance off (Table 8).")] = 3.5,
    shift: Annotated[float, typer.Option(min=1, help="Shift of the noise levels (Table 8).")] = 5.0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many clips.")] = None,
    seed: Annotated[int, typer.Option(help="Each clip's noise depends on it and the id.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make the ego videos: one mp4 a clip, and one beside the exo views and the truth."""
    from exo2ego.evaluation.sample import sample as make_videos
    from exo2ego.model.flow import SamplerSettings
    from stores.zarr_store import open_store

    report = make_videos(
        open_store(store),
        checkpoint,
        out,
        wan_spec=wan,
        vae_spec=vae,
        evaluation_set=clips,
        sampler=SamplerSettings(steps=steps, guidance=guidance, shift=shift),
        limit=limit,
        seed=seed,
        device=chosen_device(device),
        track=draw_progress,
    )
    tell(report, as_json=as_json)


@app.command()
def evaluate(
    store: Store,
    samples: Annotated[Path, typer.Option(help="Folder that `sample` wrote.")],
    alexnet: Annotated[
        Path | None,
        typer.Option(help="torchvision's alexnet-owt-7be5be79.pth for LPIPS [torch hub's cache]."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score samples against the truth: PSNR, SSIM and LPIPS per clip, take and category.

    Writes scores.json beside the samples. Without AlexNet's weights LPIPS is "not measured".
    """
    from exo2ego.evaluation.evaluate import evaluate as score
    from stores.zarr_store import open_store

    scores = score(
        open_store(store),
        samples,
        trunk=alexnet,
        device=chosen_device(device),
        track=draw_progress,
    )
    if as_json:
        typer.echo(scores.model_dump_json(indent=2))
        return
    groups = {**scores.categories, "all": scores.overall}
    rows = [[name, *_score_cells(score)] for name, score in groups.items()]
    show_table("means over takes", ["category", "PSNR (dB)", "SSIM", "LPIPS"], rows)
    typer.echo(f"written: {samples / 'scores.json'}; without a video: {len(scores.missing)} clips")


@store_app.command()
def info(store: StoreArgument, as_json: AsJson = False) -> None:
    """Say what a store holds: hash, clips, recipe, arrays, derived arrays."""
    from stores.zarr_store import open_store

    tell(open_store(store).info(), as_json=as_json)


@store_app.command()
def verify(store: StoreArgument, as_json: AsJson = False) -> None:
    """Read and hash everything again; exit code 1 if a clip is damaged, and say which."""
    from stores.verify import verify_store
    from stores.zarr_store import open_store

    report = verify_store(open_store(store), track=draw_progress)
    tell(report, as_json=as_json)
    if report.damaged:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")],
    takes: Annotated[int, typer.Option(help="Simulated takes.")] = 6,
    seconds: Annotated[float, typer.Option(help="Length of a take.")] = 2.0,
    size: Annotated[int, typer.Option(help="Rows and columns of a frame.")] = 128,
) -> None:
    """Run the whole path on a simulated world, with tiny models, on any machine.

    Simulate, ingest, encode, train all three stages, sample, evaluate. Run again, it goes on where
    it was stopped. The VAE and the transformer are random ones of the real classes: the generated
    videos are noise, and their scores mean nothing but that every step works.
    """
    claim_demo_folder(out, {"takes": takes, "seconds": seconds, "size": size})
    root, clips, store = out / "ego-exo", out / "clips.parquet", out / "latents.store"
    runs = {stage: out / "runs" / stage for stage in ("align", "multiexocon", "poseinj")}
    samples, at = out / "samples", str(store)

    def train_demo(stage: str, parent: Path | None = None) -> None:
        train(
            stage,
            at,
            runs[stage],
            experiment=f"demo-{stage}",
            wan="tiny" if stage != "align" else None,
            parent=parent,
            resume=True,
        )

    steps = {
        "simulate": lambda: simulate(root, takes=takes, seconds=seconds),
        "ingest": lambda: ingest(root, clips, size=size, window_step=12),
        "encode-latents": lambda: encode_latents(clips, store, vae="tiny"),
        "store verify": lambda: verify(at),
        "train --stage align": lambda: train_demo("align"),
        "encode-first-frames": lambda: encode_first_frames(at, runs["align"], vae="tiny"),
        "train --stage multiexocon": lambda: train_demo("multiexocon"),
        "train --stage poseinj": lambda: train_demo("poseinj", runs["multiexocon"]),
        "sample": lambda: sample(at, runs["poseinj"], samples, vae="tiny", steps=10),
        "evaluate": lambda: evaluate(at, samples),
    }
    for number, (command, run) in enumerate(steps.items(), start=1):
        typer.secho(f"\n[{number}/{len(steps)}] exo2ego {command}", bold=True)
        run()
    typer.secho("\nVideos, as noisy as an untrained VAE and transformer make them:", bold=True)
    for video in sorted(samples.glob("*.mp4")):
        typer.echo(f"  {video}")


def claim_demo_folder(out: Path, settings: dict[str, Any]) -> None:
    """Marks an empty folder as the demo's. Raises UserFault if it is somebody else's."""
    import orjson

    marker = out / "demo.json"
    if marker.exists() and orjson.loads(marker.read_bytes()) == settings:
        return
    if out.exists() and any(out.iterdir()):
        raise UserFault(
            "The demo does not overwrite what it did not make.",
            where=out,
            expected=f"no such folder, an empty one, or a demo of {settings}",
            got=marker.read_text() if marker.exists() else "a folder with other things in it",
            fix="Name another folder, or delete this one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    marker.write_bytes(orjson.dumps(settings))


def _score_cells(score: Any) -> list[str]:
    lpips = score.lpips if isinstance(score.lpips, str) else f"{score.lpips:.4f}"
    return [f"{score.psnr:.4f}", f"{score.ssim:.4f}", lpips]


if __name__ == "__main__":
    app()
