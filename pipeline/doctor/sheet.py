"""Contact sheets: a take's views at three times, with every camera drawn where others see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.doctor.marks import HEAD_METRES, Mark, Sight, marks_of
from pipeline.video import VideoFault, iterate_frames
from stores.index import CameraRow, ClipRow

PANEL_ROWS = 216
TIMES = 3
_GAP_PX, _CAPTION_PX, _TITLE_PX = 4, 19, 26
_FINE = 3
"""Marks are drawn so many times larger and shrunk: smooth, and right to a third of a pixel."""
_EGO_INK, _EXO_INK = (255, 45, 110), (0, 215, 255)
_PAPER, _TEXT, _FAINT, _EMPTY = (255, 255, 255), (30, 34, 40), (110, 118, 128), (226, 229, 233)
_LEAST_CIRCLE_PX, _MOST_CIRCLE_PX, _ARM_PX = 5.0, 60.0, 9.0
_INSET_PX, _INSET_HEADS = 84, 2.6
"""Side of the enlarged surroundings of an ego mark, on the panel and in heads."""


@dataclass(frozen=True, eq=False)
class Moment:
    """One time of a take: a clip, and which of its frames."""

    row: ClipRow
    place: int

    @property
    def frame(self) -> int:
        """Index into the videos."""
        return self.row.frames[self.place]


@dataclass(frozen=True, eq=False)
class _Panel:
    picture: Image.Image
    caption: str


def moments(rows: Sequence[ClipRow]) -> tuple[Moment, ...]:
    """The first frames of the first, the middle and the last clip.

    Of fewer than three clips: the first, the middle and the last frame of all."""
    places = [Moment(row, 0) for row in rows]
    if len(places) < TIMES:
        places = [Moment(row, place) for row in rows for place in range(len(row.frames))]
    return tuple(places[index] for index in sorted({0, len(places) // 2, len(places) - 1}))


def draw_sheet(root: Path, rows: Sequence[ClipRow]) -> Image.Image:
    """The sheet of one take; reads the frames of its moments and no others."""
    times = moments(rows)
    columns = [
        _column(root, view, times, is_ego=place == 0)
        for place, view in enumerate((rows[0].ego, *rows[0].present))
    ]
    width = sum(column[0].picture.width + _GAP_PX for column in columns) - _GAP_PX
    each = PANEL_ROWS + _CAPTION_PX
    sheet = Image.new("RGB", (width, _TITLE_PX + each * len(times)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((2, 3), _title(rows), fill=_TEXT, font=ImageFont.load_default(size=16))
    left = 0
    for column in columns:
        for place, panel in enumerate(column):
            top = _TITLE_PX + each * place
            sheet.paste(panel.picture, (left, top))
            below = (left + 2, top + PANEL_ROWS + 2)
            pen.text(below, panel.caption, fill=_FAINT, font=ImageFont.load_default(size=13))
        left += column[0].picture.width + _GAP_PX
    return sheet


def draw_marks(picture: Image.Image, marks: Sequence[Mark], ink: tuple[int, int, int]) -> None:
    """Draws a cross, a circle and the name at each mark's place."""
    size = (picture.width * _FINE, picture.height * _FINE)
    layer = Image.new("RGBA", size, (*ink, 0))
    pen = ImageDraw.Draw(layer)
    for mark in marks:
        # the pen's whole numbers are the middles of pixels, ours their borders
        x, y = (_FINE * value - 0.5 for value in mark.pixel)
        circle_px = _FINE * _circle_px(mark)
        arm_px = _FINE * _ARM_PX
        for colour, thick in (((0, 0, 0, 150), 3 * _FINE), ((*ink, 255), _FINE)):
            box = [x - circle_px, y - circle_px, x + circle_px, y + circle_px]
            pen.ellipse(box, outline=colour, width=thick)
            pen.line([x - arm_px, y, x + arm_px, y], fill=colour, width=thick)
            pen.line([x, y - arm_px, x, y + arm_px], fill=colour, width=thick)
    small = layer.resize(picture.size, Image.Resampling.BOX)
    picture.paste(small.convert("RGB"), mask=small.getchannel("A"))
    for mark in marks:
        _name(picture, mark, ink)


def _circle_px(mark: Mark) -> float:
    return min(max(mark.radius_px, _LEAST_CIRCLE_PX), _MOST_CIRCLE_PX)


def _name(picture: Image.Image, mark: Mark, ink: tuple[int, int, int]) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=13)
    reach = max(_circle_px(mark), _ARM_PX) + 3
    wide = pen.textlength(mark.name, font=font)
    right = mark.pixel[0] + reach
    left = right if right + wide < picture.width else mark.pixel[0] - reach - wide
    place = (left, min(max(mark.pixel[1] - 8, 0), picture.height - 16))
    pen.text(place, mark.name, fill=ink, font=font, stroke_width=2, stroke_fill=(0, 0, 0))


def _column(root: Path, view: CameraRow, times: Sequence[Moment], *, is_ego: bool) -> list[_Panel]:
    """One view's panels from the first to the last moment, all of one size."""
    captions = [f"{view.cam_id}   frame {moment.frame}" for moment in times]
    frames = sorted({moment.frame for moment in times})
    try:
        if not view.video:
            return [_empty("no video", caption) for caption in captions]
        found = {
            frame: Image.fromarray(pixels)
            for frame, pixels in iterate_frames(root / view.video, frames)
        }
    except VideoFault as fault:
        why = f"expected {fault.expected},\ngot {fault.got}"
        return [_empty(why, caption) for caption in captions]
    pictures = [found[moment.frame] for moment in times]
    hw = (PANEL_ROWS, max(1, round(pictures[0].width * PANEL_ROWS / pictures[0].height)))
    marks = panel_marks(times, view.cam_id, hw, is_ego=is_ego)
    unseen = f"   no {'exo' if is_ego else 'ego'} in view"
    return [
        _Panel(_drawn(full, each, hw, is_ego=is_ego), caption + (unseen if not each else ""))
        for full, each, caption in zip(pictures, marks, captions, strict=True)
    ]


def panel_marks(
    times: Sequence[Moment], cam_id: str, hw: tuple[int, int], *, is_ego: bool
) -> list[list[Mark]]:
    """Marks at each moment: the exo cameras in the ego view, the ego camera in an exo view."""
    sights = [
        Sight(exo, moment.row.ego, moment.place)
        if is_ego
        else Sight(moment.row.ego, exo, moment.place)
        for moment in times
        for exo in moment.row.present
        if is_ego or exo.cam_id == cam_id
    ]
    marks = marks_of(sights, hw, 0.0 if is_ego else HEAD_METRES)
    each = len(marks) // len(times)
    return [
        [mark for mark in marks[each * place : each * (place + 1)] if mark is not None]
        for place in range(len(times))
    ]


def _drawn(
    full: Image.Image, marks: Sequence[Mark], hw: tuple[int, int], *, is_ego: bool
) -> Image.Image:
    """One frame, shrunk, with its marks; an exo view also shows the head at full size."""
    panel = full.resize((hw[1], hw[0]), Image.Resampling.LANCZOS, reducing_gap=3.0)
    draw_marks(panel, marks, _EXO_INK if is_ego else _EGO_INK)
    for mark in () if is_ego else marks:
        inset = _inset(full, mark, full.height / PANEL_ROWS)
        left = 0 if mark.pixel[0] > panel.width / 2 else panel.width - inset.width
        panel.paste(inset, (left, panel.height - inset.height))
    return panel


def _inset(full: Image.Image, mark: Mark, scale: float) -> Image.Image:
    """The surroundings of a mark out of the video's own pixels, with a small cross."""
    x, y = (scale * value for value in mark.pixel)
    half = scale * _circle_px(mark) * _INSET_HEADS
    cut = full.transform(
        (_INSET_PX, _INSET_PX),
        Image.Transform.EXTENT,
        (x - half, y - half, x + half, y + half),
        Image.Resampling.BICUBIC,
    )
    shown = Image.new("RGB", (_INSET_PX + 2, _INSET_PX + 2), _PAPER)
    shown.paste(cut, (1, 1))
    middle = (shown.width / 2, shown.height / 2)
    draw_marks(shown, [Mark("", middle, _INSET_PX / 2 / _INSET_HEADS)], _EGO_INK)
    return shown


def _empty(why: str, caption: str) -> _Panel:
    panel = Image.new("RGB", (PANEL_ROWS, PANEL_ROWS), _EMPTY)
    font = ImageFont.load_default(size=12)
    ImageDraw.Draw(panel).multiline_text((8, 8), why, fill=_FAINT, font=font)
    return _Panel(panel, caption)


def _title(rows: Sequence[ClipRow]) -> str:
    row = rows[0]
    clips = f"{len(rows)} clip{'s' if len(rows) > 1 else ''}"
    return f"{row.take_name}     {row.category}, {row.split}, {clips}"
