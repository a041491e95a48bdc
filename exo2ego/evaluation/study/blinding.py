"""Who sees what where: each participant's own order of samples, and the side of each candidate.

Both are hashes of the study's id, the participant's token and the sample's id, so they are the same
at every visit, on every machine and in every version of Python.
"""

from dataclasses import dataclass
from typing import Literal

import blake3

from exo2ego.evaluation.study.folder import BlindSample, Study

Panel = Literal["reference", "blue", "red"]
"""The three videos of a row, as the participant knows them."""


@dataclass(frozen=True)
class Row:
    """One sample as one participant sees it: the name of each panel's video."""

    sample_id: str
    videos: dict[Panel, str]


def rows_for(study: Study, token: str) -> list[Row]:
    """The participant's rows, in their order."""

    def drawn(about: str, sample: BlindSample) -> bytes:
        return blake3.blake3(f"{study.study_id}/{token}/{about}/{sample.id}".encode()).digest()

    rows = []
    for sample in sorted(study.samples, key=lambda sample: drawn("order", sample)):
        swapped = drawn("side", sample)[0] & 1
        blue, red = sample.candidates[::-1] if swapped else sample.candidates
        rows.append(Row(sample.id, {"reference": sample.reference, "blue": blue, "red": red}))
    return rows
