"""Ways to read the same clips in a random order, ours and others', each as well as it can."""

import importlib
import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import PAGESIZE as PAGE
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.store_clips import EGO, EXO, RECIPE, random_row
from stores.arrays import shard_path
from stores.reading import Store
from stores.schema import ARRAYS
from stores.stream import ClipStream
from stores.zarr_store import CLIPS_PER_SHARD

Batch = tuple[Tensor, Tensor]
"""exo_latents and ego_latents, stacked, every byte of them in memory."""
ReadBatch = Callable[[list[int]], Any]
SHAPES = {name: ARRAYS[name].row_shape(RECIPE.clips.shape) for name in (EXO, EGO)}
CLIP_BYTES = 2 * sum(int(np.prod(shape)) for shape in SHAPES.values())
_FLOOR_STRIDE = CLIP_BYTES + 2 * PAGE  # a clip with checksums, both arrays at a page's start
TAR_SHUFFLE = 128
"""Clips in webdataset's shuffle buffer: it reads tars from front to back."""
_TENSORSTORE_CACHE = 16 * 2**20  # room for shard indexes; of clips it can hold one in thirty


def write_raw(path: Path, clips: int) -> int:
    """One file of all clips' latents; returns the sum of the crc32 of every array."""
    total = 0
    with path.open("wb") as file:
        for number in range(clips):
            for name in SHAPES:
                row = random_row(name, number).tobytes()
                total += zlib.crc32(row)
                file.write(row)
    return total


def one_file(path: Path, batch: int) -> ReadBatch:
    """One raw file, one pread a clip, into memory that is used again and again."""
    handle = os.open(path, os.O_RDONLY)
    return _plain_pread(batch, lambda number: [(handle, number * CLIP_BYTES, CLIP_BYTES)])


def same_bytes(store: Path, batch: int) -> ReadBatch:
    """The floor: our shards' own bytes, checksums too, by one plain pread a clip and array."""
    spec_bytes = {name: 2 * int(np.prod(shape)) + 4 * shape[0] for name, shape in SHAPES.items()}
    handles = {
        name: [
            os.open(shard_path(store / "arrays", ARRAYS[name], k), os.O_RDONLY)
            for k in range(len(list((store / "arrays" / name / "c").iterdir())))
        ]
        for name in SHAPES
    }

    def places(number: int) -> list[tuple[int, int, int]]:
        shard, row = divmod(number, CLIPS_PER_SHARD)
        return [(handles[name][shard], row * size, size) for name, size in spec_bytes.items()]

    return _plain_pread(batch, places)


def _plain_pread(batch: int, places: Callable[[int], list[tuple[int, int, int]]]) -> ReadBatch:
    """Reads every place (handle, offset, bytes) of a clip, with nothing looked at."""
    memory = memoryview(mmap(-1, batch * _FLOOR_STRIDE))  # its start is a page's start

    def read(numbers: list[int]) -> memoryview:
        for row, number in enumerate(numbers):
            start = row * _FLOOR_STRIDE
            for handle, offset, size in places(number):
                os.preadv(handle, [memory[start : start + size]], offset)
                start += -(-size // PAGE) * PAGE
        return memory

    return read


def ours(store: Store) -> ReadBatch:
    """Both arrays of a batch, in the calling thread."""

    def read(numbers: list[int]) -> list[Tensor]:
        ids = [store.clip_ids[number] for number in numbers]
        return [torch.from_numpy(store.read(name, ids)) for name in SHAPES]

    return read


def our_stream(store: Store, batch: int, threads: int) -> Callable[[], int]:
    """One epoch of the training stream, which reads whole batches ahead on so many threads.

    A call gives the number of clips that came."""
    stream = ClipStream(store, (EXO, EGO), batch_size=batch, seed=0, threads=threads)
    start = stream.state_dict()

    def epoch() -> int:
        # Going back throws away what was read ahead: every epoch begins with nothing ready, and
        # pays for the batches that the threads have begun at its end.
        stream.load_state_dict(start)
        return sum(len(next(stream).clip_ids) for _ in range(len(stream.clip_ids) // batch))

    return epoch


def taken_in_turns(readers: Sequence[ReadBatch]) -> Callable[[Iterable[list[int]]], None]:
    """Reads all batches, each reader in a thread of its own and a whole batch at a time."""
    pool = ThreadPoolExecutor(len(readers))

    def read_all(batches: Iterable[list[int]]) -> None:
        waiting = iter(batches)  # a list's: one thread at a time moves it, by Python's lock

        def read_some(read: ReadBatch) -> None:
            for numbers in waiting:
                read(numbers)

        for job in [pool.submit(read_some, read) for read in readers]:
            job.result()

    return read_all


def file_a_clip(
    folder: Path,
    clips: int,
    batch: int,
    save: Callable[[dict[str, Tensor], Path], None],
    load: Callable[[Path], dict[str, Tensor]],
) -> ReadBatch:
    """A file a clip, as trainers with a latent cache keep them."""
    folder.mkdir()
    for number in range(clips):
        save(
            {name: torch.from_numpy(random_row(name, number)) for name in SHAPES},
            folder / f"{number}",
        )
    memory = {n: torch.empty(batch, *SHAPES[n], dtype=torch.float16) for n in SHAPES}

    def read(numbers: list[int]) -> Batch:
        exo, ego = (memory[name][: len(numbers)] for name in SHAPES)
        for row, number in enumerate(numbers):
            clip = load(folder / f"{number}")
            exo[row], ego[row] = clip[EXO], clip[EGO]
        return exo, ego

    return read


def safetensors_a_clip(folder: Path, clips: int, batch: int) -> ReadBatch:
    """safetensors, one file a clip."""
    return file_a_clip(folder, clips, batch, save_file, load_file)


def torch_save_a_clip(folder: Path, clips: int, batch: int) -> ReadBatch:
    """torch.save, one file a clip, read without arbitrary pickles."""
    return file_a_clip(folder, clips, batch, torch.save, lambda p: torch.load(p, weights_only=True))


def zarr_python(store: Path) -> ReadBatch:
    """zarr-python on our own shards."""
    group = zarr.open_group(store / "arrays", mode="r")
    arrays: list[Any] = [group[name] for name in (EXO, EGO)]

    def read(numbers: list[int]) -> list[Tensor]:
        # a row a call: one call for all rows (`oindex`) takes ten times as long
        return [
            torch.from_numpy(np.stack([np.asarray(array[number]) for number in numbers]))
            for array in arrays
        ]

    return read


def tensorstore_zarr(store: Path, threads: int) -> ReadBatch:
    """tensorstore on our own shards, a batch a call, both arrays in flight."""
    import tensorstore  # not a dependency of ours: only where `is_installed`

    limit = {"limit": threads}
    context = tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": _TENSORSTORE_CACHE},
            "data_copy_concurrency": limit,
            "file_io_concurrency": limit,
        }
    )
    arrays = [
        tensorstore.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(store / "arrays" / name)},
                "recheck_cached_data": False,
                "recheck_cached_metadata": False,
            },
            context=context,
        ).result()
        for name in (EXO, EGO)
    ]

    def read(numbers: list[int]) -> list[Tensor]:
        coming = [array[numbers].read() for array in arrays]
        return [torch.from_numpy(one.result()) for one in coming]

    return read


def webdataset_batches(folder: Path, clips: int, batch: int) -> Callable[[], Iterator[Batch]]:
    """webdataset: tars of npy files, shuffled through a buffer. One call is one epoch."""
    # not a dependency of ours: only where `is_installed`
    webdataset: Any = importlib.import_module("webdataset")

    folder.mkdir()
    paths = [folder / f"{k}.tar" for k in range(-(-clips // CLIPS_PER_SHARD))]
    for shard, path in enumerate(paths):
        with webdataset.TarWriter(str(path)) as tar:
            for number in range(clips)[shard * CLIPS_PER_SHARD : (shard + 1) * CLIPS_PER_SHARD]:
                rows = {f"{name}.npy": random_row(name, number) for name in SHAPES}
                tar.write({"__key__": f"{number}", **rows})

    def epoch() -> Iterator[Batch]:
        urls = [str(path) for path in paths]
        dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(TAR_SHUFFLE)
        tuples = dataset.decode().to_tuple(*(f"{name}.npy" for name in SHAPES))
        waiting: list[Any] = []
        for clip in tuples:
            waiting.append(clip)
            if len(waiting) == batch:
                exo, ego = (torch.from_numpy(np.stack(rows)) for rows in zip(*waiting, strict=True))
                yield exo, ego
                waiting = []

    return epoch


def settle(folder: Path) -> None:
    """Puts every file below `folder` on the disk, and then in the page cache from front to back.

    How a file came into the cache changes how fast it can be copied out of it, by a third."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(2**20):
                pass


def is_installed(module: str) -> bool:
    """Whether the other reader can be measured here."""
    return importlib.util.find_spec(module) is not None
