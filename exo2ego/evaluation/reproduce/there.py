"""How much of a step is on disk already, counted without loading anything."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from exo2ego.evaluation.manifest import MANIFEST, read_manifest
from exo2ego.evaluation.tables.result import SCORES
from exo2ego.training.checkpoint import checkpoints, read_state
from exo2ego.training.first_frame_sources import FrameMaker, Predicted
from exo2ego.training.first_frames import FIRST_FRAMES, frames_digest
from stores.derived import finished_derived
from stores.reading import Store


def steps_done(run: Path) -> int:
    """Steps of the run's newest checkpoint."""
    found = checkpoints(run)
    return read_state(found[-1]).step if found else 0


def digest_if_known(store: Store, maker: FrameMaker) -> str | None:
    """Digest of first frames; None as long as Align has no checkpoint."""
    if isinstance(maker, Predicted) and not checkpoints(maker.align_run):
        return None
    return frames_digest(store, maker)


def frames_done(store: Store, maker: FrameMaker) -> int:
    """Clips that have first frames by this maker, as it is now."""
    digest = digest_if_known(store, maker)
    return len(finished_derived(store, FIRST_FRAMES, digest)) if digest else 0


def samples_done(run: Path, samples: Path, clip_ids: Sequence[str]) -> int:
    """Clips with a video by the run as it is now."""
    found = checkpoints(run)
    if not found or not (samples / MANIFEST).is_file():
        return 0
    manifest = read_manifest(samples)
    if manifest.settings.weights_digest != read_state(found[-1]).weights_digest:
        return 0
    return sum(
        (samples / manifest.clips[c].frames).is_file() for c in clip_ids if c in manifest.clips
    )


def scores_done(run: Path, samples: Path, clip_ids: Sequence[str]) -> int:
    """Clips that are scored, of samples as they are now."""
    if not (samples / SCORES).is_file() or not samples_done(run, samples, clip_ids):
        return 0
    scores = orjson.loads((samples / SCORES).read_bytes())
    if scores["provenance"]["manifest_digest"] != read_manifest(samples).digest:
        return 0
    return sum(clip_id in scores["clips"] for clip_id in clip_ids)
