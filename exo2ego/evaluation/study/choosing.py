"""Which clips a study shows: the same number of every category, of clips that both methods have."""

from collections.abc import Mapping, Set

import blake3

from exo2ego.evaluation.study.folder import StudyFault


def shared_clips(ours: Set[str], baseline: Set[str], *, intersect: bool) -> list[str]:
    """Clips that both methods have, sorted.

    Raises StudyFault if one has clips that the other lacks, unless `intersect`, or if they share
    none.
    """
    shared = sorted(ours & baseline)
    if shared and (intersect or ours == baseline):
        return shared
    raise StudyFault(
        "The two folders do not have samples of the same clips.",
        where="--ours and --baseline",
        expected="the same clips in both",
        got=f"{len(shared)} in both; only ours: {_some(ours - baseline)}; "
        f"only the baseline: {_some(baseline - ours)}",
        fix="Sample the missing clips"
        + (", or take the shared ones: --intersect." if shared else "."),
    )


def choose_clips(category_of: Mapping[str, str], per_category: int, seed: int) -> list[str]:
    """`per_category` clips of every category, sorted; the same for the same seed and clips.

    Raises StudyFault if a category has fewer.
    """
    categories: dict[str, list[str]] = {}
    for clip_id, category in sorted(category_of.items()):
        categories.setdefault(category, []).append(clip_id)
    counts = {name: len(clips) for name, clips in sorted(categories.items())}
    if per_category < 1 or min(counts.values()) < per_category:
        raise StudyFault(
            "A category has too few clips for this study.",
            where="--per-category",
            expected=f"1 to {min(counts.values())}",
            got=f"{per_category}; clips: {', '.join(f'{n} {c}' for n, c in counts.items())}",
            fix="Ask for fewer a category, or sample more clips with both methods.",
        )

    def drawn(clip_id: str) -> bytes:
        return blake3.blake3(f"study/{seed}/{clip_id}".encode()).digest()

    chosen = [sorted(clips, key=drawn)[:per_category] for clips in categories.values()]
    return sorted(clip_id for clips in chosen for clip_id in clips)


def _some(clips: Set[str], most: int = 3) -> str:
    named = ", ".join(sorted(clips)[:most])
    return f"{len(clips)} ({named}{', ...' if len(clips) > most else ''})" if clips else "none"
