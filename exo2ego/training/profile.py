"""Where the time of a step goes: data, forward, backward, optimiser; and how fast data could be.

RUN/profile.json        Profile; nothing else is written, and nothing is learned
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar, cast

import orjson
import torch

from exo2ego.training.checkpoint import read_state
from exo2ego.training.checkpoint_faults import newest_whole
from exo2ego.training.experiment import Experiment
from exo2ego.training.lineage import Source
from exo2ego.training.losses import StepMetrics
from exo2ego.training.refusals import check_clips, check_stage
from exo2ego.training.run import Place, Run, open_run
from exo2ego.training.trainer import next_step
from stores.atomic import disk_faults, write_whole
from stores.progress import Track, silent

PROFILE = "profile.json"
WARM_UP = 3
"""Steps before the clock starts: memory is taken, kernels are chosen, the disk's cache fills."""
Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Profile:
    """Means over the measured steps, in seconds a step; the parts add up to the whole."""

    stage: str
    device: str
    steps: int
    global_batch: int
    micro_batch: int
    step_s: float
    data_s: float
    """Waiting for the batch, which is read while the step before it is at work."""
    forward_s: float
    """Noise, model and loss of all micro-batches."""
    backward_s: float
    """Gradients and their clipping, recomputed activations and the batch's way to the device."""
    optimiser_s: float
    clips_per_s: float
    stream_clips_per_s: float
    """Of the clip stream by itself, on this machine as it is now."""
    store_hash: str
    experiment_digest: str

    @property
    def parts(self) -> dict[str, float]:
        """Seconds a step, by the part's name."""
        return {
            "data": self.data_s,
            "forward": self.forward_s,
            "backward": self.backward_s,
            "optimiser": self.optimiser_s,
        }

    @property
    def headroom(self) -> float:
        """How many times faster than training the stream alone is."""
        return self.stream_clips_per_s / self.clips_per_s


def profile(
    stage: str,
    source: Source,
    out: Path,
    experiment: Experiment,
    *,
    steps: int,
    allow_other_store: bool = False,
    device: str = "cpu",
    track: Track = silent,
) -> Profile:
    """Times so many steps of the experiment as `train` takes them, and writes `out`/profile.json.

    Weights change in memory alone: a run that lies in `out` stays as it is, and what it was given
    need not be said again. Raises what `train` raises.
    """
    check_stage(stage, experiment)
    newest = newest_whole(out)
    whole = source.completed(newest, read_state(newest) if newest else None)
    with TemporaryDirectory(prefix="exo2ego-profile-") as aside:
        run = open_run(
            whole,
            Path(aside),
            experiment,
            Place(device=device),
            allow_other_store=allow_other_store,
        )
        with closing(run):
            check_clips(run.stream)
            found = _profile(run, steps, track)
    with disk_faults(out):
        write_whole(out / PROFILE, orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return found


class _Clock:
    """Seconds spent in functions, the device's work included."""

    def __init__(self, device: str):
        self._is_cuda = torch.device(device).type == "cuda"
        self.spent: dict[str, float] = {}

    def timed(self, part: str, function: Callable[Given, Result]) -> Callable[Given, Result]:
        """The function, whose time is added to that of its part."""

        def timed(*args: Given.args, **kwargs: Given.kwargs) -> Result:
            began = self._now()
            result = function(*args, **kwargs)
            self.spent[part] = self.spent.get(part, 0.0) + self._now() - began
            return result

        return timed

    def _now(self) -> float:
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def _profile(run: Run, steps: int, track: Track) -> Profile:
    clock, lines = _Clock(run.place.device), []
    run.stage = replace(run.stage, losses=clock.timed("forward", run.stage.losses))
    cast(Any, run.optimiser).step = clock.timed("optimiser", run.optimiser.step)
    every = range(WARM_UP + steps)
    for step in track(every, total=len(every), what="profile", unit="steps"):
        if step == WARM_UP:
            clock.spent.clear()
        lines.append(next_step(run, step))
    return _means(run, lines[WARM_UP:], clock.spent, _stream_rate(run, steps))


def _means(run: Run, lines: list[StepMetrics], spent: dict[str, float], rate: float) -> Profile:
    steps, batch = len(lines), run.experiment.batch
    data_s = sum(line.data_wait_s or 0.0 for line in lines) / steps
    work_s = sum(line.step_s or 0.0 for line in lines) / steps
    forward_s, optimiser_s = (spent.get(part, 0.0) / steps for part in ("forward", "optimiser"))
    return Profile(
        stage=run.stage.name,
        device=run.place.device,
        steps=steps,
        global_batch=batch.global_batch,
        micro_batch=batch.micro_batch,
        step_s=data_s + work_s,
        data_s=data_s,
        forward_s=forward_s,
        backward_s=work_s - forward_s - optimiser_s,
        optimiser_s=optimiser_s,
        clips_per_s=batch.global_batch / (data_s + work_s),
        stream_clips_per_s=rate,
        store_hash=run.state.store_hash,
        experiment_digest=run.state.experiment_digest,
    )


def _stream_rate(run: Run, batches: int) -> float:
    """Clips a second of the run's stream, going on where the steps ended, with nothing else to do.

    What was read ahead meanwhile does not count.
    """
    for _ in range(WARM_UP):
        next(run.stream)
    began = time.perf_counter()
    for _ in range(batches):
        next(run.stream)
    return batches * run.stream.batch_size / (time.perf_counter() - began)
