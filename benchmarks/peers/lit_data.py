"""LitData: optimised chunks, by index and shuffled. Runs in an environment of its own."""

import os
from collections.abc import Iterator

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"

import litdata
import torch
from litdata.streaming.cache import Cache
from taking_turns import Clips, Epoch, Row, main


def write(clips: Clips) -> None:
    """Chunks of as many clips as our shards, of a dictionary of tensors."""
    cache = Cache(str(clips.folder), chunk_size=clips.per_shard)
    for number in range(clips.count):
        cache[number] = {name: torch.from_numpy(part) for name, part in clips.row(number).items()}
    cache.done()
    cache.merge()


def readers(clips: Clips) -> dict[str, Epoch]:
    """One row a call, and its own shuffle, with its thread that prepares chunks."""
    by_index = litdata.StreamingDataset(str(clips.folder), shuffle=False)
    shuffled = litdata.StreamingDataset(str(clips.folder), shuffle=True, seed=clips.seed)

    def random_index() -> Iterator[Row]:
        return (by_index[number] for number in clips.order)

    return {"by index": random_index, "its own shuffle": lambda: iter(shuffled)}


if __name__ == "__main__":
    main(litdata.__version__, write, readers)
