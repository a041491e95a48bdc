"""The shell: each command parses, loads, calls one function and prints what came of it."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from stores.errors import UserFault
from stores.progress import drawn

# peft reads it in any command that builds Wan; it then misses kernels that nothing here uses
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


class FaultGroup(TyperGroup):
    """Commands whose user faults end as one message and exit code 2, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; a fault or Ctrl-C becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except UserFault as fault:
            rank = os.environ.get("RANK", "0")
            whose = f"[process {rank}] " if rank != "0" else ""
            typer.secho(whose + str(fault), err=True, fg="red")
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
clips_app = typer.Typer(cls=FaultGroup, no_args_is_help=True, help="Look into clip indexes.")
app.add_typer(clips_app, name="clips")
experiments_app = typer.Typer(
    cls=FaultGroup, no_args_is_help=True, help="Look into the experiments that decide a training."
)
app.add_typer(experiments_app, name="experiments")
study_app = typer.Typer(cls=FaultGroup, no_args_is_help=True, help="Ask people: a user study.")
app.add_typer(study_app, name="study")

SetOption = Annotated[
    str | None,
    typer.Option("--set", help="test-1: the central clip of each test take; test-all [test-1]."),
]
SplitOption = Annotated[
    str | None, typer.Option(help="Only clips of this split; train, val: all of them.")
]
ClipIds = Annotated[
    list[str] | None, typer.Option(help="Only this clip, by its id; repeatable [all].")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many clips.")]
ShownViews = Annotated[
    str | None, typer.Option(help="Exo views to show, by number, 0 the reference: 0,2 [all].")
]
CameraFile = Annotated[
    Path | None, typer.Option(help="JSON: another path of the ego camera (docs/evaluation.md).")
]
AlignAnew = Annotated[
    Path | None,
    typer.Option(help="Align's run: first frames anew, for --views or --camera [as stored]."),
]
Weights = Annotated[
    Literal["full", "fp8"], typer.Option(help="fp8: Wan's blocks in half the memory, rounded.")
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep Wan on the host, a layer on the GPU at a time.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Try one, tell clips and GPU hours; write nothing.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="Share of the clips: 2/4 is the second of four [torchrun's].")
]
AlexNet = Annotated[
    Path | None,
    typer.Option(help="torchvision's alexnet-owt-7be5be79.pth for LPIPS [torch hub's cache]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, or auto: the GPU if there is one.")]
Vae = Annotated[
    str,
    typer.Option(
        help="VAE: a diffusers folder, a hub id, `mini` (ours, small) or `tiny` (random)."
    ),
]
FirstFrames = Annotated[
    str | None, typer.Option(help="Which of several of Align's predictions, by digest.")
]
ParentRun = Annotated[
    Path | None, typer.Option("--from", help="Run to start from (poseinj: a multiexocon run).")
]
Averages = Annotated[bool, typer.Option("--ema", help="The run's averaged weights.")]
Parallel = Annotated[
    Literal["ddp", "fsdp"],
    typer.Option(help="Under torchrun: the whole model in each process, or a part (FSDP2)."),
]
ProfileSteps = Annotated[
    int | None, typer.Option(min=1, help="Time so many steps instead, and train nothing.")
]
SampleEvery = Annotated[
    int | None, typer.Option(min=1, help="Steps from one set of sample videos to the next.")
]
BeginWith = Annotated[
    Path | None,
    typer.Option(help="Run of the same stage whose weights are those of step 0 [fresh ones]."),
]
Wan = Annotated[
    str | None,
    typer.Option(
        help="Wan2.2-I2V-A14B: a diffusers folder, a hub id, `mini` (ours) or `tiny` (random) "
        "[what the run or its parent was given]."
    ),
]
PUBLISHED = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
Store = Annotated[str, typer.Option(help="The store, or one version: FOLDER@HASH or URL@HASH.")]
AllowOtherStore = Annotated[
    bool, typer.Option(help="Go on although the run was trained on a store of another hash.")
]
Root = Annotated[Path | None, typer.Argument(help="Ego-Exo4D's folder: takes.json is in it.")]
RigFolder = Annotated[Path | None, typer.Option(help="Instead of ROOT: a folder with rig.json.")]
ClipsOut = Annotated[Path, typer.Option(help="Clip index to write (Parquet).")]
Categories = Annotated[
    list[str] | None,
    typer.Option(help="Only these: bike, basketball, covid, cpr, or task ids [the four]."),
]
CategoryRule = Annotated[
    Literal["id", "name"], typer.Option(help="By task id, or by a word in the take's name.")
]
Splits = Annotated[list[str] | None, typer.Option(help="Only these splits.")]
PublishedClips = Annotated[
    Path | None, typer.Option(help="A published clip index: its recipe and clips are taken.")
]
Frames = Annotated[int | None, typer.Option(help="Frames a clip, 4k + 1 [9].")]
Stride = Annotated[int | None, typer.Option(help="Source frames from one to the next [4].")]
Fps = Annotated[float | None, typer.Option(help="Frames a second, instead of the stride.")]
WindowStep = Annotated[
    int | None, typer.Option(help="Source frames between clip starts [frames x stride].")
]
Size = Annotated[int | None, typer.Option(help="Rows and columns of a frame [256].")]
Views = Annotated[str | None, typer.Option(help="Exo cameras, reference first: cam01,cam03,...")]
MinViews = Annotated[int | None, typer.Option(help="Fewest exo views of a take [all].")]
ExoFit = Annotated[
    Literal["squash", "crop", "pad"] | None, typer.Option(help="Exo frames to size [squash].")
]
ExoLens = Annotated[
    Literal["fisheye", "pinhole"] | None, typer.Option(help="Exo frames: raw [fisheye].")
]
EgoLens = Annotated[
    Literal["pinhole", "fisheye"] | None, typer.Option(help="Ego frames: undistorted [pinhole].")
]
Page = Annotated[bool, typer.Option(help="Write ingest.html, with a sheet of pictures a take.")]
CheckSync = Annotated[bool, typer.Option(help="Decode videos, to find those that are shifted.")]
EncodeRate = Annotated[float, typer.Option(help="Clips/s of a GPU, assumed for the GPU hours.")]
DownloadCommands = Annotated[
    bool, typer.Option("--download-commands", help="Print what to fetch into ROOT; nothing else.")
]
ExperimentArgument = Annotated[
    str, typer.Argument(help="Name of a shipped experiment, or a TOML file.")
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the experiment's own.")
]
StoreArgument = Annotated[
    str, typer.Argument(help="The store, or one version: FOLDER@HASH, URL@HASH.")
]
StudyArgument = Annotated[Path, typer.Argument(help="Folder that `study build` wrote.")]


def tell(report: Any, *, as_json: bool) -> None:
    """Prints a report: text, or one line a field, for people; or one JSON object."""
    if isinstance(report, str):
        typer.echo(report)
        return
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


def show_table(
    title: str, columns: list[str], rows: list[list[str]], words: tuple[str, ...] = ()
) -> None:
    """Prints a table on stdout; the first column and those of `words` on the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for number, column in enumerate(columns):
        left = not number or column in words
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def opened(store: str) -> Any:
    """The store, open, with the rays that it need not keep made when they are read."""
    from exo2ego.geometry.clip_rays import CLIP_CAMERAS
    from stores.zarr_store import open_store

    return open_store(store, derive=CLIP_CAMERAS)


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
    height: Annotated[int, typer.Option(help="Rows of a video.")] = 448,
    splits: Annotated[
        str | None,
        typer.Option(help="Split of each four takes (one a category) in turn: train,train,test ."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that draw takes side by side.")] = 1,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Film a simulated world: five synchronised videos a take, with exact cameras.

    Somebody works at a table (a bike, a ball, a patient) while four or five fixed fisheyes and one
    on the head look on. The folder holds what Ego-Exo4D's holds, traps included, so that everything
    else can be tried without the dataset. Finished takes are kept when run again.
    """
    from pipeline.simulate.root import simulate_root
    from pipeline.simulate.traits import SPLITS, splits_of_fours

    report = simulate_root(
        out,
        takes=takes,
        seconds=seconds,
        seed=seed,
        height=height,
        splits=splits_of_fours(splits.split(",")) if splits else SPLITS,
        workers=workers,
        device=chosen_device(device),
        track=drawn,
    )
    tell(report, as_json=as_json)


@app.command()
def ingest(
    root: Root = None,
    rig: RigFolder = None,
    out: ClipsOut = Path("clips.parquet"),
    category: Categories = None,
    category_rule: CategoryRule = "id",
    split: Splits = None,
    clips: PublishedClips = None,
    frames: Frames = None,
    stride: Stride = None,
    fps: Fps = None,
    window_step: WindowStep = None,
    size: Size = None,
    views: Views = None,
    min_views: MinViews = None,
    exo_fit: ExoFit = None,
    exo_lens: ExoLens = None,
    ego_lens: EgoLens = None,
    page: Page = True,
    check_sync: CheckSync = False,
    encode_rate: EncodeRate = 10.0,
    download_commands: DownloadCommands = False,
    as_json: AsJson = False,
) -> None:
    """Read Ego-Exo4D, or a rig, and list its clips with the camera of every frame.

    Opens metadata, video headers, and three frames a view for the page. What is left out is
    written, with the reason, to rejects.parquet. Run again after an interruption, it goes on.
    """
    from pipeline.doctor.summary import examine_ingest, summary
    from pipeline.ingest import ingest as list_clips
    from pipeline.rig import Rig
    from stores.recipe import ClipRecipe

    source = root if rig is None else Rig(rig)
    if source is None or (root and rig):
        raise typer.BadParameter("give either ROOT or --rig FOLDER")
    categories, splits = (tuple(of) if of else None for of in (category, split))
    if download_commands and root:
        return tell_download(root, categories, splits, category_rule, as_json=as_json)
    asked: dict[str, Any] = {
        **{"frames": frames, "stride": stride, "window_step": window_step},
        **{"hw": (size, size) if size else None, "min_views": min_views},
        **{"view_ids": tuple(views.split(",")) if views else None},
        **{"exo_fit": exo_fit, "exo_lens": exo_lens, "ego_lens": ego_lens},
    }
    report = list_clips(
        source,
        out,
        recipe=None if clips else ClipRecipe.sampled(fps, **asked),
        categories=categories,
        splits=splits,
        category_by=category_rule,
        clips=clips,
        track=drawn,
    )
    doctor = examine_ingest(report, check_sync, encode_rate, drawn) if page else None
    found = dataclasses.asdict(report) | {"reasons": report.reasons, "doctor": doctor}
    return tell(found if as_json else summary(report, doctor), as_json=as_json)


def tell_download(
    root: Path,
    categories: tuple[str, ...] | None,
    splits: tuple[str, ...] | None,
    rule: Literal["id", "name"],
    *,
    as_json: bool,
) -> None:
    """Prints the commands that fetch what ingest and training need, with their bytes."""
    from pipeline.download import download_plan
    from pipeline.takes import CATEGORIES, SPLITS

    plan = download_plan(
        root, categories=categories or CATEGORIES, splits=splits or SPLITS, category_by=rule
    )
    tell(plan if as_json else str(plan), as_json=as_json)


@app.command("encode-latents")
def encode_clips(
    clips: Annotated[Path, typer.Argument(help="The clip index that `ingest` wrote.")],
    store: Annotated[str, typer.Option(help="Store to make, or to add to: a folder or a URL.")],
    vae: Vae = PUBLISHED,
    split: Splits = None,
    container: Annotated[
        Literal["zarr", "webdataset"],
        typer.Option("--format", help="A store that grows, or a folder of tar shards."),
    ] = "zarr",
    rays: Annotated[
        Literal["stored", "factored"],
        typer.Option(help="Keep the rays, or make them from the cameras at every reading."),
    ] = "stored",
    ego_frames: Annotated[
        list[str] | None,
        typer.Option(help="Splits that keep the frames of all views, or `all` [test]."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="GPUs, or tasks of the CPU, at once [all; at most 2]."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A running Dask scheduler: tcp://host:8786.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try one clip, tell size and time; write nothing.")
    ] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Decode, encode with the VAE, make the rays, and write the store.

    Finished shards are kept: stop it at any time (Ctrl-C and SIGTERM end with code 130) and run
    it again. Clips that fail twice are told, listed in rejects.json and left out; the code is 0.
    """
    from pipeline.encode import encode_latents
    from pipeline.encode_plan import Wish
    from pipeline.encode_tars import encode_tars
    from pipeline.encode_trial import try_encode
    from stores.place import place

    wish = Wish(tuple(ego_frames) if ego_frames else ("test",), rays)
    splits = tuple(split) if split else None
    about: dict[str, Any] = {"vae_spec": vae, "wish": wish, "splits": splits, "workers": workers}
    about |= {"device": chosen_device(device)}
    if dry_run:
        tell(try_encode(clips, place(store), **about), as_json=as_json)
        return
    encode = encode_tars if container == "webdataset" else encode_latents
    report = encode(clips, place(store), **about, scheduler=scheduler, track=drawn)
    tell(report, as_json=as_json)
    if report.failed:
        count = sum(len(group.clip_ids) for group in report.failed)
        typer.secho(
            f"{count} clips could not be encoded; see {store}/rejects.json.", err=True, fg="red"
        )


@app.command()
def train(
    stage: Annotated[str, typer.Option(help="align, multiexocon, poseinj or vawan.")],
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    experiment: Annotated[
        str | None, typer.Option(help="Name of a shipped experiment, or a TOML file [the stage's].")
    ] = None,
    setting: Setting = None,
    wan: Wan = None,
    parent: ParentRun = None,
    first_frames: FirstFrames = None,
    begin_with: BeginWith = None,
    resume: Annotated[bool, typer.Option(help="Go on from the run's last checkpoint.")] = False,
    parallel: Parallel = "ddp",
    profile: ProfileSteps = None,
    sample_every: SampleEvery = None,
    samples: Annotated[int, typer.Option(min=1, help="Clips of such a set.")] = 2,
    vae: Vae = PUBLISHED,
    tensorboard: Annotated[bool, typer.Option(help="Write RUN/tensorboard, too.")] = False,
    allow_other_store: AllowOtherStore = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train one stage from the store: EgoExo-Align, MultiExoCon, then PoseInj; or VAWAN.

    A signal ends the step and writes a checkpoint from which --resume goes on: the exit code is
    130 after Ctrl-C, and 75 (run me again) after SIGTERM or SIGUSR1. A second signal kills.
    """
    from exo2ego.training.experiment_file import load_experiment
    from exo2ego.training.trainer import train as run_stage

    settings = load_experiment(experiment or stage, tuple(setting or ()))
    if profile:
        source = (opened(store), wan, parent, first_frames)
        profile_steps(stage, source, out, settings, profile, allow_other_store, device, as_json)
        return
    watchers = training_watchers(stage, tensorboard=tensorboard)
    if sample_every:
        watchers.append(sample_watcher(stage, store, sample_every, samples, vae, device))
    report = run_stage(
        stage,
        opened(store),
        out,
        settings,
        wan_spec=wan,
        parent=parent,
        first_frames=first_frames,
        begin_with=begin_with,
        resume=resume,
        allow_other_store=allow_other_store,
        sharing=parallel,
        device=chosen_device(device),
        watchers=watchers,
    )
    end_training(report, as_json=as_json)


def end_training(report: Any, *, as_json: bool) -> None:
    """Says what was done, once, and ends with the code of a signal that came."""
    from exo2ego.training.interrupt import exit_code

    code = exit_code(report.stopped_by)
    if os.environ.get("RANK", "0") == "0":
        tell(report, as_json=as_json)
        if code:
            typer.secho("Stopped. Run the same with --resume to go on.", err=True)
    if code:
        raise typer.Exit(code)


def training_watchers(stage: str, *, tensorboard: bool) -> list[Any]:
    """What watches a run: its live line, its picture and, if asked for, TensorBoard's files."""
    from exo2ego.training.live import LiveLine
    from exo2ego.training.plots import LossPicture
    from exo2ego.training.tensorboard import TensorBoard

    return [LiveLine(stage), LossPicture(stage), *([TensorBoard()] if tensorboard else [])]


def sample_watcher(stage: str, store: str, every: int, clips: int, vae: str, device: str) -> Any:
    """What samples a run while it trains."""
    from exo2ego.evaluation.sample_watcher import SampleWatcher

    device = chosen_device(device)
    return SampleWatcher(
        opened(store), stage, every=every, clips=clips, vae_spec=vae, device=device
    )


def profile_steps(
    stage: str,
    given: tuple[Any, str | None, Path | None, str | None],
    out: Path,
    experiment: Any,
    steps: int,
    allow_other_store: bool,
    device: str,
    as_json: bool,
) -> None:
    """Prints where the time of a step goes: a table for people, or JSON."""
    from exo2ego.training.lineage import Source
    from exo2ego.training.profile import profile

    times = profile(
        stage,
        Source(*given),
        out,
        experiment,
        steps=steps,
        allow_other_store=allow_other_store,
        device=chosen_device(device),
        track=drawn,
    )
    if as_json:
        tell(times, as_json=True)
        return
    rows = [
        [part, f"{1000 * seconds:.1f}", f"{seconds / times.step_s:.1%}"]
        for part, seconds in (times.parts | {"step": times.step_s}).items()
    ]
    title = f"{times.stage}, {times.global_batch} clips a step, {times.steps} steps"
    show_table(title, ["part", "ms a step", "share"], rows)
    typer.echo(
        f"training {times.clips_per_s:.4g} clips/s; the stream alone "
        f"{times.stream_clips_per_s:.4g} clips/s, {times.headroom:.3g} times that"
    )


@app.command()
def describe(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a TOML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the experiment's; repeatable.")
    ] = None,
    wan: Annotated[
        str | None,
        typer.Option(help="Whose configuration: a folder, hub id, `mini` or `tiny` [the 14B]."),
    ] = None,
    views: Annotated[int, typer.Option(min=1, help="Exo views.")] = 4,
    frames: Annotated[int, typer.Option(min=1, help="RGB frames, 4k + 1.")] = 9,
    size: Annotated[int, typer.Option(min=16, help="Rows and columns of a frame.")] = 256,
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that share a global batch.")] = 1,
    memory_gb: Annotated[float, typer.Option(min=0, help="Of one GPU, in 10^9 bytes.")] = 141,
    tflops: Annotated[float, typer.Option(min=0, help="Of one GPU, in matrix products.")] = 790,
    parallel: Parallel = "ddp",
    as_json: AsJson = False,
) -> None:
    """Say what an experiment trains, and what it takes: parameters, FLOPs, memory, step time.

    No weights are loaded; numbers follow from shapes alone.
    """
    from exo2ego.training.describe import Machine
    from exo2ego.training.describe import describe as count
    from exo2ego.training.experiment_file import load_experiment
    from stores.schema import ClipShape

    about = count(
        load_experiment(experiment, overrides or ()),
        clip=ClipShape(views=views, frames=frames, hw=(size, size)),
        wan_spec=wan,
        machine=Machine(gpus, memory_gb, tflops, parallel),
    )
    tell(about if as_json else about.words, as_json=as_json)


@app.command()
def encode_first_frames(
    store: Store,
    align: Annotated[Path | None, typer.Option(help="Run of the stage align.")] = None,
    source: Annotated[
        Literal["align", "ground-truth", "exo", "none"],
        typer.Option("--from", help="Where first frames come from: see docs/experiments.md."),
    ] = "align",
    view: Annotated[int, typer.Option(min=0, help="With --from exo: which view.")] = 0,
    vae: Vae = PUBLISHED,
    fill: Annotated[
        Literal["decode", "grey", "zeros"],
        typer.Option(help="What follows the first frame: see docs/experiments.md."),
    ] = "decode",
    allow_other_store: AllowOtherStore = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make every clip's first ego frame, by EgoExo-Align or else, and keep it beside the store.

    MultiExoCon, PoseInj, VAWAN and sampling take these frames as their image condition.
    """
    from exo2ego.training.first_frame_sources import frame_maker, frame_source
    from exo2ego.training.first_frames import encode_first_frames as make

    maker = frame_maker(frame_source(source, view), align, allow_other_store=allow_other_store)
    report = make(
        opened(store),
        maker,
        vae_spec=vae,
        fill=fill,
        device=chosen_device(device),
        track=drawn,
    )
    tell(report, as_json=as_json)


@app.command()
def sample(
    store: Store,
    checkpoint: Annotated[Path, typer.Option(help="Run of a stage; align: every frame by itself.")],
    out: Annotated[Path, typer.Option(help="Folder for videos and manifest.")],
    evaluation_set: SetOption = None,
    split: SplitOption = None,
    clip: ClipIds = None,
    limit: Limit = None,
    views: ShownViews = None,
    camera: CameraFile = None,
    align: AlignAnew = None,
    wan: Wan = None,
    vae: Vae = PUBLISHED,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps (paper: Table 8).")] = 40,
    guidance: Annotated[float, typer.Option(min=1, help="1 turns guidance off (Table 8).")] = 3.5,
    shift: Annotated[float, typer.Option(min=1, help="Shift of the noise levels (Table 8).")] = 5.0,
    seed: Annotated[int, typer.Option(help="Each clip's noise depends on it and the id.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Clips that are solved together.")] = 1,
    shard: ShardOption = None,
    weights: Weights = "full",
    offload: Offload = False,
    ema: Averages = False,
    allow_other_store: AllowOtherStore = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make the ego videos: one mp4 a clip, and one beside the exo views and the truth.

    On several GPUs: start it with torchrun, or once for each --shard, into one folder.
    """
    from exo2ego.evaluation.clip_choice import ClipChoice
    from exo2ego.evaluation.sample import open_samples
    from exo2ego.model.flow import SamplerSettings
    from exo2ego.model.wan_memory import MemorySettings

    opened_store = opened(store)
    samples = open_samples(
        opened_store,
        checkpoint,
        out,
        wan_spec=wan,
        vae_spec=vae,
        clips=ClipChoice(evaluation_set, split, tuple(clip or ()), limit),
        scene=asked_scene(opened_store, views, camera),
        align_run=align,
        sampler=SamplerSettings(steps=steps, guidance=guidance, shift=shift),
        seed=seed,
        memory=MemorySettings(base=weights, offload="group" if offload else "none"),
        ema=ema,
        batch=batch,
        shard=asked_shard(shard),
        allow_other_store=allow_other_store,
        device=own_device(device),
    )
    tell(samples.plan() if dry_run else samples.fill(drawn), as_json=as_json)


def asked_scene(store: Any, views: str | None, camera: Path | None) -> Any:
    """The exo views and the path of the ego camera that the options name."""
    from exo2ego.evaluation.camera_path import read_camera_path
    from exo2ego.evaluation.scene import Scene

    if views and not all(word.strip().isdigit() for word in views.split(",")):
        raise typer.BadParameter("--views takes numbers: 0,2")
    numbers = tuple(int(word) for word in views.split(",")) if views else None
    frames = store.recipe.clips.frames
    return Scene(numbers, read_camera_path(camera, frames) if camera else None)


def asked_shard(shard: str | None) -> Any:
    """The share of the clips that --shard names, else torchrun's environment, else all."""
    import os

    from exo2ego.evaluation.shards import parse_shard, shard_of_environment

    return parse_shard(shard) if shard else shard_of_environment(os.environ)


def own_device(device: str) -> str:
    """The device's name; for a process of torchrun `auto` is the GPU of its own."""
    import os

    found, local = chosen_device(device), os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "auto" and found == "cuda" and local else found


@app.command()
def baseline(
    store: Store,
    method: Annotated[
        Literal["mean-frame", "exo-view", "frozen-first", "foundation"],
        typer.Option(help="What to show; Align on every frame: `sample` of an align run."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for videos and manifest.")],
    view: Annotated[
        str | None, typer.Option(help="exo-view: its number, or `best`, an oracle [best].")
    ] = None,
    first_frames: Annotated[
        str | None, typer.Option(help="frozen-first, foundation: which of several, by digest.")
    ] = None,
    wan: Annotated[
        str | None, typer.Option(help="foundation: a folder, a hub id, `mini` or `tiny`.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="foundation: solver steps [40, Table 8].")
    ] = None,
    shift: Annotated[
        float | None, typer.Option(help="foundation: shift of the noise levels [5, Table 8].")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="foundation: of the noise [0].")] = None,
    evaluation_set: SetOption = None,
    split: SplitOption = None,
    clip: ClipIds = None,
    limit: Limit = None,
    vae: Vae = PUBLISHED,
    shard: ShardOption = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make the videos of a baseline of which nothing is trained: they are scored as samples are.

    The mean ego frame of the training split; an exo view; a first frame, held; or what Wan alone
    makes of that frame (given an exo view's, it shows Wan's view bias: paper, section 6).
    """
    from exo2ego.evaluation.baselines import baseline_settings, open_baseline
    from exo2ego.evaluation.clip_choice import ClipChoice

    number = int(view) if view and view.isdigit() else view
    samples = open_baseline(
        opened(store),
        baseline_settings(
            method,
            view=number,
            first_frames=first_frames,
            wan=wan,
            steps=steps,
            shift=shift,
            seed=seed,
        ),
        out,
        vae_spec=vae,
        clips=ClipChoice(evaluation_set, split, tuple(clip or ()), limit),
        shard=asked_shard(shard),
        device=own_device(device),
        track=drawn,
    )
    tell(samples.fill(drawn), as_json=as_json)


@app.command()
def bias(
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder for videos, bias.json and bias.png.")],
    wan: Annotated[
        str,
        typer.Option(
            help="Wan2.2-I2V-A14B, all of it: a diffusers folder, a hub id, or `tiny` (random)."
        ),
    ] = PUBLISHED,
    prompts: Annotated[
        Path | None, typer.Option(help="TOML with `general` and `ego` prompts [shipped ones].")
    ] = None,
    view: Annotated[int, typer.Option(help="Exo view whose first frame is given.")] = 0,
    evaluation_set: SetOption = None,
    split: SplitOption = None,
    clip: ClipIds = None,
    limit: Limit = None,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps (paper: Table 8).")] = 40,
    guidance: Annotated[float, typer.Option(min=1, help="1 turns guidance off (Table 8).")] = 3.5,
    seed: Annotated[int, typer.Option(help="Each clip's noise depends on it and the id.")] = 0,
    alexnet: AlexNet = None,
    offload: Annotated[
        bool, typer.Option("--offload", help="Keep on the GPU the part that is running alone.")
    ] = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what stock Wan makes of exo first frames: does it leave their view when told to?

    Two families of prompts, general ones and such that ask for the ego view (paper, section 6).
    """
    from exo2ego.evaluation.bias.probe import open_bias
    from exo2ego.evaluation.bias.prompts import read_prompts
    from exo2ego.evaluation.clip_choice import ClipChoice

    probe = open_bias(
        opened(store),
        wan,
        out,
        prompts=read_prompts(prompts),
        clips=ClipChoice(evaluation_set, split, tuple(clip or ()), limit),
        view=view,
        steps=steps,
        guidance=guidance,
        seed=seed,
        trunk=alexnet,
        offload=offload,
        device=chosen_device(device),
    )
    if dry_run:
        tell(probe.plan(), as_json=as_json)
        return
    found = probe.run(drawn)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    show_bias(found)
    typer.echo(f"written: {out / 'bias.json'}, {out / 'bias.png'}")


def show_bias(report: Any) -> None:
    """Prints each family's means with their intervals: 1 is the given frame, -1 the truth."""
    measures = {"view_bias": "first frame", "view_bias_pixels": "by pixels"}
    measures |= {"last_view_bias": "last frame", "last_view_bias_pixels": "by pixels"}
    rows = [
        [name, str(of.videos), *(_score_cell(of, of.intervals, key) for key in measures)]
        for name, of in report.families.items()
    ]
    columns = ["prompts", "videos", *measures.values()]
    show_table("view bias: 1 the given exo frame, -1 the ego truth", columns, rows)


@app.command()
def evaluate(
    store: Store,
    samples: Annotated[Path, typer.Option(help="Folder that `sample` wrote.")],
    evaluation_set: Annotated[
        str | None, typer.Option("--set", help="test-1 or test-all [what was sampled].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON to write, and the .parquet beside it [scores.json].")
    ] = None,
    alexnet: AlexNet = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score samples against the truth: PSNR, SSIM, LPIPS and more, a frame, clip, take, category.

    Writes scores.json and, a row a frame, scores.parquet beside the samples. Without AlexNet's
    weights LPIPS is "not measured". docs/evaluation.md says what each number is.
    """
    from exo2ego.evaluation.clip_choice import ClipChoice
    from exo2ego.evaluation.evaluate import open_evaluation

    evaluation = open_evaluation(
        opened(store),
        samples,
        clips=ClipChoice(evaluation_set) if evaluation_set else None,
        trunk=alexnet,
        device=chosen_device(device),
    )
    if dry_run:
        tell(evaluation.plan(), as_json=as_json)
        return
    where = out or samples / "scores.json"
    scores = evaluation.run(where, drawn)
    if as_json:
        typer.echo(scores.model_dump_json(indent=2))
        return
    show_scores(scores)
    typer.echo(f"written: {where}, {where.with_suffix('.parquet').name}")
    if scores.missing:
        some = ", ".join(scores.missing[:5])
        typer.secho(f"without a video: {len(scores.missing)} clips, {some}", err=True, fg="red")


def show_scores(scores: Any) -> None:
    """Prints the means of each category and of all takes, with their intervals."""
    groups = {**scores.categories, "overall": scores.overall}
    tables = {
        "means over takes, 95 % intervals": {
            "psnr": "PSNR (dB)",
            "ssim": "SSIM",
            "lpips": "LPIPS",
        },
        "first frame: 1 an exo view, -1 the truth": {
            "view_bias": "view bias",
            "view_bias_pixels": "by pixels",
        },
        "camera motion against the truth": {
            "timing_error_frames": "timing (frames)",
            "motion_agreement": "agreement",
            "motion_on_time": "on time",
            "motion_lateness": "lateness",
        },
        "sharpness against the truth": {"sharpness_log2": "sharpness (log2)"},
    }
    for title, measures in tables.items():
        rows = [
            [name, *(_score_cell(score, scores.intervals[name], key) for key in measures)]
            for name, score in groups.items()
        ]
        show_table(title, ["category", *measures.values()], rows)


@app.command()
def tables(
    results: Annotated[
        list[Path] | None, typer.Argument(help="What `evaluate` wrote: JSON files, or folders.")
    ] = None,
    form: Annotated[
        Literal["markdown", "latex", "html"], typer.Option("--format", help="How to print them.")
    ] = "markdown",
    table: Annotated[
        list[int] | None, typer.Option(min=1, max=6, help="Only this one; repeatable [1 to 6].")
    ] = None,
) -> None:
    """Print the paper's Tables 1 to 6, each cell beside what was measured here.

    Which row a result belongs to follows from the experiments that made it. What the paper says of
    its tables is computed again, from its cells and from ours.
    """
    from exo2ego.evaluation.tables.forms import FORMS
    from exo2ego.evaluation.tables.page import tables_page

    typer.echo(FORMS[form](tables_page(results or [], table or [])), nl=False)


@app.command()
def report(
    result: Annotated[Path, typer.Argument(help="Folder of samples that `evaluate` has scored.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second one of the same clips, to compare.")
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    store: Annotated[
        str | None, typer.Option(help="The store: finds fast motion in the true videos [not].")
    ] = None,
    most_mb: Annotated[float, typer.Option(min=0, help="Of videos in the page.")] = 25.0,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page on a result, or on two and what differs between them.

    Scores with intervals, worst and best clips with their videos, and the failure modes of the
    paper's section 11. It opens offline.
    """
    from exo2ego.evaluation.report.page import write_report

    written = write_report(
        [result, other] if other else [result],
        out,
        store=opened(store) if store else None,
        most_megabytes=most_mb,
        track=drawn,
    )
    tell(written, as_json=as_json)


@app.command()
def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            help="table1 to table6, or the miniature world's (docs/mini.md): mini, mini-views, "
            "mini-architectures, mini-architectures-vawan, mini-poses, mini-rays."
        ),
    ],
    store: Annotated[list[str], typer.Option(help="A store; repeatable: one for each category.")],
    out: Annotated[Path, typer.Option(help="Folder for runs, samples and the table.")],
    wan: Annotated[
        str, typer.Option(help="Wan2.2-I2V-A14B: a diffusers folder, a hub id, `mini` or `tiny`.")
    ] = PUBLISHED,
    vae: Vae = PUBLISHED,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for every training, stage:key=value for a stage's."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps (paper: Table 8).")] = 40,
    clips: Annotated[
        str | None, typer.Option("--clips", help="Evaluation set: test-1 or test-all [test-1].")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="mini...: of every generator.")] = 3,
    alexnet: AlexNet = None,
    tflops: Annotated[float, typer.Option(min=0, help="Of one GPU, for the hours.")] = 790,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the commands, with what is there; do nothing.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Make a table of the paper: list the runs it needs, do those that are missing, print it.

    Rows share runs. It can be stopped at any time, and goes on when run again.
    """
    from exo2ego.evaluation.reproduce.settings import Ways
    from exo2ego.evaluation.reproduce.tables import plan_reproduction
    from exo2ego.evaluation.tables.markdown import markdown
    from exo2ego.training.describe import Machine
    from stores.atomic import write_whole

    ways = Ways(
        wan,
        vae,
        tuple(setting or ()),
        solver_steps=steps,
        evaluation_set=clips,
        device=device,
        alexnet=alexnet,
        machine=Machine(tflops=tflops),
    )
    planned = plan_reproduction(table, {name: opened(name) for name in store}, out, ways, seeds)
    show_plan(planned.steps, tflops)
    if not dry_run:
        run_plan(planned.steps)
        text = markdown(planned.sections())
        write_whole(out / f"{table}.md", text.encode())
        typer.echo(f"\n{text}", nl=False)


def run_plan(plan: Any) -> None:
    """Runs what is left of the steps; ends with the code of the first that fails."""
    from exo2ego.evaluation.reproduce.step import STOPPED, run_steps

    code = run_steps(plan, run_shown)
    if code == STOPPED:
        raise KeyboardInterrupt  # the message and code of everything that is stopped
    if code:
        raise typer.Exit(code)


def show_plan(plan: Any, tflops: float) -> None:
    """Prints the steps with what is there, and their commands."""
    hours = [step.hours_left for step in plan]
    rows = [
        [
            *(str(number), step.kind, step.name, f"{step.done():,} of {step.total:,} {step.unit}"),
            "" if left is None else f"{left:.3g}",
        ]
        for number, (step, left) in enumerate(zip(plan, hours, strict=True), start=1)
    ]
    title = "what is there, and GPU hours that are left"
    show_table(title, ["", "step", "of", "there", "hours"], rows, words=("step", "of"))
    for number, step in enumerate(plan, start=1):
        typer.echo(f"{number:>3}  exo2ego {' '.join(step.words())}")
    total = sum(left or 0 for left in hours)
    typer.echo(
        f"Training: {total:.3g} GPU hours at the least, an estimate: what `describe` counts, at "
        f"{tflops:g} TFLOP/s. `exo2ego sample --dry-run` times a clip."
    )


def run_shown(step: Any) -> int:
    """Runs a step's command as if typed; its exit code."""
    words = step.words()
    typer.secho(f"\nexo2ego {' '.join(words)}", bold=True)
    return typer.main.get_command(app).main(args=words, standalone_mode=False) or 0


@app.command("export")
def export_run(
    run: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option(help="Folder or, for a LoRA, FILE.safetensors.")],
    form: Annotated[
        Literal["peft", "comfyui", "merged"],
        typer.Option("--format", help="LoRA for diffusers, for ComfyUI, or all of it in Wan."),
    ] = "peft",
    dtype: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(help="Type of the weights [as trained; merged: as Wan was frozen]."),
    ] = None,
    ema: Averages = False,
    wan: Wan = None,
    as_json: AsJson = False,
) -> None:
    """Write what a run trained for other programs: LoRA and the rest, or a merged Wan.

    What no LoRA holds (cross-attention, exo tokens, PoseInj) lies beside it in exo2ego.safetensors.
    """
    from exo2ego.training.export import export

    tell(export(run, out, form=form, dtype=dtype, wan_spec=wan, ema=ema), as_json=as_json)


@app.command("audit")
def audit_run(
    run: Annotated[Path, typer.Argument(help="A run, or one of its checkpoints.")],
    store: Annotated[
        str | None,
        typer.Option(help="The store: to compute the order of clips again and to find Align."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what was trained on what, in which order, resumed or not; exit code 1 if files disagree.

    Follows poseinj to its multiexocon and, with the store, to the Align of its first frames.
    """
    from exo2ego.training.audit import audit

    found = audit(run, opened(store) if store else None, track=drawn)
    tell(found if as_json else str(found), as_json=as_json)
    if found.problems:
        raise typer.Exit(1)


@study_app.command("build")
def build_study(
    ours: Annotated[Path, typer.Option(help="Samples of the method that is tested.")],
    baseline: Annotated[Path, typer.Option(help="Samples of the one it is compared with.")],
    store: Store,
    out: Annotated[Path, typer.Option(help="Folder for the study; it must not be there yet.")],
    per_category: Annotated[int, typer.Option(min=1, help="Samples a category (paper: 25).")] = 25,
    seed: Annotated[int, typer.Option(help="Of the choice of clips; of nothing blinded.")] = 0,
    intersect: Annotated[
        bool, typer.Option("--intersect", help="Take the clips that both have, and leave others.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a blinded set of rows: the true video, and both methods' side by side."""
    from exo2ego.evaluation.study.build import build

    report = build(
        ours,
        baseline,
        opened(store),
        out,
        per_category=per_category,
        seed=seed,
        intersect=intersect,
        track=drawn,
    )
    tell(report, as_json=as_json)


@study_app.command("invite")
def invite_participants(
    study: StudyArgument,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="New participants.")] = 10,
    url: Annotated[
        str, typer.Option(help="Where participants reach the server.")
    ] = "http://127.0.0.1:8765",
    as_json: AsJson = False,
) -> None:
    """Print new personal links, one a line; whoever has a link votes by it."""
    from exo2ego.evaluation.study.serve import invite

    links = invite(study, count, url)
    tell({"links": links} if as_json else "\n".join(links), as_json=as_json)


@study_app.command("serve")
def serve_study(
    study: StudyArgument,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
) -> None:
    """Let participants vote by their links, until Ctrl-C; every vote is saved at once."""
    from exo2ego.evaluation.study.serve import serve

    def ready(address: str) -> None:
        typer.echo(f"{address} serves {study}. Stop with Ctrl-C; links: `exo2ego study invite`.")

    serve(study, host=host, port=port, ready=ready)


@study_app.command("score")
def score_study(
    study: StudyArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for the results [the study's].")] = None,
    only_submitted: Annotated[
        bool, typer.Option("--only-submitted", help="Leave out who has not submitted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Unblind the votes: preference by category, with intervals, and agreement.

    Writes study-scores.json and votes.csv.
    """
    from exo2ego.evaluation.study.score import score
    from exo2ego.evaluation.study.score_table import (
        COUNTS,
        SCORES,
        agreement_lines,
        count_rows,
        score_rows,
    )

    scores = score(study, out=out, only_submitted=only_submitted)
    if as_json:
        typer.echo(scores.model_dump_json(indent=2))
        return
    show_table("votes", COUNTS, count_rows(scores))
    show_table("preference for ours", SCORES, score_rows(scores))
    typer.echo("\n".join(agreement_lines(scores)))
    typer.echo(f"written: {(out or study) / 'study-scores.json'} and votes.csv")


@store_app.command()
def info(store: StoreArgument, as_json: AsJson = False) -> None:
    """Say what a store holds: hash, clips, recipe, arrays, derived arrays."""
    from stores.zarr_store import open_store

    tell(open_store(store).info(), as_json=as_json)


@store_app.command()
def verify(store: StoreArgument, as_json: AsJson = False) -> None:
    """Read and hash everything again; exit code 1 if a clip is damaged, and say which."""
    from stores.verify import verify_store

    report = verify_store(opened(store), track=drawn)
    tell(report, as_json=as_json)
    if report.damaged:
        raise typer.Exit(1)


@store_app.command()
def repair(
    store: StoreArgument,
    root: Annotated[
        Path | None, typer.Option(help="The dataset's folder; without it only rays are made.")
    ] = None,
    vae: Vae = PUBLISHED,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Verify, and make what is damaged again: in place, or as a child version; it says which.

    Exit code 1 if clips stay damaged, since their videos cannot be read.
    """
    from pipeline.repair import repair as mend

    device = chosen_device(device)
    report = mend(store, root, vae_spec=vae, device=device, track=drawn)
    tell(report, as_json=as_json)
    if report.failed:
        raise typer.Exit(1)


@store_app.command()
def log(store: StoreArgument, as_json: AsJson = False) -> None:
    """List the versions of a store, newest first: clips added, changed, removed, and tags."""
    from stores.history import log as versions_of

    entries = [dataclasses.asdict(entry) for entry in versions_of(store)]
    if as_json:
        tell({"versions": entries}, as_json=True)
        return
    columns = ["clips", "added", "changed", "removed", "when", "command"]
    rows = [[e["hash"][:12], *(str(e[c]) for c in columns), ", ".join(e["tags"])] for e in entries]
    show_table("versions", ["hash", *columns, "tags"], rows)


@store_app.command("diff")
def diff_stores(a: StoreArgument, b: StoreArgument, as_json: AsJson = False) -> None:
    """Compare two stores or versions; exit code 1 if they do not hold the same."""
    from stores.history import diff as compare

    found = compare(a, b)
    tell(found, as_json=as_json)
    if not found.is_same:
        raise typer.Exit(1)


@store_app.command()
def tag(
    store: StoreArgument,
    name: Annotated[str, typer.Argument(help="STORE@NAME then opens the version.")],
    delete: Annotated[bool, typer.Option("--delete", help="Take the name away again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name a version for good: HEAD's, or that of STORE@HASH."""
    from stores.history import tag as name_version
    from stores.history import untag

    version = untag(store, name) if delete else name_version(store, name)
    tell({"tag": name, "deleted" if delete else "hash": version}, as_json=as_json)


@store_app.command()
def gc(
    store: Annotated[str, typer.Argument(help="The store.")],
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    drop_versions: Annotated[
        bool, typer.Option("--drop-versions", help="Also versions that no HEAD or tag leads to.")
    ] = False,
    drop_unfinished: Annotated[
        bool, typer.Option("--drop-unfinished", help="Also what a stopped encode has finished.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what no version of a store names, and remove it if you say so."""
    from stores.garbage import gc as collect
    from stores.place import place

    where = place(store)
    also = {"drop_versions": drop_versions, "drop_unfinished": drop_unfinished}
    found = collect(where, dry_run=True, **also)
    if found.found and (yes or (not as_json and _agreed(found))):
        found = collect(where, dry_run=False, **also)
    tell(found, as_json=as_json)


def _agreed(found: Any) -> bool:
    for item in found.found:
        typer.echo(f"{item.bytes:>15,}  {item.kind}: {item.path}")
    return typer.confirm(f"Remove these {found.bytes:,} bytes?")


@store_app.command()
def fork(
    store: StoreArgument,
    new: Annotated[str, typer.Argument(help="Folder or URL of the new, empty store.")],
    change: Annotated[list[str], typer.Option("--set", help="Field of the recipe: clips.stride=2")],
    as_json: AsJson = False,
) -> None:
    """Start a new store with a recipe that differs, and remember where it came from."""
    from stores.fork import fork as start
    from stores.place import place

    split = [setting.partition("=") for setting in change]
    tell(start(store, place(new), {name: value for name, _, value in split}), as_json=as_json)


@store_app.command("export")
def export_store(
    store: StoreArgument,
    out: Annotated[str, typer.Option(help="Folder or URL for the tar shards.")],
    container: Annotated[
        Literal["webdataset"], typer.Option("--format", help="What to write.")
    ] = "webdataset",
    clips_per_tar: Annotated[int, typer.Option(min=1, help="Clips a tar.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Write one version as WebDataset tar shards, which open and train like the store itself."""
    from stores.place import place
    from stores.tar_store import export_tar

    report = export_tar(opened(store), place(out), clips_per_tar=clips_per_tar, track=drawn)
    tell({"format": container, **dataclasses.asdict(report)}, as_json=as_json)


@store_app.command("import")
def import_store(
    folder: Annotated[str, typer.Argument(help="What `store export` wrote: a folder or a URL.")],
    store: Annotated[str, typer.Option(help="Store to make, of the same hash.")],
    as_json: AsJson = False,
) -> None:
    """Make a store of tar shards, every array hashed again; the hash is the same."""
    from stores.place import place
    from stores.tar_store import import_tar

    found = import_tar(folder, place(store), track=drawn)
    tell({"store": store, "hash": found}, as_json=as_json)


@clips_app.command()
def show(clips: Annotated[Path, typer.Argument(help="A clip index.")], as_json: AsJson = False):
    """Say what a clip index holds: format, recipe, digest, clips."""
    from stores.clip_list import describe_clips

    tell(describe_clips(clips), as_json=as_json)


@clips_app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A clip index.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Compare two clip indexes; exit code 1 if they are not the same list."""
    from stores.clip_list import diff_clips

    found = diff_clips(a, b)
    tell(found, as_json=as_json)
    if not found.is_same:
        raise typer.Exit(1)


@clips_app.command()
def export(
    clips: Annotated[Path, typer.Argument(help="A clip index.")],
    csv: Annotated[Path, typer.Option(help="Table to write, a line a clip.")],
    as_json: AsJson = False,
) -> None:
    """Write a clip index as a table that a spreadsheet opens."""
    from stores.clip_list import export_csv

    tell({"written": str(csv), "clips": export_csv(clips, csv)}, as_json=as_json)


@experiments_app.command("list")
def list_shipped(as_json: AsJson = False) -> None:
    """List the experiments that come with the package, and what each says over the defaults."""
    from exo2ego.training.experiment_listing import list_experiments

    lines = [dataclasses.asdict(line) for line in list_experiments()]
    if as_json:
        tell({"experiments": lines}, as_json=True)
        return
    rows = [
        [
            line["name"],
            line["stage"],
            line["digest"][:12],
            f"{line['about']}\n{_said(line['said'])}",
        ]
        for line in lines
    ]
    columns = ["name", "stage", "digest", "what it is"]
    show_table("experiments", columns, rows, words=tuple(columns))


def _said(said: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in said.items())


@experiments_app.command("show")
def show_experiment(
    experiment: ExperimentArgument, setting: Setting = None, as_json: AsJson = False
) -> None:
    """Say everything that an experiment decides: each key, its value, and where it comes from."""
    from exo2ego.training.experiment_file import load_experiment
    from exo2ego.training.experiment_listing import experiment_values

    loaded = load_experiment(experiment, tuple(setting or ()))
    values = [dataclasses.asdict(value) for value in experiment_values(loaded)]
    if as_json:
        tell({"experiment": experiment, "digest": loaded.digest, "values": values}, as_json=True)
        return
    columns = ["key", "value", "from", "what it is, and its source"]
    rows = [
        [v["key"], str(v["value"]), "default" if v["is_default"] else "experiment", v["about"]]
        for v in values
    ]
    show_table(f"{experiment}, digest {loaded.digest[:12]}", columns, rows, words=tuple(columns))


@experiments_app.command("diff")
def diff_experiments(a: ExperimentArgument, b: ExperimentArgument, as_json: AsJson = False) -> None:
    """Compare two experiments key by key; exit code 1 if they do not train the same."""
    from exo2ego.training.experiment_file import load_experiment
    from exo2ego.training.experiment_listing import differences

    found = differences(load_experiment(a), load_experiment(b))
    if as_json:
        tell(found, as_json=True)
    else:
        rows = [[key, str(one), str(two)] for key, (one, two) in found.differences.items()]
        show_table(f"{len(rows)} keys differ", ["key", a, b], rows, words=(a, b))
    if not found.is_same:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Argument(help="Folder for everything that the demo makes.")],
    full: Annotated[
        bool, typer.Option("--full", help="Train the stages from the foundation model: hours.")
    ] = False,
    takes: Annotated[int, typer.Option(min=8, help="Simulated takes: four train, four test.")] = 8,
) -> None:
    """Run the whole path on a simulated world, with small weights of our own, on any machine.

    Simulate, ingest, encode, train all three stages, sample, evaluate, report. Each stage goes on
    from the weights that come with this package (docs/mini.md), or, with --full, is trained from
    the small foundation model alone. Run again, the demo goes on where it was stopped.
    """
    claim_demo_folder(out, {"takes": takes, "full": full, "format": 2})
    root, clips, at = out / "ego-exo", out / "clips.parquet", str(out / "latents.store")
    runs = {stage: out / "runs" / stage for stage in ("align", "multiexocon", "poseinj")}
    samples = {name: out / "samples" / name for name in ("poseinj", *DEMO_BASELINES)}

    def train_demo(stage: str, parent: Path | None = None) -> None:
        train(
            stage,
            at,
            runs[stage],
            experiment=f"mini-{stage}",
            setting=None if full else list(DEMO_SETTINGS),
            wan="mini" if stage == "multiexocon" else None,
            parent=parent,
            begin_with=None if full else Path("mini") / stage,
            resume=True,
        )

    def compare() -> None:
        for name in DEMO_BASELINES:
            baseline(at, name, samples[name], vae="mini")

    def score() -> None:
        for folder in samples.values():
            evaluate(at, folder)

    steps = {
        "simulate": lambda: simulate(root, takes, 1.6, seed=404, height=128, splits="train,test"),
        "ingest": lambda: ingest(root, out=clips, size=64, window_step=6),
        "encode-latents": lambda: encode_clips(clips, at, vae="mini"),
        "store verify": lambda: verify(at),
        "train --stage align": lambda: train_demo("align"),
        "encode-first-frames": lambda: encode_first_frames(at, runs["align"], vae="mini"),
        "train --stage multiexocon": lambda: train_demo("multiexocon"),
        "train --stage poseinj": lambda: train_demo("poseinj", runs["multiexocon"]),
        "sample": lambda: sample(
            at, runs["poseinj"], samples["poseinj"], vae="mini", steps=20, guidance=1, batch=4
        ),
        "baseline": compare,
        "evaluate": score,
        "report": lambda: report(samples["poseinj"], out=out / "report.html", store=at),
    }
    for number, (command, run) in enumerate(steps.items(), start=1):
        typer.secho(f"\n[{number}/{len(steps)}] exo2ego {command}", bold=True)
        run()
    show_demo(samples, out / "report.html")


DEMO_BASELINES = ("mean-frame", "exo-view", "frozen-first")
"""What every generated video should beat."""
DEMO_SETTINGS = (
    "optimiser.steps=50", "optimiser.warmup_steps=10", "optimiser.lr=1e-4", "held_out.every=0",
    "batch.global_batch=4", "batch.micro_batch=4",
)  # fmt: skip
"""Choice: enough to see a loss and a checkpoint; the weights stay about what they are."""


def show_demo(samples: dict[str, Path], page: Path) -> None:
    """Tells the scores of the generated videos beside the baselines', and where to look."""
    import orjson

    scores = {
        name: orjson.loads((at / "scores.json").read_bytes())["overall"]
        for name, at in samples.items()
    }
    rows = [[name, f"{of['psnr']:.2f}", f"{of['ssim']:.3f}"] for name, of in scores.items()]
    show_table("Test clips of takes that nothing was trained on", ["", "PSNR", "SSIM"], rows)
    typer.secho(f"\nLook at {page}, and at these, beside the exo views and the truth:", bold=True)
    for video in sorted(samples["poseinj"].glob("*.mp4")):
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


def _score_cell(score: Any, intervals: dict[str, Any], measure: str) -> str:
    value = getattr(score, measure)
    if isinstance(value, str):
        return value
    ends = intervals[measure]
    known = not isinstance(ends.low, str)
    return f"{value:.4f}" + (f"\n{ends.low:.4f} to {ends.high:.4f}" if known else "")


if __name__ == "__main__":
    app()
