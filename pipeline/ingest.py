"""Verb `ingest`: a folder of recordings -> the clip index, and what is left out and why."""

import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset, TakeEntry
from pipeline.egoexo4d import EgoExo4D
from pipeline.ingest_journal import FinishedTake, TakeJournal, locked_journal, take_key
from pipeline.pose_notes import AgreementSummary, summary_of
from pipeline.published import PublishedReport, published_tasks
from pipeline.rejects import Reject, write_rejects
from pipeline.take_readers import TakeReader, read_all
from pipeline.take_tasks import Task
from pipeline.takes import CATEGORIES, SPLITS, CategoryRule, read_splits
from stores.errors import UserFault
from stores.index import IndexFile, TakeTable, open_index, write_takes
from stores.progress import Track, silent
from stores.recipe import ClipRecipe

MOST_COMPARED = 20
"""Takes, spread over all, whose two sources of poses are compared: a trajectory is megabytes."""
Counts = Mapping[str, Mapping[str, int]]


class IngestFault(UserFault, ValueError):
    """Something that is asked of ingest and that it cannot do."""


@dataclass(frozen=True)
class IngestReport:
    """What one ingest found, used and left out."""

    index: Path
    digest: str
    """The index's; the same wherever the data lies and however takes.json is ordered."""
    takes: int
    clips: int
    takes_of: Counts
    """Takes used, by category and split."""
    clips_of: Counts
    """Clips, by category and split."""
    other_categories: Mapping[str, int]
    """Takes of categories that were not asked for."""
    other_splits: Mapping[str, int]
    """Takes of the categories asked for, in splits that were not."""
    rejects: tuple[Reject, ...]
    takes_resumed: int
    """Takes that an interrupted run had finished, and that were not read again."""
    agreement: AgreementSummary | None
    """How well the two sources of poses agree, in a sample; None if no take of it has both."""
    published: PublishedReport | None
    """How the list compares with the published one; None if there was none."""
    seconds: float

    @property
    def reasons(self) -> dict[str, int]:
        """Rejects by reason, most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())


@dataclass
class _Tally:
    """What adds up while takes go into the index."""

    rejects: list[Reject]
    takes_of: dict[str, dict[str, int]] = field(default_factory=dict)
    clips_of: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[Mapping[str, Any]] = field(default_factory=list)
    read_now: int = 0
    finished: list[str] = field(default_factory=list)
    """Keys of the takes, in the order of their names."""

    def add(self, take: FinishedTake) -> None:
        """Counts a take in."""
        self.rejects += take.rejects
        if take.notes:
            self.notes.append(take.notes)
        if take.clips is None:
            return
        category, split = (take.clips.table[name][0].as_py() for name in ("category", "split"))
        for counts, number in ((self.takes_of, 1), (self.clips_of, len(take.clips.table))):
            of_category = counts.setdefault(category, {})
            of_category[split] = of_category.get(split, 0) + number


def ingest(
    root: Path | Dataset,
    out: Path,
    *,
    recipe: ClipRecipe | None = None,
    categories: tuple[str, ...] | None = None,
    splits: tuple[str, ...] | None = None,
    category_by: CategoryRule = "id",
    clips: Path | None = None,
    workers: int | None = None,
    track: Track = silent,
) -> IngestReport:
    """Writes the clip index to `out` and rejects.parquet next to it; reads headers, no frames.

    `root` is Ego-Exo4D's folder, or another dataset. `categories` None are the paper's four, or
    all of another dataset. `clips` is a published list: its recipe and its clips are taken, as far
    as this root gives the same. A take that cannot be used is a row of the rejects and never stops
    the run. Killed and run again it goes on where it was. `workers` None are all cores. Raises
    DatasetFault if `root` is not Ego-Exo4D's."""
    began = time.perf_counter()
    dataset = EgoExo4D(root, category_by=category_by) if isinstance(root, Path) else root
    published = _published(clips, recipe)
    recipe = published.recipe if published else recipe or ClipRecipe()
    entries = dataset.takes()
    chosen, other_categories, other_splits = _chosen(
        entries, _categories(dataset, categories, entries, published), _wanted_splits(splits)
    )
    tally = _Tally([] if published else _absent_takes(dataset, entries))
    every = math.ceil(len(chosen) / MOST_COMPARED)
    tasks = (Task(entry, None, place % every == 0) for place, entry in enumerate(chosen))
    total = len(chosen)
    if published:
        tasks, total = published_tasks(published, chosen, tally.rejects), published.count_takes()
    settings = _settings(dataset, recipe, category_by, published)
    with locked_journal(out, settings) as journal:
        reader = TakeReader(dataset, recipe, journal)
        reading = read_all(reader, _noted(tasks, tally), total=total, workers=workers)
        for was_read in track(reading, total=total, what="read", unit="takes"):
            tally.read_now += was_read
        digest = write_takes(out, str(dataset.root.resolve()), recipe, _written(journal, tally))
        write_rejects(out.with_name("rejects.parquet"), tally.rejects)
    return IngestReport(
        index=out,
        digest=digest,
        takes=_sum(tally.takes_of),
        clips=_sum(tally.clips_of),
        takes_of=_sorted(tally.takes_of),
        clips_of=_sorted(tally.clips_of),
        other_categories=other_categories,
        other_splits=other_splits,
        rejects=tuple(sorted(tally.rejects)),
        takes_resumed=len(tally.finished) - tally.read_now,
        agreement=summary_of(tally.notes),
        published=published and _compared(published, digest, tally),
        seconds=time.perf_counter() - began,
    )


def _noted(tasks: Iterable[Task], tally: _Tally) -> Iterator[Task]:
    for task in tasks:
        tally.finished.append(take_key(task.entry))
        yield task


def _written(journal: TakeJournal, tally: _Tally) -> Iterator[TakeTable]:
    """Every finished take's clips, one take in memory at a time."""
    for key in tally.finished:
        take = journal.read(key)
        tally.add(take)
        if take.clips is not None:
            yield take.clips


def _published(clips: Path | None, recipe: ClipRecipe | None) -> IndexFile | None:
    if clips is None:
        return None
    published = open_index(clips)
    if recipe is not None and recipe != published.recipe:
        theirs, mine = published.recipe.model_dump(), recipe.model_dump()
        differ = [name for name in theirs if theirs[name] != mine[name]]
        raise IngestFault(
            "A published list brings its own recipe.",
            where=clips,
            expected={name: theirs[name] for name in differ},
            got={name: mine[name] for name in differ},
            fix="Leave the recipe's options out, or make a list of your own without --clips.",
        )
    return published


def _settings(
    dataset: Dataset, recipe: ClipRecipe, rule: CategoryRule, published: IndexFile | None
) -> dict[str, Any]:
    """What the journal's takes depend on beside their own files."""
    return {
        "dataset": type(dataset).__name__,
        "root": str(dataset.root.resolve()),
        "recipe": recipe.model_dump(mode="json"),
        "category_by": rule,
        "published": published and published.digest,
    }


def _compared(published: IndexFile, digest: str, tally: _Tally) -> PublishedReport:
    return PublishedReport(
        digest=published.digest,
        clips=published.clips,
        kept=_sum(tally.clips_of),
        altered=sum(note.get("altered", 0) for note in tally.notes),
        is_same=published.digest == digest,
    )


def _chosen(
    entries: Iterable[TakeEntry], categories: Collection[str] | None, splits: Collection[str]
) -> tuple[list[TakeEntry], dict[str, int], dict[str, int]]:
    """Takes to read, and how many others there are by category and by split.

    A malformed entry may be of any category, one with a fault of any split: both are told."""
    chosen, other_categories, other_splits = [], Counter[str](), Counter[str]()
    for entry in entries:
        ours = categories is None or any(map(entry.is_of, categories))
        if not ours and entry.record is not None:
            other_categories[entry.category] += 1
        elif entry.split not in splits and not entry.fault:
            other_splits[entry.split] += 1
        else:
            chosen.append(entry)
    return chosen, dict(other_categories), dict(other_splits)


def _absent_takes(dataset: Dataset, entries: list[TakeEntry]) -> list[Reject]:
    if not isinstance(dataset, EgoExo4D):
        return []
    known = {take.take_uid for take in entries}
    return [
        Reject("", uid, "", "split_without_take", f"splits.json: {split}")
        for uid, split in read_splits(dataset.root).items()
        if uid not in known
    ]


def _categories(
    dataset: Dataset,
    asked: tuple[str, ...] | None,
    entries: Iterable[TakeEntry],
    published: IndexFile | None,
) -> tuple[str, ...] | None:
    """The categories to read; None are all. Refuses one that no take is of."""
    if asked is None:
        return CATEGORIES if isinstance(dataset, EgoExo4D) and published is None else None
    names = {entry.category for entry in entries} | set(CATEGORIES)
    kinds = {kind for entry in entries for kind in entry.kinds}
    _refuse("categories", sorted(set(asked) - names - kinds), names)
    return asked


def _wanted_splits(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    _refuse("splits", sorted(set(asked or ()) - set(SPLITS)), SPLITS)
    return SPLITS if asked is None else asked


def _refuse(what: str, unknown: list[str], there: Collection[str]) -> None:
    if unknown:
        raise IngestFault(
            f"There are no such {what}.",
            where=what,
            expected=", ".join(sorted(there)),
            got=", ".join(unknown),
            fix=f"Ask for {what} of that list.",
        )


def _sum(counts: Counts) -> int:
    return sum(sum(by_split.values()) for by_split in counts.values())


def _sorted(counts: Counts) -> Counts:
    return {category: dict(sorted(counts[category].items())) for category in sorted(counts)}
