"""Which clips of a store are sampled and scored: an evaluation set, a split, or by name."""

from dataclasses import dataclass

from stores.errors import StoreFault
from stores.reading import Store

USUAL_SET = "test-1"
"""One clip of each test take (docs/decisions.md)."""
TEST_SPLIT = "test"
"""The split whose clips belong to evaluation sets."""


@dataclass(frozen=True)
class ClipChoice:
    """Clips that are all of what is said here; None says nothing.

    Choice: without a set it is test-1, except for another split than test, whose clips are in no
    set: then all of the split.
    """

    evaluation_set: str | None = None
    split: str | None = None
    clip_ids: tuple[str, ...] = ()
    """Only these of them; none named: all."""
    limit: int | None = None
    """At most so many, the first by id."""

    @property
    def set_meant(self) -> str | None:
        """The evaluation set, with the usual one filled in."""
        if self.evaluation_set is None and self.split in (None, TEST_SPLIT):
            return USUAL_SET
        return self.evaluation_set


def chosen_clips(store: Store, choice: ClipChoice) -> list[str]:
    """Ids of the clips, sorted. Raises StoreFault if there are none, or not one that is named."""
    found = store.select(split=choice.split, evaluation_set=choice.set_meant)
    if not found:
        raise _no_clips(store, choice)
    if unknown := sorted(set(choice.clip_ids) - set(found)):
        raise StoreFault(
            "A clip that is named is not among those that are chosen.",
            where=f"{store.path}@{store.hash[:12]}, {choice.set_meant or choice.split}",
            expected=f"some of {len(found)} clips, such as {found[0]}",
            got=", ".join(unknown[:5]),
            fix="Name another clip, or another --set or --split.",
        )
    named = [clip for clip in found if not choice.clip_ids or clip in choice.clip_ids]
    return named[: choice.limit]


def _no_clips(store: Store, choice: ClipChoice) -> StoreFault:
    sets = sorted({name for row in store.rows for name in row.sets})
    asked = {"set": choice.set_meant, "split": choice.split}
    return StoreFault(
        "The store has no such clip.",
        where=f"{store.path}@{store.hash[:12]}",
        expected=f"sets {sets}, splits {sorted(store.info()['splits'])}",
        got=", ".join(f"{key} {value}" for key, value in asked.items() if value),
        fix="Choose another set or split, or encode takes of the test split.",
    )
