"""How much of a step is on disk already, counted without loading anything."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from exo2ego.evaluation.manifest import MANIFEST, read_manifest
from exo2ego.evaluation.measures import MEASURES
from exo2ego.evaluation.reproduce.settings import ReproduceFault
from exo2ego.evaluation.scores import NOT_MEASURED
from exo2ego.evaluation.tables.result import SCORES
from exo2ego.training.checkpoint import CheckpointState, checkpoints, read_state
from exo2ego.training.experiment_file import settings_of
from exo2ego.training.experiment_keys import leaves
from exo2ego.training.first_frame_sources import FrameMaker, Predicted
from exo2ego.training.first_frames import FIRST_FRAMES, frames_digest
from stores.derived import finished_derived
from stores.reading import Store


def steps_done(run: Path, expected: Callable[[], Mapping[str, Any]]) -> int:
    """Steps of the run's newest checkpoint.

    `expected` says what the run must have been made with, by dotted key; None asks for nothing.
    Raises ReproduceFault if it was made otherwise: such a run is not the plan's.
    """
    state = newest(run)
    if state is None:
        return 0
    facts = settings_of(state.experiment, where=run) | {
        "store_hash": state.store_hash,
        "first_frames": state.first_frames,
        "parent": state.parent.weights_digest if state.parent else None,
    }
    _check(run, {key: value for key, value in expected().items() if value is not None}, facts)
    return state.step


def newest(run: Path) -> CheckpointState | None:
    """What the newest checkpoint of a run says of itself; None if there is none."""
    found = checkpoints(run)
    return read_state(found[-1]) if found else None


def digest_if_known(store: Store, maker: FrameMaker) -> str | None:
    """Digest of first frames; None as long as Align has no checkpoint."""
    if isinstance(maker, Predicted) and not checkpoints(maker.align_run):
        return None
    return frames_digest(store, maker)


def frames_done(store: Store, maker: FrameMaker) -> int:
    """Clips that have first frames by this maker, as it is now."""
    digest = digest_if_known(store, maker)
    return len(finished_derived(store, FIRST_FRAMES, digest)) if digest else 0


def samples_done(
    run: Path, samples: Path, clip_ids: Sequence[str], expected: Mapping[str, Any]
) -> int:
    """Clips with a video by the run as it is now.

    Raises ReproduceFault for samples of another sampler or store than `expected` says.
    """
    state = newest(run)
    if state is None:
        return 0
    return videos_done(samples, clip_ids, {**expected, "weights_digest": state.weights_digest})


def videos_done(samples: Path, clip_ids: Sequence[str], expected: Mapping[str, Any]) -> int:
    """Clips with a video. Raises ReproduceFault for a folder that was made otherwise."""
    if not (samples / MANIFEST).is_file():
        return 0
    manifest = read_manifest(samples)
    plain = dict(leaves(manifest.settings.model_dump(mode="json", exclude={"origin"})))
    _check(samples, expected, plain)
    there = [manifest.clips[clip_id] for clip_id in clip_ids if clip_id in manifest.clips]
    return sum((samples / clip.frames).is_file() for clip in there)


def scores_done(samples: Path, clip_ids: Sequence[str], *, wants_lpips: bool) -> int:
    """Clips that are scored, of samples as they are now, by every measure that there is now; none
    if LPIPS is wanted and lacks."""
    if not (samples / SCORES).is_file() or not (samples / MANIFEST).is_file():
        return 0
    scores = orjson.loads((samples / SCORES).read_bytes())
    made_of = scores["provenance"]
    if made_of["manifest_digest"] != read_manifest(samples).digest:
        return 0
    if MEASURES.keys() - made_of["method"].keys():
        return 0
    if wants_lpips and made_of["lpips_trunk"] == NOT_MEASURED:
        return 0
    return sum(clip_id in scores["clips"] for clip_id in clip_ids)


def _check(where: Path, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    """Raises ReproduceFault if something is not as expected."""
    wrong = [key for key in expected if expected[key] != got.get(key)]
    if wrong:
        raise ReproduceFault(
            "What is there was made otherwise than this plan makes it.",
            where=f"{where}, {', '.join(wrong)}",
            expected=", ".join(f"{key} = {expected[key]}" for key in wrong),
            got=", ".join(f"{key} = {got.get(key)}" for key in wrong),
            fix="Say what was said when it was made, or give another --out; or remove that folder.",
        )
