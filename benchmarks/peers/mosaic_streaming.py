"""MosaicML streaming: MDS shards, by index and shuffled. Runs in an environment of its own."""

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType


def _stand_in(name: str, **members: object) -> None:
    module = ModuleType(name)
    module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
    vars(module).update(members)
    sys.modules[name] = module


# torchvision's wheels of PyPI do not import beside a torch without CUDA. Streaming imports two of
# its names for picture data sets, which have no part here.
_stand_in("torchvision")
_stand_in("torchvision.datasets", VisionDataset=object)
_stand_in("torchvision.transforms")
_stand_in("torchvision.transforms.functional", to_tensor=None)

import streaming  # noqa: E402
from taking_turns import Clips, Epoch, Row, main  # noqa: E402


def write(clips: Clips) -> None:
    """MDS shards of as many clips as ours, of arrays of a fixed type and shape."""
    columns = {
        name: f"ndarray:float16:{','.join(map(str, shape))}" for name, shape in clips.shapes.items()
    }
    shard_bytes = (clips.per_shard + 1) * sum(part.nbytes for part in clips.row(0).values())
    with streaming.MDSWriter(
        out=str(clips.folder), columns=columns, size_limit=shard_bytes
    ) as writer:
        for number in range(clips.count):
            writer.write(clips.row(number))


def readers(clips: Clips) -> dict[str, Epoch]:
    """One row a call, and its own shuffle, with its threads that prepare shards."""
    streaming.base.util.clean_stale_shared_memory()
    by_index, shuffled = (
        streaming.StreamingDataset(
            local=str(clips.folder),
            shuffle=is_shuffled,
            shuffle_seed=clips.seed,
            batch_size=clips.batch,
        )
        for is_shuffled in (False, True)
    )

    def random_index() -> Iterator[Row]:
        return (by_index[number] for number in clips.order)

    return {"by index": random_index, "its own shuffle": lambda: iter(shuffled)}


if __name__ == "__main__":
    main(streaming.__version__, write, readers)
