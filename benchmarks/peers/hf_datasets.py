"""HF datasets: an Arrow file of bytes, mapped into memory. Runs in an environment of its own."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
from datasets.arrow_writer import ArrowWriter
from taking_turns import Clips, Epoch, Row, main


def write(clips: Clips) -> None:
    """A binary column an array: rows of typed columns come out as lists of numbers."""
    features = datasets.Features({name: datasets.Value("binary") for name in clips.shapes})
    with ArrowWriter(
        path=str(_path(clips)), features=features, writer_batch_size=clips.per_shard
    ) as writer:
        for number in range(clips.count):
            writer.write({name: part.tobytes() for name, part in clips.row(number).items()})
        writer.finalize()


def readers(clips: Clips) -> dict[str, Epoch]:
    """Rows as Python's bytes, as they come; and Arrow's buffers, which are not copied."""
    dataset = datasets.Dataset.from_file(str(_path(clips)))
    arrow = dataset.with_format("arrow")

    def as_arrays(buffers: dict[str, object]) -> Row:
        return {
            name: np.frombuffer(buffers[name], np.float16).reshape(shape)
            for name, shape in clips.shapes.items()
        }

    def as_bytes() -> Iterator[Row]:
        return (as_arrays(dataset[number]) for number in clips.order)

    def as_buffers() -> Iterator[Row]:
        for number in clips.order:
            table = arrow[number]
            yield as_arrays({name: table[name][0].as_buffer() for name in clips.shapes})

    return {"rows as bytes": as_bytes, "Arrow's buffers": as_buffers}


def _path(clips: Clips) -> Path:
    return clips.folder / "clips.arrow"


if __name__ == "__main__":
    main(datasets.__version__, write, readers)
