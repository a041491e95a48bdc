"""Answers to requests for a part of a video: HTTP's Range, of which browsers ask one at a time."""

import re

from starlette.responses import Response

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_CACHE = {"cache-control": "private, max-age=86400", "accept-ranges": "bytes"}
"""No ETag and no Last-Modified: they would be marks by which to tell videos apart."""


def video_response(data: bytes, asked: str | None) -> Response:
    """The whole video, or the range that `asked` (the Range header) names: 200, 206 or 416.

    Several ranges, or another unit, are answered with the whole, as RFC 9110 (14.2) allows.
    """
    match = _RANGE.fullmatch(asked.strip()) if asked else None
    if match is None or match.groups() == ("", ""):
        return Response(data, media_type="video/mp4", headers=_CACHE)
    first, last = _bounds(*match.groups(), length=len(data))
    if first > last:
        headers = _CACHE | {"content-range": f"bytes */{len(data)}"}
        return Response(status_code=416, headers=headers)
    headers = _CACHE | {"content-range": f"bytes {first}-{last}/{len(data)}"}
    return Response(data[first : last + 1], 206, media_type="video/mp4", headers=headers)


def _bounds(first: str, last: str, *, length: int) -> tuple[int, int]:
    """First and last byte asked for; out of order if there is no such."""
    if not first:
        suffix = min(int(last), length)
        return (length - suffix, length - 1) if suffix else (length, 0)
    end = min(int(last), length - 1) if last else length - 1
    return int(first), end
