"""Encodes killed at random moments, many times: processes forked from one that has all imports."""

import subprocess
import sys
from typing import Any

import orjson

from stores.verify import verify_store
from stores.zarr_store import open_store

STORES, MOST_KILLS = 6, 8
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from pipeline.encode import encode_latents
torch.set_num_threads(1)
index, folder, stores, most = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])

def forked(store):
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        encode_latents(index, store, vae_spec="tiny", clips_per_shard=1, workers=2)
    finally:
        os._exit(0)

def seconds(store):
    began = time.monotonic()
    os.waitpid(forked(store), 0)
    return time.monotonic() - began

usual, moments, told = min(seconds(folder / f"usual-{k}") for k in range(2)), random.Random(0), []
for number in range(stores):
    store, kills, met = folder / f"killed-{number}", 0, True
    while met and kills < most:
        child = forked(store)
        time.sleep(moments.random() * 0.8 * usual)
        os.kill(child, signal.SIGKILL)
        met = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        kills += met
    seconds(store)
    told.append(kills)
print(json.dumps([usual, *told]))
"""


def test_encodes_killed_many_times_end_with_the_hash_of_one_that_was_not(takes: Any) -> None:
    whole = takes.encode("whole", workers=2).hash
    numbers = [str(takes.index()), str(takes.folder), str(STORES), str(MOST_KILLS)]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *numbers], check=True, capture_output=True, text=True
    )
    usual, *kills = orjson.loads(done.stdout)
    print(f"kills that met a running encode of {usual:.1f} s: {kills}")
    assert len(kills) == STORES and sum(kills) >= STORES
    for number in range(STORES):
        folder = takes.folder / f"killed-{number}"
        store = open_store(folder)
        assert store.hash == whole
        assert verify_store(store).damaged == ()
        assert not list(folder.rglob("*.partial"))
        assert not (folder / "lock").exists()
