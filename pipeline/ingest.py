"""Verb `ingest`: Ego-Exo4D's root -> the clip index, and a table of what is left out and why."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.clips import pose_gaps, usable_frames, windows
from pipeline.egoexo4d import EgoExo4D, Take
from pipeline.rejects import Reject, TakeRejected, write_rejects
from pipeline.takes import CATEGORIES, CategoryRule, TakeEntry, read_splits
from stores.errors import UserFault
from stores.index import ClipIndex, ClipRecipe, ClipRow, write_index
from stores.progress import Track, silent

READERS = 4
"""Takes read at once: opening files waits more than it works."""
SPLITS = ("train", "val", "test")
Counts = Mapping[str, Mapping[str, int]]


class IngestFault(UserFault, ValueError):
    """A category or split that is asked for and does not exist."""


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

    @property
    def reasons(self) -> dict[str, int]:
        """Rejects by reason, most frequent first."""
        return dict(Counter(reject.reason for reject in self.rejects).most_common())


def ingest(
    root: Path,
    out: Path,
    *,
    recipe: ClipRecipe,
    categories: tuple[str, ...] | None = None,
    splits: tuple[str, ...] | None = None,
    category_by: CategoryRule = "id",
    track: Track = silent,
) -> IngestReport:
    """Writes the clip index to `out` and rejects.parquet next to it; reads headers, no frames.

    `categories` None are the paper's four. A take that cannot be used is a row of the rejects and
    never stops the run. Raises DatasetFault if `root` is not Ego-Exo4D's."""
    dataset = EgoExo4D(root, category_by=category_by)
    entries = dataset.takes()
    wanted = _wanted("categories", categories, CATEGORIES, {take.category for take in entries})
    wanted_splits = _wanted("splits", splits, SPLITS, set(SPLITS))
    ours, others = _parted(entries, lambda take: take.category in wanted or take.record is None)
    chosen, unasked = _parted(ours, lambda take: take.split in wanted_splits or bool(take.fault))
    rows: list[ClipRow] = []
    rejects = _absent_takes(root, entries)
    for clips, left_out in _read(dataset, chosen, recipe, track):
        rows += clips
        rejects += left_out
    rows.sort(key=lambda row: row.clip_id)
    index = ClipIndex(str(root.resolve()), recipe, tuple(rows))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_rejects(out.with_name("rejects.parquet"), rejects)
    write_index(out, index)
    firsts = {row.take_uid: row for row in rows}.values()
    return IngestReport(
        index=out,
        digest=index.digest,
        takes=len(firsts),
        clips=len(rows),
        takes_of=_by_category_and_split(firsts),
        clips_of=_by_category_and_split(rows),
        other_categories=dict(Counter(take.category for take in others)),
        other_splits=dict(Counter(take.split for take in unasked)),
        rejects=tuple(sorted(rejects)),
    )


def _read(
    dataset: EgoExo4D, entries: list[TakeEntry], recipe: ClipRecipe, track: Track
) -> Iterator[tuple[list[ClipRow], list[Reject]]]:
    """Clips and rejects of each take, in the order of `entries`, however threads race."""

    def read(entry: TakeEntry) -> tuple[list[ClipRow], list[Reject]]:
        try:
            take = dataset.load(entry, recipe)
        except TakeRejected as why:
            return [], [Reject(entry.take_name, entry.take_uid, "", why.reason, why.detail)]
        return _clips(take, recipe)

    with ThreadPoolExecutor(READERS) as pool:
        yield from track(pool.map(read, entries), total=len(entries), what="read", unit="takes")


def _clips(take: Take, recipe: ClipRecipe) -> tuple[list[ClipRow], list[Reject]]:
    clips, rejects = windows(take, recipe), pose_gaps(take, recipe)
    if not clips and not rejects:
        first, past = usable_frames(take)
        detail = f"frames {first} to {past} of {take.frame_count}, a clip spans {recipe.span}"
        rejects = [Reject(take.take_name, take.take_uid, "", "too_short", detail)]
    return clips, rejects


def _parted(
    entries: Iterable[TakeEntry], belongs: Callable[[TakeEntry], bool]
) -> tuple[list[TakeEntry], list[TakeEntry]]:
    """Those that belong, and the others."""
    parts: tuple[list[TakeEntry], list[TakeEntry]] = ([], [])
    for entry in entries:
        parts[not belongs(entry)].append(entry)
    return parts


def _absent_takes(root: Path, entries: list[TakeEntry]) -> list[Reject]:
    known = {take.take_uid for take in entries}
    return [
        Reject("", uid, "", "split_without_take", f"splits.json: {split}")
        for uid, split in read_splits(root).items()
        if uid not in known
    ]


def _wanted(
    what: str, asked: tuple[str, ...] | None, usual: tuple[str, ...], there: Collection[str]
) -> tuple[str, ...]:
    """What was asked for, or the usual; refuses a name that means nothing here."""
    unknown = sorted(set(asked or ()) - set(usual) - set(there))
    if unknown:
        raise IngestFault(
            f"There are no such {what}.",
            where=what,
            expected=", ".join(sorted({*usual, *there})),
            got=", ".join(unknown),
            fix=f"Ask for {what} of that list.",
        )
    return usual if asked is None else asked


def _by_category_and_split(rows: Iterable[ClipRow]) -> Counts:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        of_category = counts.setdefault(row.category, {})
        of_category[row.split] = of_category.get(row.split, 0) + 1
    return {category: dict(sorted(counts[category].items())) for category in sorted(counts)}
