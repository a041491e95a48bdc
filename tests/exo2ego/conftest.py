"""A small store, made by the real writer, and the runs of all stages that were trained on it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from exo2ego.evaluation.manifest import SampleSettings
from exo2ego.evaluation.origin import Origin
from exo2ego.evaluation.scores import Interval, Score, Scores
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.vae import load_codec
from exo2ego.training.checkpoint import WanOrigin
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.first_frame_sources import Predicted, frame_maker, frame_source
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.lineage import Trained
from exo2ego.training.trainer import train
from stores.index import CameraRow, ClipRecipe, ClipRow
from stores.reading import Store
from stores.schema import ARRAYS
from stores.version import StoreRecipe, VaeRecipe
from stores.zarr_store import commit, create_store, open_store, stored_clips, write_shard

RECIPE = ClipRecipe(frames=5, views=3, hw=(32, 48))
TAKES = {  # take: (category, split, clips)
    "cmu_bike01_1": ("Bike", "train", 3),
    "nus_covidtest_2": ("Covid Test", "train", 2),
    "cmu_bike02_1": ("Bike", "test", 2),
    "cmu_bike02_3": ("Bike", "test", 1),
    "nus_covidtest_9": ("Covid Test", "test", 1),
}
TINY = {
    "align": ["align.width=32", "align.blocks=1", "align.heads=2", "align.head_width=16"],
    "multiexocon": ["lora.rank=3", "lora.alpha=3"],
    "poseinj": ["pose.latent_width=6", "pose.token_width=10"],
    "vawan": [
        "vawan.views=3",
        "vawan.lora.rank=3",
        "vawan.lora.alpha=3",
        "vawan.pose.name=ac3d",
        "vawan.pose.width=24",
        "vawan.pose.latent_width=6",
    ],
}
"""What makes each stage's experiment small."""


def camera(cam_id: str, poses: int = 1) -> CameraRow:
    pose = np.tile(np.eye(4), (poses, 1, 1))
    pose[:, 0, 3] = 0.1 * np.arange(poses)  # metres to the right, frame by frame
    return CameraRow(
        cam_id, f"{cam_id}.mp4", "pinhole", (75.0, 75.0, 24.0, 16.0), (32, 48), 0, pose
    )


def make_rows() -> list[ClipRow]:
    rows = []
    for take, (category, split, clips) in TAKES.items():
        for number in range(clips):
            start = 36 * number
            sets = (
                () if split != "test" else ("test-1", "test-all") if not number else ("test-all",)
            )
            rows.append(
                ClipRow(
                    clip_id=f"{take}-f{start:06d}",
                    take_name=take,
                    take_uid=f"uid-{take}",
                    capture_name=take[:-2],
                    participant_uid="7",
                    category=category,
                    split=split,
                    frames=tuple(range(start, start + RECIPE.span, RECIPE.stride)),
                    ego=camera("aria01", RECIPE.frames),
                    exos=tuple(camera(f"cam0{view + 1}") for view in range(RECIPE.views)),
                    sets=sets,
                )
            )
    return rows


def random_arrays(clip: ClipRow, seed: int) -> dict[str, np.ndarray]:
    """Every array of a clip: noise for latents and rays, smooth pictures for frames."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, spec in ARRAYS.items():
        shape = spec.row_shape(RECIPE.shape)
        if spec.dtype == "uint8":
            ramp = np.linspace(0, 160, shape[-2])[:, None] + rng.integers(0, 90, 3)
            pictures = np.broadcast_to(ramp, shape).copy()
            if name == "exo_frames":  # "v T H W 3": no view is like another
                pictures *= np.linspace(0.4, 1, shape[0])[:, None, None, None, None]
            arrays[name] = pictures.astype(np.uint8)
        else:
            arrays[name] = rng.standard_normal(shape).astype(np.float16)
    for view in range(len(clip.present), len(clip.exos)):
        arrays["exo_latents"][:, view] = np.nan
        arrays["align_rays"][view] = np.nan
    return arrays


@pytest.fixture(scope="session")
def clip_rows() -> list[ClipRow]:
    """The index rows of the small store's clips."""
    return make_rows()


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a store of these clips by the real writer; frames are kept for the test split."""
    vae = VaeRecipe(**load_codec("tiny").recipe())

    def make(clips: Sequence[ClipRow], seed: int = 0, without: Sequence[str] = ()) -> Path:
        path = tmp_path_factory.mktemp("store") / "tiny.store"
        create_store(path, StoreRecipe(clips=RECIPE, vae=vae), clips_per_shard=4)
        stored = []
        for shard, split in enumerate(("train", "test", "val")):
            own = [clip for clip in clips if clip.split == split]
            rows = [random_arrays(clip, seed + 100 * shard + n) for n, clip in enumerate(own)]
            kept = [name for name, spec in ARRAYS.items() if split == "test" or spec.every_clip]
            kept = [name for name in kept if name not in without]
            for first in range(0, len(own), 4):
                part = slice(first, first + 4)
                arrays = {name: [row[name] for row in rows[part]] for name in kept}
                number = 2 * first // 4 + shard if split != "val" else 100 + first // 4
                done = write_shard(path, number, own[part], arrays)
                stored += stored_clips(done, {clip.clip_id: clip for clip in own}, 4)
        commit(path, stored, command="test", index_digest="0" * 64)
        return path

    return make


@pytest.fixture(scope="session")
def store_path(make_store: Callable[..., Path], clip_rows: list[ClipRow]) -> Iterator[Path]:
    """A store of nine clips, of which nobody changes anything (see `own_store`)."""
    path = make_store(clip_rows)
    before = sorted(path.rglob("*"))
    yield path
    assert sorted(path.rglob("*")) == before, "a test wrote to the store that all tests share"


@pytest.fixture(scope="session")
def store(store_path: Path) -> Store:
    """The same, open."""
    return open_store(store_path, derive=CLIP_CAMERAS)


@pytest.fixture
def own_store(store_path: Path, tmp_path: Path) -> Store:
    """A copy of the small store, to be written to."""
    shutil.copytree(store_path, tmp_path / "own.store")
    return open_store(tmp_path / "own.store", derive=CLIP_CAMERAS)


@pytest.fixture(scope="session")
def watched_store(make_store: Callable[..., Path], clip_rows: list[ClipRow]) -> Store:
    """One with three clips of the val split, too, and with first frames out of the truth."""
    val = [
        replace(clip_rows[0], clip_id=f"nus_cpr_1-f{n:06d}", take_name="nus_cpr_1", split="val")
        for n in range(3)
    ]
    opened = open_store(make_store([*clip_rows, *val]), derive=CLIP_CAMERAS)
    encode_first_frames(opened, frame_maker(frame_source("ground-truth", 0), None), vae_spec="tiny")
    return opened


@pytest.fixture(scope="session")
def tiny_experiment() -> Callable[..., Experiment]:
    """The stage's default experiment made small, with more overrides on top."""

    def make(stage: str, *overrides: str) -> Experiment:
        small = ["precision=fp32", "batch.global_batch=4", "batch.micro_batch=2"]
        steps = ["optimiser.steps=4", "optimiser.warmup_steps=2", "checkpoint_every=2"]
        return load_experiment(stage, [*small, *steps, *TINY[stage], *overrides])

    return make


@pytest.fixture(scope="session")
def make_wan() -> Callable[..., WanTransformer3DModel]:
    """Makes a small Wan of the real class with random weights, text projection and all."""

    def make(**changes: int) -> WanTransformer3DModel:
        sizes = {"num_attention_heads": 4, "attention_head_dim": 12, "ffn_dim": 64, "freq_dim": 20}
        sizes |= {"in_channels": 36, "out_channels": 16, "text_dim": 32, "num_layers": 2}
        with initial_weights_from(torch.Generator().manual_seed(4)):
            return WanTransformer3DModel(**sizes | changes)

    return make


@pytest.fixture(scope="session")
def wan_256(
    make_wan: Callable[..., WanTransformer3DModel], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Folder of one of width 256, in which norms and such do not weigh more than in the 14B."""
    folder = tmp_path_factory.mktemp("wan")
    wan = make_wan(attention_head_dim=64, freq_dim=64, ffn_dim=692, num_layers=3)
    wan.save_pretrained(folder / "transformer_2")
    return str(folder)


@pytest.fixture(scope="session")
def align_run(
    store: Store,
    tiny_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished run of stage align."""
    out = tmp_path_factory.mktemp("align") / "run"
    train("align", store, out, tiny_experiment("align"))
    return out


@pytest.fixture(scope="session")
def framed_store(
    store_path: Path, align_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """The store with Align's first frames."""
    path = tmp_path_factory.mktemp("framed") / "tiny.store"
    shutil.copytree(store_path, path)
    opened = open_store(path, derive=CLIP_CAMERAS)
    encode_first_frames(opened, Predicted(align_run), vae_spec="tiny")
    return opened


@pytest.fixture(scope="session")
def runs(
    framed_store: Store,
    align_run: Path,
    tiny_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A finished run of every stage; poseinj's is on top of multiexocon's."""
    folder = tmp_path_factory.mktemp("runs")
    first, second, baseline = (folder / name for name in ("multiexocon", "poseinj", "vawan"))
    train("multiexocon", framed_store, first, tiny_experiment("multiexocon"), wan_spec="tiny")
    train("poseinj", framed_store, second, tiny_experiment("poseinj"), parent=first)
    train("vawan", framed_store, baseline, tiny_experiment("vawan"), wan_spec="tiny")
    return {"align": align_run, "multiexocon": first, "poseinj": second, "vawan": baseline}


Numbers = tuple[float, float, float | str]


@pytest.fixture(scope="session")
def trained() -> Callable[..., Trained]:
    """Makes a run of a shipped experiment, finished if no step is said, as samples know it."""

    def make(name: str, *overrides: str, step: int | None = None, store: str = "5") -> Trained:
        experiment = load_experiment(name, overrides)
        steps = experiment.optimiser.steps if step is None else step
        plain = experiment.model_dump(mode="json")
        return Trained(experiment=plain, step=steps, store_hash=store * 64)

    return make


@pytest.fixture(scope="session")
def write_result() -> Callable[..., Path]:
    """Writes a scores.json as `evaluate` does, of what an experiment made; returns its folder."""

    def write(
        folder: Path,
        run: Trained,
        categories: dict[str, Numbers],
        *,
        parents: tuple[Trained, ...] = (),
        align: Trained | None = None,
        clips: Sequence[str] = ("a", "b"),
        takes: dict[str, float] | None = None,
        missing: Sequence[str] = (),
        settings: dict[str, object] | None = None,
        provenance: dict[str, object] | None = None,
    ) -> Path:
        wan = WanOrigin(spec="tiny", fingerprint="f" * 64)
        origin = Origin(run=run, parents=parents, align=align, wan=wan)
        made = SampleSettings(
            store_hash=run.store_hash,
            stage=str(run.experiment["stage"]),
            step=run.step,
            weights_digest="7" * 64,
            first_frames="1" * 64,
            evaluation_set="test-1",
            sampler=SamplerSettings(),
            seed=0,
            origin=origin,
            device="cpu",
        ).model_copy(update=settings or {})
        scores = {
            name: Score(psnr=psnr, ssim=ssim, lpips=lpips)
            for name, (psnr, ssim, lpips) in categories.items()
        }
        one = next(iter(scores.values()))
        ends = Interval(takes=2, low="not measured", high="not measured")
        about = {
            "samples": made.model_dump(mode="json"),
            "clips": {"evaluation_set": "test-1", "split": None},
            "method": {"psnr": "10 log10", "ssim": "11x11", "lpips": "AlexNet", "means": "take"},
        }
        found = Scores(
            overall=one,
            categories=scores,
            takes={take: one.model_copy(update={"psnr": db}) for take, db in (takes or {}).items()},
            clips=dict.fromkeys(clips, one),
            intervals={name: {"psnr": ends} for name in scores},
            missing=list(missing),
            provenance=about | (provenance or {}),
        )
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(found.model_dump_json())
        return folder

    return write
