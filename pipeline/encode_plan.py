"""What an encode has to make, by clip and array: what each depends on, what the store has."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count as count_from
from itertools import groupby
from typing import Any, Literal

from exo2ego.geometry.clip_rays import CLIP_RAYS
from stores.index import CameraRow, ClipRow
from stores.journal import FinishedShard
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.version import ABSENT_ROW, StoredClip, as_stored, clip_digest

ALL_SPLITS = "all"
Rays = Literal["stored", "factored"]


@dataclass(frozen=True)
class Wish:
    """What is to be kept of the clips, beside what is kept of every one."""

    ego_frames: tuple[str, ...] = ("test",)
    """Splits that keep their frames, of the ego and of the exo views; `all` means every split."""
    rays: Rays = "stored"
    """`factored`: digests only, for rays that are made out of the cameras when they are read."""


@dataclass(frozen=True, eq=False)
class ClipWork:
    """What is to be made of one clip."""

    clip: ClipRow
    arrays: tuple[str, ...]
    """Rows to write."""
    factored: tuple[str, ...] = ()
    """Rows of which only the digest is kept."""
    kept_rows: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """By array of all exo views: the row of the store from which the unchanged views come, and
    its digest."""
    views: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By array of all exo views: those that are made anew."""

    def without(self, arrays: Iterable[str]) -> "ClipWork":
        """The work that is left once these arrays are made."""
        done = set(arrays)
        return replace(
            self,
            arrays=tuple(name for name in self.arrays if name not in done),
            factored=tuple(name for name in self.factored if name not in done),
        )


@dataclass(frozen=True)
class PlannedShard:
    """Clips that make up one shard of the same arrays, take by take."""

    number: int
    work: tuple[ClipWork, ...]


@dataclass(frozen=True)
class EncodePlan:
    """What is to do, clip by clip, and what stays as the store has it."""

    work: tuple[ClipWork, ...]
    kept: Mapping[str, StoredClip]
    """By id, clips that are made or relabelled: their new row of the index, and their old arrays
    as far as those are still right."""

    @property
    def relabelled(self) -> tuple[StoredClip, ...]:
        """Clips whose arrays all stay, but of which the index says something else."""
        made = {work.clip.clip_id for work in self.work}
        return tuple(clip for clip_id, clip in self.kept.items() if clip_id not in made)


def plan_encode(
    recipe: ClipRecipe, head: Iterable[StoredClip], rows: Iterable[ClipRow], wish: Wish
) -> EncodePlan:
    """What is to do to have these clips. Take by take, front to back.

    Choice: a clip keeps every array that it has, frames of a split that was left out this time too.
    """
    before = {clip.clip_id: clip for clip in head}
    work: list[ClipWork] = []
    kept: dict[str, StoredClip] = {}
    for row in sorted(rows, key=lambda row: (row.take_name, row.frames, row.clip_id)):
        old = before.get(row.clip_id)
        wanted = _wanted(row, old, wish)
        right = {name for name in wanted if old and _is_right(recipe, old, row, name, wish)}
        missing = [name for name in wanted if name not in right]
        if missing:
            work.append(_work(recipe, old, row, missing, wish))
        if old is None or missing or clip_digest(old) != clip_digest(row):
            rows_kept = {name: old.rows[name] for name in right} if old else {}
            digests = {name: old.digests[name] for name in right} if old else {}
            kept[row.clip_id] = as_stored(row, rows_kept, digests)
    return EncodePlan(tuple(work), kept)


def take_over(
    entries: Iterable[FinishedShard], work: Iterable[ClipWork]
) -> tuple[list[FinishedShard], list[ClipWork]]:
    """Those finished shards of which everything is wanted, and the work that is left then."""
    left = {piece.clip.clip_id: piece for piece in work}
    digests = {clip_id: clip_digest(piece.clip) for clip_id, piece in left.items()}
    taken = []
    for entry in entries:
        pieces = [left.get(clip_id) for clip_id in entry.clip_ids]
        said = tuple(digests.get(clip_id, "") for clip_id in entry.clip_ids)
        if said != entry.clip_digests or not all(p and _wants(p, entry) for p in pieces):
            continue
        taken.append(entry)
        for piece in filter(None, pieces):
            left[piece.clip.clip_id] = piece.without([*entry.digests, *entry.factored])
    return taken, [piece for piece in left.values() if piece.arrays or piece.factored]


def pack(
    work: Sequence[ClipWork], clips_per_shard: int, first_number: int
) -> tuple[PlannedShard, ...]:
    """Shards of clips with the same arrays: whole takes while they fit, long takes cut."""
    alike: dict[tuple[tuple[str, ...], ...], list[ClipWork]] = {}
    for piece in work:
        alike.setdefault((piece.arrays, piece.factored), []).append(piece)
    numbers = count_from(first_number)
    return tuple(
        PlannedShard(next(numbers), tuple(members))
        for pieces in alike.values()
        for members in _whole_takes(pieces, clips_per_shard)
    )


def ego_inputs(recipe: ClipRecipe, clip: ClipRow) -> tuple[Any, ...]:
    """All that the ego frames' bits depend on."""
    return (clip.frames, *_picture(clip.ego, lens_counts=recipe.ego_lens == "pinhole"))


def exo_inputs(recipe: ClipRecipe, clip: ClipRow) -> tuple[Any, ...]:
    """All that the exo frames' bits depend on, view by view; None where a view is absent."""
    straightens = recipe.exo_lens == "pinhole"
    return tuple(
        exo
        and (clip.frames, *_picture(exo, lens_counts=straightens and exo.lens != recipe.exo_lens))
        for exo in clip.exos
    )


def align_ray_inputs(recipe: ClipRecipe, clip: ClipRow) -> tuple[Any, ...]:
    """All that `align_rays` depend on: the first ego pose, every exo pose, maybe the ego lens."""
    poses = [exo.world_from_cam[0].tobytes() for exo in clip.present]
    return (*_ray_lens(recipe, clip.ego), clip.ego.world_from_cam[0].tobytes(), *poses)


def ego_ray_inputs(recipe: ClipRecipe, clip: ClipRow) -> tuple[Any, ...]:
    """All that `ego_rays` depend on: every ego pose, the reference's, maybe the ego lens."""
    reference = clip.present[0].world_from_cam[0].tobytes()
    return (*_ray_lens(recipe, clip.ego), clip.ego.world_from_cam.tobytes(), reference)


DEPENDS_ON: Mapping[str, Callable[[ClipRecipe, ClipRow], tuple[Any, ...]]] = {
    "exo_latents": exo_inputs,
    "ego_latents": ego_inputs,
    "align_rays": align_ray_inputs,
    "ego_rays": ego_ray_inputs,
    "ego_frames": ego_inputs,
    "exo_frames": exo_inputs,
}
"""By array: all of a clip's row of the index that its row of the array depends on."""
OF_EXO_VIEWS = frozenset(name for name, inputs in DEPENDS_ON.items() if inputs is exo_inputs)
"""Arrays that are made view by view."""


def _picture(camera: CameraRow, *, lens_counts: bool) -> tuple[Any, ...]:
    lens = (camera.lens, camera.params) if lens_counts else ()
    return (camera.video, camera.hw, camera.quarter_turns_cw, lens)


def _ray_lens(recipe: ClipRecipe, ego: CameraRow) -> tuple[Any, ...]:
    # a virtual pinhole is the recipe's own, whatever lens filmed
    raw = recipe.ego_lens == "fisheye"
    return (ego.lens, ego.params, ego.hw, ego.quarter_turns_cw) if raw else ()


def _wanted(row: ClipRow, old: StoredClip | None, wish: Wish) -> tuple[str, ...]:
    keeps = row.split in wish.ego_frames or ALL_SPLITS in wish.ego_frames
    filmed = bool(row.ego.video)
    return tuple(
        name
        for name, spec in ARRAYS.items()
        if (spec.every_clip or keeps or (old and old.digests[name]))
        and (filmed or not spec.of_ego_video)
    )


def _is_right(recipe: ClipRecipe, old: StoredClip, row: ClipRow, name: str, wish: Wish) -> bool:
    """True if the store has the clip's array, as it is wished for, from the same inputs."""
    need_not_lie = name in CLIP_RAYS and wish.rays == "factored"
    there = bool(old.digests[name]) and (need_not_lie or old.rows[name] != ABSENT_ROW)
    return there and DEPENDS_ON[name](recipe, old) == DEPENDS_ON[name](recipe, row)


def _work(
    recipe: ClipRecipe, old: StoredClip | None, row: ClipRow, missing: Sequence[str], wish: Wish
) -> ClipWork:
    apart = {name for name in missing if name in CLIP_RAYS and wish.rays == "factored"}
    kept_rows, views = {}, {}
    for name in missing:
        if name not in OF_EXO_VIEWS:
            continue
        views[name] = tuple(range(recipe.views))
        if old and old.rows[name] != ABSENT_ROW:
            pairs = zip(exo_inputs(recipe, old), exo_inputs(recipe, row), strict=True)
            views[name] = tuple(view for view, (was, now) in enumerate(pairs) if was != now)
            kept_rows[name] = old.rows[name], old.digests[name]
    arrays = tuple(name for name in missing if name not in apart)
    factored = tuple(name for name in missing if name in apart)
    return ClipWork(row, arrays, factored, kept_rows, views)


def _wants(piece: ClipWork, entry: FinishedShard) -> bool:
    """True if every array of the finished shard is still to be made for the clip.

    A row that was written will also do where its digest alone is asked for."""
    rows_wanted = {*piece.arrays, *piece.factored}
    return set(entry.digests) <= rows_wanted and set(entry.factored) <= set(piece.factored)


def _whole_takes(work: Sequence[ClipWork], clips_per_shard: int) -> Iterator[list[ClipWork]]:
    shard: list[ClipWork] = []
    for _, members in groupby(work, key=lambda piece: piece.clip.take_name):
        take = list(members)
        if shard and len(shard) + len(take) > clips_per_shard:
            yield shard
            shard = []
        while len(take) > clips_per_shard:
            yield take[:clips_per_shard]
            take = take[clips_per_shard:]
        shard = shard + take
    if shard:
        yield shard
