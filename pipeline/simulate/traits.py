"""What is particular to each take: names, ids, split, cameras, and the real set's quirks."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.simulate.scene import CATEGORIES

SPLITS = (
    "train", "val", "test", "train", "test", "train", "train", "val",
    "train", "test", "val", "train", "val", "train", "train", "test",
)  # fmt: skip
"""Split of each take, over and over: half of them train, and no category stays in one split."""
FRAMES_PER_SECOND = 30
SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Task:
    """One task of the data set's own list."""

    task_id: int
    task_name: str
    parent_task_id: int
    parent_task_name: str


TASKS = {
    "bike": (
        Task(4001, "Remove a Wheel", 4000, "Bike Repair"),
        Task(4004, "Clean and Lubricate the Chain", 4000, "Bike Repair"),
    ),
    "basketball": (
        Task(6001, "Basketball Drills - Mikan Layup", 6000, "Basketball"),
        Task(6003, "Basketball Drills - Mid-Range Jump Shooting", 6000, "Basketball"),
    ),
    "covid": (Task(2001, "Covid-19 Rapid Antigen Test", 2000, "Health"),),
    "cpr": (Task(2005, "First Aid - CPR", 2000, "Health"),),
}
"""Ids as in Ego-Exo4D's metadata.json."""
NAMES = {
    "bike": ("cmu_bike{n:02d}_2", "upenn_bike_{n:02d}_5", "georgiatech_bike_{n:02d}_10"),
    "basketball": ("unc_basketball_03-30-23_{n:02d}_34", "uniandes_basketball_{n:03d}_43"),
    "covid": ("utokyo_pcr_2001_{n:02d}_8", "sfu_covid_{n:03d}_4"),
    "cpr": ("utokyo_cpr_2005_{n:02d}_2", "nus_cpr_{n:02d}_1"),
}
"""Shapes of take names; what precedes the last underscore names the capture."""


@dataclass(frozen=True)
class TakePlan:
    """All that is decided about a take before it is drawn; depends on seed and index alone."""

    index: int
    seed: int
    """The take's own, for scene and cameras."""
    category: str
    split: str
    task: Task
    take_name: str
    take_uid: str
    capture_uid: str
    timesync_uid: str
    participant_uid: int
    frames: int
    first_row: int
    """Row of timesync.csv at which the take starts."""
    first_us: int
    """Device time of the first frame, in microseconds."""
    ego_id: str
    exo_ids: tuple[str, ...]
    unlocalised: tuple[str, ...]
    """Exo cameras whose calibration failed: quality 0, and no camera_pose."""
    flags_as_text: bool
    """is_ego is written "True" and "False", as some of the real entries have it."""
    has_task_span: bool
    has_camera_pose: bool
    """False for a take that can only be read from its trajectory, as a quarter of the real ones."""
    is_dropped: bool = False

    @property
    def capture_name(self) -> str:
        """The capture that the take was cut from."""
        return self.take_name.rsplit("_", 1)[0]

    @property
    def university(self) -> str:
        """First word of the name."""
        return self.take_name.split("_", 1)[0]

    @property
    def seconds(self) -> float:
        """Length of the take."""
        return self.frames / FRAMES_PER_SECOND


def plan_take(seed: int, index: int, frames: int, splits: tuple[str, ...] = SPLITS) -> TakePlan:
    """The plan of a take; the same whatever other takes there are.

    `splits` go round as SPLITS do, and decide nothing but the take's split.
    """
    rng = np.random.default_rng([seed, index])
    category, turn = CATEGORIES[index % len(CATEGORIES)], index // len(CATEGORIES)
    tasks, names = TASKS[category], NAMES[category]
    exo_ids, unlocalised = _exo_cameras(index)
    return TakePlan(
        index=index,
        seed=int(rng.integers(2**31)),
        category=category,
        split=splits[index % len(splits)],
        task=tasks[turn % len(tasks)],
        take_name=names[turn % len(names)].format(n=index + 1),
        take_uid=_uid(rng),
        capture_uid=_uid(rng),
        timesync_uid=_uid(rng),
        participant_uid=int(rng.integers(1, 800)),
        frames=frames,
        first_row=int(rng.integers(30, 90)),
        first_us=int(rng.integers(50_000_000, 900_000_000)),
        ego_id="aria02" if index % 8 == 1 else "aria01",
        exo_ids=exo_ids,
        unlocalised=unlocalised,
        flags_as_text=index % 3 == 2,
        has_task_span=index % 2 == 0,
        has_camera_pose=index % 8 != 5,
    )


def splits_of_fours(fours: Sequence[str]) -> tuple[str, ...]:
    """Each split four times, so that the four takes of a round, one a category, share theirs."""
    return tuple(split for split in fours for _ in CATEGORIES)


def _exo_cameras(index: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Exo ids, and those whose calibration failed. Four, or five, or odd ones."""
    four = ("cam01", "cam02", "cam03", "cam04")
    odd = {
        2: ((*four, "cam05"), ()),
        3: (("cam01", "cam03", "cam04", "cam05"), ()),
        4: (("gp01", "gp02", "gp03", "gp04"), ()),
        6: ((*four, "cam05"), ("cam03",)),
    }
    return odd.get(index % 8, (four, ()))


def _uid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


def stray_uid(seed: int) -> str:
    """A uid that the splits name and takes.json does not."""
    return _uid(np.random.default_rng([seed, 2**20]))
