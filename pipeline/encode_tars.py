"""`encode-latents --format webdataset`: a Zarr store beside the folder, exported, then removed."""

import shutil
import time
from pathlib import Path
from typing import Any

from exo2ego.geometry.clip_rays import CLIP_RAYS
from pipeline.encode import EncodeReport, chosen_rows, encode_latents, store_recipe
from pipeline.encode_plan import Wish, plan_encode
from pipeline.quarantine import read_rejects, write_rejects
from stores.errors import StoreFault
from stores.index import read_index
from stores.place import Place, RemotePath
from stores.progress import Track, silent
from stores.settings import ZARR, check_same_recipe, read_settings
from stores.tar_store import export_tar
from stores.version import read_head
from stores.zarr_store import CLIPS_PER_SHARD, open_store

STAGING = ".staging"
"""Ending of the Zarr store that the tars are made from."""


def encode_tars(
    index_path: Path,
    out: Place,
    *,
    vae_spec: str,
    wish: Wish,
    splits: tuple[str, ...] | None = None,
    device: str = "cpu",
    clips_per_shard: int = CLIPS_PER_SHARD,
    track: Track = silent,
    **more: Any,
) -> EncodeReport:
    """Encodes the clips as `encode_latents` does, into WebDataset tar shards of the same hash.

    Choice: they are encoded into a Zarr store beside `out`, exported once all are done, and the
    store is removed once the tars are committed. Stopped anywhere, it goes on when run again.
    Raises StoreFault if `out` has other clips already: a folder of tars does not grow; and for a
    URL.
    """
    if isinstance(out, RemotePath):
        raise StoreFault(
            "Tar shards are encoded into a local folder.",
            where=out,
            expected="a folder on this machine's disks",
            got="a URL",
            fix=f"Encode to a local folder, then `exo2ego store export FOLDER --out {out}`.",
        )
    staging = out.with_name(out.name + STAGING)
    if not (staging / "store.json").exists() and out.exists() and read_head(out):
        return _held(index_path, out, vae_spec, wish, splits, device)
    report = encode_latents(
        index_path,
        staging,
        vae_spec=vae_spec,
        wish=wish,
        splits=splits,
        device=device,
        clips_per_shard=clips_per_shard,
        track=track,
        **more,
    )
    store = open_store(staging, derive=CLIP_RAYS)
    export_tar(store, out, clips_per_tar=clips_per_shard, track=track)
    write_rejects(out, read_rejects(staging))
    _remove_staging(staging)
    return report


def _remove_staging(staging: Path) -> None:
    # store.json first: what is left without it is no store, and is swept away by the next run
    (staging / "store.json").unlink()
    shutil.rmtree(staging)


def _held(
    index_path: Path,
    out: Path,
    vae_spec: str,
    wish: Wish,
    splits: tuple[str, ...] | None,
    device: str,
) -> EncodeReport:
    """The report of nothing to do. Raises StoreFault unless the folder has just these clips."""
    started, index = time.perf_counter(), read_index(index_path)
    settings, recipe = read_settings(out), store_recipe(index, vae_spec, device)
    check_same_recipe(out, settings.recipe, recipe)
    shutil.rmtree(out.with_name(out.name + STAGING), ignore_errors=True)
    store, rows = open_store(out, derive=CLIP_RAYS), chosen_rows(index, splits)
    plan = plan_encode(recipe.clips, store.rows, rows, wish)
    if plan.kept or settings.container == ZARR:
        raise StoreFault(
            "This folder has a version already, and a folder of tars does not grow.",
            where=out,
            expected=f"the {len(rows)} clips that are asked for, or an empty folder",
            got=f"a {settings.container} store of {len(store.clip_ids)} clips, of which "
            f"{len(plan.kept)} are missing or others",
            fix="Name another folder; or `exo2ego store import` this one, encode into the Zarr "
            "store, and export that.",
        )
    seconds = time.perf_counter() - started
    return EncodeReport(store.hash, 0, len(store.clip_ids), 0, seconds, ())
