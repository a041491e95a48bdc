"""What to fetch before `ingest`: commands for Ego-Exo4D and for Wan2.2, and their bytes.

Sizes of whole parts are those of the dataset's own table (docs.ego-exo4d-data.org/download, v2);
what some takes weigh of it is estimated by their share of all takes' seconds. How the downloader
filters is read from its source (facebookresearch/Ego4d, ego4d/internal/download/).
"""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from pipeline.dataset import TakeEntry
from pipeline.takes import CATEGORIES, SPLITS, CategoryRule, DatasetFault, read_takes
from stores.errors import UserFault

PART_BYTES = {
    "metadata": 46_000_000,
    "annotations": 10_533_000_000,
    "captures": 43_618_000_000,
    "downscaled_takes/448": 438_556_000_000,
    "takes": 10_553_486_000_000,
    "take_trajectory": 509_503_000_000,
}
"""Whole parts of release v2, by the documentation's table of parts (GB of 10^9 bytes)."""
RELEASE_TAKES, RELEASE_HOURS = 5035, 221.26
"""Of release v2, by the README of facebookresearch/Ego4d: hours of the ego videos."""
UIDS_A_COMMAND = 1000
"""A uid has 36 characters; Linux takes 128 KiB an argument and 2 MiB in all."""
_PARAMETERS_WAN, _PARAMETERS_VAE = 14_288_901_184, 126_892_531
WAN_REPOSITORY = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
WAN_BYTES = {
    "transformer_2": 4 * _PARAMETERS_WAN,
    "vae": 4 * _PARAMETERS_VAE,
    "scheduler": 1000,
}
"""The low-noise expert (57.15 GB), the VAE and the scheduler's few settings: parameters in single
precision, which the published shards' total of 57.15 GB agrees with. The other expert and the text
encoder are not needed."""
Videos = Literal["448", "full"]


class DownloadFault(UserFault, ValueError):
    """A choice of takes that leaves nothing to fetch."""


@dataclass(frozen=True)
class DownloadStep:
    """One command, and what it brings."""

    what: str
    command: str
    bytes: int
    is_estimate: bool
    """False if somebody counted the bytes."""
    basis: str
    """Where the number comes from."""


@dataclass(frozen=True)
class DownloadPlan:
    """Everything to fetch, in order."""

    takes: int
    takes_of: dict[str, int]
    """By category and split, as in `bike/train`."""
    hours: float
    """Of the takes, from duration_sec in takes.json."""
    dataset: tuple[DownloadStep, ...]
    weights: tuple[DownloadStep, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """The plan as a shell script: what is no command is a comment."""
        lines = [f"# {self.takes} takes, {self.hours:.1f} hours"]
        lines += [f"#   {label}: {count}" for label, count in self.takes_of.items()]
        lines += [f"# {note}" for note in self.notes]
        for step in (*self.dataset, *self.weights):
            about = "about " if step.is_estimate else ""
            lines += ["", f"# {step.what}: {about}{_size(step.bytes)} ({step.basis})", step.command]
        return "\n".join(lines)


def download_plan(
    root: Path,
    *,
    categories: tuple[str, ...] = CATEGORIES,
    splits: tuple[str, ...] = SPLITS,
    category_by: CategoryRule = "id",
    videos: Videos = "448",
) -> DownloadPlan:
    """What to fetch into `root` for the takes of these categories and splits.

    Takes are known only from the metadata: without takes.json in `root` the plan is the commands
    that bring it, and has no takes. Raises DownloadFault if no take is of that kind."""
    first = _metadata_steps(root)
    try:
        entries = read_takes(root, category_by)
    except DatasetFault:
        again = "Run the two commands, then ask again: which takes to fetch is in what they bring."
        return DownloadPlan(0, {}, 0.0, first, _weights(), (again,))
    usable = [take for take in entries if take.fault is None]
    chosen = [take for take in usable if any(map(take.is_of, categories)) and take.split in splits]
    if not chosen:
        raise DownloadFault(
            "No take is of these categories and splits.",
            where=root / "takes.json",
            expected=", ".join(sorted({take.category for take in usable})),
            got=f"{', '.join(categories)} in {', '.join(splits)}",
            fix="Ask for categories of that list.",
        )
    facts = _facts(root)
    seconds = sum(facts.seconds(take) for take in chosen)
    share = seconds / max(seconds, facts.all_seconds)
    return DownloadPlan(
        takes=len(chosen),
        takes_of=dict(sorted(Counter(f"{take.category}/{take.split}" for take in chosen).items())),
        hours=seconds / 3600,
        dataset=(*first, *_take_steps(root, facts, chosen, videos, share)),
        weights=_weights(),
        notes=_NOTES,
    )


_NOTES = (
    "Access to Ego-Exo4D needs a signed licence and `aws configure`; the keys last 14 days.",
    "--uids leaves out every file whose uid is not listed, takes.json and splits.json among them:",
    "they are fetched first, by commands without it. Captures have uids of their own.",
    "--benchmarks camera_pose leaves out the other annotations, and no file that has no benchmark.",
    "Bytes of single takes are not published: they are shares of a whole part, by seconds.",
    "The downloader compares sizes only: fetch again with --force what ingest calls damaged.",
)


@dataclass(frozen=True)
class _Facts:
    """What takes.json says of takes and the reader does not need."""

    seconds_of: dict[str, float]
    capture_of: dict[str, str]

    @property
    def all_seconds(self) -> float:
        """Of all takes, dropped ones too: the parts' sizes are of a whole release."""
        return sum(self.seconds_of.values())

    def seconds(self, take: TakeEntry) -> float:
        """Length of a take; the release's mean where takes.json has none."""
        return self.seconds_of.get(take.take_uid) or RELEASE_HOURS * 3600 / RELEASE_TAKES


def _facts(root: Path) -> _Facts:
    plain: list[dict[str, Any]] = [
        entry for entry in orjson.loads((root / "takes.json").read_bytes()) if "take_uid" in entry
    ]
    captures = {entry["take_uid"]: entry.get("capture_uid") for entry in plain}
    seconds = {entry["take_uid"]: entry.get("duration_sec") for entry in plain}
    return _Facts(
        {uid: float(number) for uid, number in seconds.items() if number},
        {uid: capture for uid, capture in captures.items() if capture},
    )


def _metadata_steps(root: Path) -> tuple[DownloadStep, ...]:
    return (
        _step(root, "metadata", PART_BYTES["metadata"], ["metadata"], basis="table of parts"),
        _step(
            root,
            "splits and camera poses of all takes",
            PART_BYTES["annotations"],
            ["annotations"],
            "--benchmarks",
            "camera_pose",
            basis="at most: all annotations; what the poses alone weigh is not published",
        ),
    )


def _take_steps(
    root: Path, facts: _Facts, chosen: list[TakeEntry], videos: Videos, share: float
) -> list[DownloadStep]:
    part = "downscaled_takes/448" if videos == "448" else "takes"
    uids = sorted(take.take_uid for take in chosen)
    captures = sorted({facts.capture_of[uid] for uid in uids if uid in facts.capture_of})
    weights = {"take_trajectory": "trajectories and calibrations", part: "videos"}
    steps = []
    for name, what in weights.items():
        steps += _by_uids(root, what, [name], uids, share)
    all_captures = len(set(facts.capture_of.values()))
    of_captures = len(captures) / max(1, all_captures)
    steps += _by_uids(root, "timesync of the captures", ["captures"], captures, of_captures)
    return steps


def _by_uids(
    root: Path, what: str, parts: list[str], uids: list[str], share: float
) -> list[DownloadStep]:
    total = sum(PART_BYTES[part] for part in parts) * share
    groups = [uids[at : at + UIDS_A_COMMAND] for at in range(0, len(uids), UIDS_A_COMMAND)]
    unit = "captures" if parts == ["captures"] else "seconds"
    basis = f"{share:.1%} of the release's {unit}; the part has {_size(PART_BYTES[parts[0]])}"
    return [
        _step(
            root,
            what if len(groups) == 1 else f"{what}, {number} of {len(groups)}",
            round(total * len(group) / len(uids)),
            parts,
            "--uids",
            *group,
            basis=basis,
        )
        for number, group in enumerate(groups, start=1)
    ]


def _step(
    root: Path, what: str, size: int, parts: Collection[str], *filters: str, basis: str
) -> DownloadStep:
    command = shlex.join(["egoexo", "-o", str(root), "--parts", *parts, *filters, "-y"])
    return DownloadStep(what, command, size, basis != "table of parts", basis)


def _weights() -> tuple[DownloadStep, ...]:
    total = sum(WAN_BYTES.values())
    patterns: Iterable[str] = [word for name in WAN_BYTES for word in ("--include", f"{name}/*")]
    command = ["hf", "download", WAN_REPOSITORY, *patterns]
    sizes = ", ".join(f"{name} {_size(size)}" for name, size in WAN_BYTES.items())
    basis = f"parameters x 4 bytes: {sizes}"
    return (DownloadStep("Wan2.2, what is used of it", shlex.join(command), total, True, basis),)


def _size(number: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number} bytes"
