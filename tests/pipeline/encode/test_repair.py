"""Claims about repair: what is damaged comes back to the bit, and nothing else is touched."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline.clip_parts
from exo2ego.geometry.clip_rays import CLIP_RAYS
from pipeline.encode import encode_latents
from pipeline.encode_plan import Wish
from pipeline.repair import RepairReport, repair
from stores.errors import StoreFault
from stores.schema import ARRAYS
from stores.tar_store import export_tar
from stores.verify import verify_store
from stores.version import list_versions, read_head
from stores.zarr_store import open_store

LATENTS = ("exo_latents", "ego_latents")


@pytest.fixture
def store(takes, whole, tmp_path: Path) -> Path:
    """A copy of the encoded store, to be damaged."""
    return Path(shutil.copytree(takes.folder / "whole", tmp_path / "s"))


def bytes_of(store: Path) -> dict[str, bytes]:
    """All that lies in the store, but for the writer's own."""
    files = (path for path in store.rglob("*") if path.is_file())
    names = {str(path.relative_to(store)): path for path in files}
    return {n: path.read_bytes() for n, path in names.items() if not n.startswith("journal")}


def shards(store: Path, array: str) -> list[Path]:
    return sorted(path for path in (store / "arrays" / array / "c").rglob("*") if path.is_file())


def flip(path: Path, offset: int = 9) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(bytes(data))


def mend(store: Path, takes, **more) -> RepairReport:
    return repair(store, takes.folder, **{"vae_spec": "tiny"} | more)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", list(DAMAGES.values()), ids=list(DAMAGES))
@pytest.mark.parametrize("array", list(ARRAYS))
def test_a_damaged_shard_comes_back_byte_for_byte(
    store: Path, takes, array: str, damage: Callable[[Path], None]
) -> None:
    before = bytes_of(store)
    damage(shards(store, array)[-1])
    assert verify_store(open_store(store)).damaged
    report = mend(store, takes)
    assert bytes_of(store) == before
    assert report.hash == read_head(store)
    assert (report.rows_in_place, report.rows_anew) == (report.rows_damaged, 0)


def test_exchanged_shards_and_damage_in_many_places_come_back_at_once(store: Path, takes) -> None:
    before = bytes_of(store)
    first, second, *others = shards(store, "ego_latents")
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    flip(others[0])
    shutil.rmtree(store / "arrays" / "align_rays" / "c")
    assert mend(store, takes).failed == ()
    assert bytes_of(store) == before


def test_a_whole_store_is_left_alone(store: Path, takes) -> None:
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    report = mend(store, takes)
    assert (report.rows_damaged, report.rows_in_place, report.failed) == (0, 0, ())
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_rays_need_no_dataset_and_latents_say_that_they_do(store: Path, takes) -> None:
    before = bytes_of(store)
    flip(shards(store, "ego_rays")[0])
    assert repair(store, None, vae_spec="tiny").rows_in_place == 1
    assert bytes_of(store) == before
    flip(shards(store, "ego_latents")[0])
    with pytest.raises(StoreFault, match="videos are needed") as fault:
        repair(store, None, vae_spec="tiny")
    assert "ego_latents" in fault.value.expected and "--root" in fault.value.fix


def test_another_vae_is_refused_before_anything_is_written(store: Path, takes) -> None:
    flip(shards(store, "ego_latents")[0])
    before = bytes_of(store)
    other = open_store(store).recipe.vae.model_copy(update={"weights_digest": "ff"})
    settings = (store / "store.json").read_text()
    assert settings.count(open_store(store).recipe.vae.weights_digest) == 1
    with pytest.raises(StoreFault, match="another VAE"):
        pipeline.repair.load_checked_codec(
            open_store(store).recipe.model_copy(update={"vae": other}), "tiny", "cpu"
        )
    assert bytes_of(store) == before


def test_a_clip_whose_video_is_gone_is_named_and_the_others_come_back(
    store: Path, takes, tmp_path: Path
) -> None:
    root = tmp_path / "some"
    shutil.copytree(takes.folder / "takes", root / "takes")
    (root / "takes" / "take_a" / "cam02.mp4").unlink()
    damaged = [*shards(store, "exo_latents")]
    for path in damaged:
        path.unlink()
    report = repair(store, root, vae_spec="tiny")
    assert {failed.take_name for failed in report.failed} == {"take_a"}
    assert "cam02.mp4" in report.failed[0].reason
    left = verify_store(open_store(store))
    assert set(left.damaged_clips) == {c for failed in report.failed for c in failed.clip_ids}
    assert mend(store, takes).failed == ()
    assert verify_store(open_store(store)).damaged == ()


def test_rows_with_other_bits_become_a_child_version_and_say_so(
    store: Path, takes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # another kind of device gives other last bits; here the encoder is told to
    exact = pipeline.clip_parts.encode_frames
    monkeypatch.setattr(
        pipeline.clip_parts, "encode_frames", lambda codec, frames: _last_bit(exact(codec, frames))
    )
    old, parent = open_store(store), read_head(store)
    flip(shards(store, "ego_latents")[0])
    report = mend(store, takes)
    assert (report.rows_in_place, report.rows_anew) == (0, 1)
    assert report.hash != parent and open_store(store).version.record.parent == parent
    assert open_store(store).version.record.command == "store repair"
    now = open_store(store)
    assert verify_store(now).damaged == ()
    changed = [c for c in now.clip_ids if now.row(c).digests != old.row(c).digests]
    assert len(changed) == 1
    assert now.row(changed[0]).digests["exo_latents"] == old.row(changed[0]).digests["exo_latents"]
    assert len(list_versions(store)) == 2


def _last_bit(latents: np.ndarray) -> np.ndarray:
    other = latents.copy()
    other.view(np.uint16).flat[0] ^= 1
    return other


def test_rows_of_an_older_version_in_the_same_shard_stay_readable(store: Path, takes) -> None:
    old = read_head(store)
    moved = [
        replace(row, ego=replace(row.ego, world_from_cam=row.ego.world_from_cam + 0.0))
        for row in takes.rows
    ]
    for pose in (moved[0].ego.world_from_cam,):
        pose[:, 0, 3] += 1
    index = takes.index(moved)
    report = encode_latents(index, store, vae_spec="tiny", clips_per_shard=2)
    takes.index()
    assert report.hash != old
    flip(shards(store, "align_rays")[0], offset=9)  # of the old version's first clip
    assert verify_store(open_store(store)).damaged == ()
    before = open_store(f"{store}@{old}")
    assert verify_store(before).damaged_clips == [moved[0].clip_id]
    assert repair(f"{store}@{old}", None, vae_spec="tiny").rows_in_place == 1
    assert verify_store(open_store(f"{store}@{old}")).damaged == ()
    assert read_head(store) == report.hash


def test_labels_and_tars_are_not_mended_but_told(store: Path, takes, tmp_path: Path) -> None:
    export_tar(open_store(store), tmp_path / "tars")
    with pytest.raises(StoreFault, match="not repaired in place") as fault:
        repair(tmp_path / "tars", takes.folder, vae_spec="tiny")
    assert "export" in fault.value.fix


def test_a_factored_store_comes_back_too(takes, tmp_path: Path) -> None:
    takes.encode("bare", takes.rows[:3], wish=Wish(rays="factored"))
    store = Path(shutil.move(takes.folder / "bare", tmp_path / "bare"))
    flip(shards(store, "exo_latents")[1])
    assert mend(store, takes).rows_in_place == 1
    assert verify_store(open_store(store, derive=CLIP_RAYS)).damaged == ()
