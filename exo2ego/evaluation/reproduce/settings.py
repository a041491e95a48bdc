"""What all steps of a plan are given: a store and its folder, weights, settings, a machine."""

from dataclasses import dataclass, field
from pathlib import Path

from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.tables.published import System
from exo2ego.model.pretrained import MINI, TINY
from exo2ego.training.describe import Machine
from exo2ego.training.experiment import EXPERIMENTS, Experiment
from exo2ego.training.experiment_file import load_experiment
from stores.errors import UserFault
from stores.reading import Store

ALIGN = "align"
"""The stage that is no generator."""


class ReproduceFault(UserFault, ValueError):
    """A table that cannot be made in this way."""


@dataclass(frozen=True)
class Ways:
    """How the commands of a plan are given what they need."""

    wan: str
    vae: str
    settings: tuple[str, ...] = ()
    """`key=value` for every training, or `stage:key=value` for those of one stage."""
    solver_steps: int = 40
    guidance: float | None = None
    """None is that of `exo2ego sample`."""
    batch: int = 1
    """Clips that are solved together."""
    evaluation_set: str | None = None
    device: str = "auto"
    alexnet: Path | None = None
    machine: Machine = field(default_factory=Machine)
    """For the hours."""

    def overrides(self, stage: str) -> list[str]:
        """The settings of one stage."""
        found = []
        for setting in self.settings:
            of, colon, rest = setting.partition(":")
            if not (colon and of in EXPERIMENTS):
                found.append(setting)
            elif of == stage:
                found.append(rest)
        return found

    @property
    def counted_wan(self) -> str | None:
        """Whose configuration is counted: that of a folder, of `mini` or `tiny`, else the 14B's."""
        return self.wan if self.wan in (MINI, TINY) or Path(self.wan).is_dir() else None


@dataclass(frozen=True)
class PlannedStore:
    """One store of a plan."""

    name: str
    """As the user has given it, and as commands name it."""
    store: Store
    out: Path
    """Folder of what is made from it."""
    ways: Ways
    seed: int | None = None
    """Of generators, which have folders of their own for each; Align is trained once for all."""

    @property
    def clip_ids(self) -> list[str]:
        """The clips that are sampled and scored. Raises StoreFault if there are none."""
        return chosen_clips(self.store, ClipChoice(self.ways.evaluation_set))

    @property
    def categories(self) -> set[str]:
        """Their categories."""
        return {self.store.row(clip_id).category for clip_id in self.clip_ids}

    def run(self, system: System) -> Path:
        """Folder of a system's run."""
        has_seed = load_experiment(system.experiment).stage != ALIGN
        return self._folder("runs", self.seed if has_seed else None) / name_of(system)

    def samples(self, system: System) -> Path:
        """Folder of its samples."""
        return self._folder("samples", self.seed) / name_of(system)

    def overrides(self, stage: str) -> list[str]:
        """The settings of one stage that are not its experiment's."""
        seed = [] if self.seed is None or stage == ALIGN else [f"seed={self.seed}"]
        return [*self.ways.overrides(stage), *seed]

    def experiment(self, system: System) -> Experiment:
        """Its experiment with the settings that are told. Raises ExperimentFault."""
        stage = load_experiment(system.experiment).stage
        return load_experiment(system.experiment, self.overrides(stage))

    def _folder(self, kind: str, seed: int | None) -> Path:
        return self.out / kind / (f"seed-{seed}" if seed is not None else "")


def name_of(system: System) -> str:
    """A system as a file name."""
    return str(system).replace(" ", "-")
