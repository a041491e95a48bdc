"""Videos as data: URIs, as many as a page may hold; what is left out is told."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MEGABYTE = 10**6


@dataclass
class Media:
    """The videos of a page, up to a number of bytes."""

    most_bytes: int
    """Of the page's text: a video takes 4/3 of its file."""
    uris: dict[Path, str] = field(default_factory=dict)
    left_out: list[Path] = field(default_factory=list)
    """Files for which there was no room."""
    used: int = 0

    def add(self, paths: Iterable[Path]) -> None:
        """Takes in these files, the most wanted first, as long as there is room.

        A file that does not fit is left out; a smaller one after it may still fit.
        """
        for path in dict.fromkeys(paths):
            if path in self.uris or path in self.left_out:
                continue
            if self.used + _encoded_bytes(path) > self.most_bytes:
                self.left_out.append(path)
                continue
            self.uris[path] = f"data:video/mp4;base64,{b64encode(path.read_bytes()).decode()}"
            self.used += _encoded_bytes(path)


def _encoded_bytes(path: Path) -> int:
    """Bytes of a file in base64."""
    return -(-path.stat().st_size // 3) * 4
