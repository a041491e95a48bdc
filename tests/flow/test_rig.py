"""From a rig of one's own to a sampled video of a take whose ego camera was never filmed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from exo2ego.evaluation.picture import write_video
from exo2ego.evaluation.sample import sample
from exo2ego.geometry.camera import look_at
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.trainer import train
from pipeline.encode import encode_latents
from pipeline.ingest import ingest
from pipeline.rig import Rig
from stores.recipe import ClipRecipe
from stores.zarr_store import open_store

RECIPE = ClipRecipe(frames=5, stride=2, views=3, min_views=2, hw=(32, 48), exo_fit="pad")
FRAMES, HW = 12, (36, 64)
SMALL = [
    *("precision=fp32", "batch.global_batch=1", "batch.micro_batch=1"),
    *("optimiser.steps=1", "optimiser.warmup_steps=1", "checkpoint_every=1"),
]
TINY = {
    "align": ["align.width=32", "align.blocks=1", "align.heads=2", "align.head_width=16"],
    "multiexocon": ["lora.rank=3", "lora.alpha=3"],
}


def camera(cam_id: str, x: float, *, video: str | None, role: str = "exo") -> dict[str, Any]:
    """A pinhole camera x metres beside a table, looking at it."""
    places = [torch.tensor(p, dtype=torch.float64) for p in ((x, -1.5, 1.4), (0, 0, 0.8))]
    pose = look_at(*places, torch.tensor([0, 0, 1], dtype=torch.float64)).tolist()
    lens = {"kind": "pinhole", "params": [50, 50, 32, 18], "hw": HW, "pixel_centre": 0.5}
    pose = {"frames": dict.fromkeys(map(str, range(FRAMES)), pose)} if role == "ego" else pose
    return {
        "id": cam_id,
        "role": role,
        "video": video,
        "lens": lens,
        "pose": pose if role == "ego" else {"world_from_cam": pose},
    }


def write_rig(folder: Path) -> None:
    """A filmed take with three views to train on; one with two, without ego video, to sample."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a", "b", "c", "ego"):
        picture = random.integers(0, 255, (1, *HW, 3), np.uint8)
        write_video(folder / f"{name}.mp4", np.tile(picture, (FRAMES, 1, 1, 1)), fps=30.0)
    exos = [camera(cam, x, video=f"{cam}.mp4") for cam, x in (("a", -1.0), ("b", 0.5), ("c", 1.0))]
    filmed, not_filmed = (camera("me", 0.1, video=v, role="ego") for v in ("ego.mp4", None))
    take = {"category": "tea", "fps": 30}
    takes = [
        take | {"name": "tea_1", "split": "train", "cameras": [*exos, filmed]},
        take | {"name": "tea_2", "split": "test", "cameras": [*exos[:2], not_filmed]},
    ]
    (folder / "rig.json").write_text(json.dumps({"format": 1, "takes": takes}))


def test_a_take_that_was_not_filmed_from_the_head_gets_a_video(tmp_path: Path) -> None:
    write_rig(tmp_path / "rig")
    report = ingest(Rig(tmp_path / "rig"), tmp_path / "clips.parquet", recipe=RECIPE)
    assert report.clips_of == {"tea": {"test": 1, "train": 1}}
    encode_latents(report.index, tmp_path / "tea.store", vae_spec="tiny", workers=1)
    store, runs = open_store(tmp_path / "tea.store"), tmp_path / "runs"
    align, second = (load_experiment(stage, [*SMALL, *small]) for stage, small in TINY.items())
    train("align", store, runs / "align", align)
    encode_first_frames(store, Predicted(runs / "align"), vae_spec="tiny")
    train("multiexocon", store, runs / "multiexocon", second, wan_spec="tiny")
    sample(
        store,
        runs / "multiexocon",
        tmp_path / "out",
        vae_spec="tiny",
        sampler=SamplerSettings(steps=2),
    )
    frames = load_file(tmp_path / "out" / "tea_2-f000000.safetensors")["frames"]
    assert frames.shape == (5, *RECIPE.hw, 3)
    assert frames.float().std() > 0
    assert {"ego.mp4", "side-by-side.mp4", "strip.png"} <= {
        path.name.removeprefix("tea_2-f000000.") for path in (tmp_path / "out").iterdir()
    }
