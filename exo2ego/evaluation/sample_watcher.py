"""Samples of a run while it trains: a few clips' videos, again and again as it learns.

RUN/samples/step-00001000/      as `sample` writes them: exo views, truth and generated
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from exo2ego.evaluation.clip_choice import USUAL_SET, ClipChoice
from exo2ego.evaluation.manifest import MANIFEST, read_manifest
from exo2ego.evaluation.sample import GENERATOR, MAKERS, sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.wan_memory import MemorySettings
from exo2ego.training.first_frames import store_codec
from exo2ego.training.held_out import SPLIT, evenly
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.nan_guard import TrainingFault
from exo2ego.training.watching import Watcher
from stores.progress import Item, Track
from stores.reading import Store
from stores.version import ABSENT_ROW

SAMPLES = "samples"


class SampleWatcher(Watcher):
    """Samples `clips` clips at the first checkpoint at or after every so many steps.

    Clips are those of the val split, evenly over its ids; of the first evaluation set if val has
    none, or not what the stage's sampling reads (Align's: exo frames). The checkpoint's model is
    loaded beside the one that trains, on a GPU layer by layer, and gone afterwards. A run that a
    signal ends waits for no more samples than the one that is being made. Raises StoreFault for
    another VAE than the store's, TrainingFault for a store without such clips.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        *,
        every: int,
        clips: int,
        vae_spec: str,
        sampler: SamplerSettings | None = None,
        device: str = "cpu",
    ):
        self._store, self._every, self._vae_spec = store, every, vae_spec
        self._sampler, self._device = sampler, device
        self.choice = _choice(store, stage, clips)
        self._run, self._done = Path(), 0
        store_codec(store, vae_spec, "cpu")  # another VAE is told before the first step

    def begin(self, run: Path, first: int, last: int) -> None:
        self._run = run
        whole = [folder for folder in (run / SAMPLES).glob("step-*") if self._is_whole(folder)]
        steps = [read_manifest(folder).settings.step for folder in whole]
        self._done = max((step for step in steps if step <= first), default=0)

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        if stop.by or step // self._every == self._done // self._every:
            return
        on_cuda = torch.device(self._device).type == "cuda"
        with torch.random.fork_rng():
            report = sample(
                self._store,
                checkpoint,
                self._run / SAMPLES / checkpoint.name,
                vae_spec=self._vae_spec,
                clips=self.choice,
                sampler=self._sampler,
                memory=MemorySettings(offload="group" if on_cuda else "none"),
                device=self._device,
                track=_until(stop),
            )
        if on_cuda:
            torch.cuda.empty_cache()
        if report.clips == len(self.choice.clip_ids):
            self._done = step

    def _is_whole(self, folder: Path) -> bool:
        """Whether all clips have been sampled there."""
        there = read_manifest(folder).clips if (folder / MANIFEST).exists() else {}
        return set(there) >= set(self.choice.clip_ids)


def _until(stop: StopRequest) -> Track:
    """Passes clips on until a signal asks the run to end."""

    def track(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        for item in items:
            if stop.by:
                return
            yield item

    return track


def _choice(store: Store, stage: str, most: int) -> ClipChoice:
    """The clips to sample."""
    needs = MAKERS.get(stage, GENERATOR).needs
    for choice in (ClipChoice(split=SPLIT), ClipChoice(evaluation_set=USUAL_SET)):
        found = store.select(split=choice.split, evaluation_set=choice.set_meant)
        rows = [store.row(clip_id) for clip_id in evenly(found, most)]
        if rows and all(row.rows[need] != ABSENT_ROW for row in rows for need in needs):
            return replace(choice, clip_ids=tuple(row.clip_id for row in rows))
    raise TrainingFault(
        "There is no clip to sample while training.",
        where=f"{store.path}@{store.hash[:12]}",
        expected=f"clips of split {SPLIT}, or of evaluation set {USUAL_SET}"
        + "".join(f", with {need}" for need in needs),
        got=f"splits {sorted(store.info()['splits'])}",
        fix="Leave out --sample-every, or encode such takes (`--ego-frames SPLIT` keeps frames).",
    )
