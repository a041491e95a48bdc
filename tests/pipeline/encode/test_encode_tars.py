"""Claims about `--format webdataset` and `--dry-run`, and about the command as it is typed."""

from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

import cli
from pipeline.encode_plan import Wish
from pipeline.encode_tars import encode_tars
from pipeline.encode_trial import try_encode
from stores.errors import StoreFault
from stores.schema import ARRAYS
from stores.verify import verify_store
from stores.zarr_store import open_store

WISH = Wish()


def stopping(what: str) -> Any:
    def track(items: Any, /, *, total: int, what: str, unit: str) -> Any:
        for done, item in enumerate(items):
            if what == stopped and done == 2:
                raise KeyboardInterrupt
            yield item

    stopped = what
    return track


def test_tars_have_the_hash_of_the_store_wherever_they_were_interrupted(takes: Any) -> None:
    path, out = takes.index(), takes.folder / "tars"
    options = {"vae_spec": "tiny", "wish": WISH, "clips_per_shard": 2, "workers": 1}
    for what in ("encode", "export"):
        with pytest.raises(KeyboardInterrupt):
            encode_tars(path, out, track=stopping(what), **options)
    report = encode_tars(path, out, **options)
    assert report.hash == takes.encode("of tars").hash
    assert verify_store(open_store(out)).damaged == ()
    assert not out.with_name("tars.staging").exists()
    again = encode_tars(path, out, **options)
    assert (again.hash, again.clips_new, again.clips_total) == (report.hash, 0, 9)
    takes.encode("tars.staging")  # as if the power had gone before it was removed
    assert encode_tars(path, out, **options).hash == report.hash
    assert not out.with_name("tars.staging").exists()


def test_tars_do_not_grow(takes: Any) -> None:
    out = takes.folder / "few tars"
    encode_tars(takes.index(takes.rows[:2]), out, vae_spec="tiny", wish=WISH)
    with pytest.raises(StoreFault, match="does not grow") as fault:
        encode_tars(takes.index(), out, vae_spec="tiny", wish=WISH)
    assert "7 are missing" in str(fault.value.got) and "store import" in str(fault.value.fix)


def test_a_dry_run_writes_nothing_and_counts_what_is_missing(takes: Any) -> None:
    takes.encode("dry", takes.rows[:4])
    folder = takes.folder / "dry"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    plan = try_encode(takes.index(), folder, vae_spec="tiny", wish=WISH, workers=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert (plan.clips, plan.clips_done, plan.takes, plan.shards) == (5, 4, 2, 3)
    assert {name: job.rows for name, job in plan.arrays.items()} == {
        name: 5 if spec.every_clip else 2 for name, spec in ARRAYS.items()
    }
    shape = takes.recipe.shape
    assert plan.arrays["ego_frames"].bytes_raw == 2 * shape.frames * shape.hw[0] * shape.hw[1] * 3
    assert set(plan.stages) == {"decode", "VAE", "rays", "write and hash"}
    assert all(stage.seconds_a_clip > 0 for stage in plan.stages.values())
    decode, *others = (stage.seconds_a_clip for stage in plan.stages.values())
    assert plan.eta_seconds == pytest.approx(5 * max(decode, sum(others)) / 2)
    done = try_encode(takes.index(takes.rows[:4]), folder, vae_spec="tiny", wish=WISH)
    assert (done.clips, done.shards, done.eta_seconds) == (0, 0, 0)


def test_the_command_makes_tries_and_tells(takes: Any) -> None:
    store = takes.folder / "typed"
    usual = ["encode-latents", str(takes.index(takes.rows[3:5])), "--store", str(store), "--json"]
    usual += ["--vae", "tiny", "--device", "cpu", "--rays", "factored", "--ego-frames", "all"]
    tried = CliRunner().invoke(cli.app, [*usual, "--dry-run"])
    assert orjson.loads(tried.stdout)["clips"] == 2 and not store.exists()
    made = CliRunner().invoke(cli.app, usual)
    assert made.exit_code == 0, made.output
    assert orjson.loads(made.stdout)["clips_new"] == 2
    info = open_store(store).info()
    assert info["made_when_read"] == {"align_rays": 2, "ego_rays": 2}
    other = takes.recipe.model_copy(update={"stride": 4})
    usual[1] = str(takes.index(takes.rows[3:5], other))
    refused = CliRunner().invoke(cli.app, usual)
    assert refused.exit_code == 2
    assert "clips.stride" in refused.stderr and "store fork" in refused.stderr
