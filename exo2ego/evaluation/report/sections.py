"""The sections of a report on one result: what it is, scores, extreme clips, failure modes."""

from collections.abc import Sequence
from html import escape

from exo2ego.evaluation.measures import MEASURES
from exo2ego.evaluation.report.clips import ReportClip, ReportResult
from exo2ego.evaluation.report.markup import clip_link, items, number, table, with_range
from exo2ego.evaluation.report.modes import MODES, Mode
from exo2ego.evaluation.scores import OVERALL, Score
from exo2ego.evaluation.tables.claims import BETTER

HEADINGS = {
    "psnr": "PSNR, dB ↑",
    "ssim": "SSIM ↑",
    "lpips": "LPIPS ↓",
    "sharpness_log2": "sharpness, log2 → 0",
    "view_bias": "view bias ↓",
    "view_bias_pixels": "view bias, pixels ↓",
    "timing_error_frames": "timing error, frames ↓",
}
"""The measures that the report shows, with their direction."""
SHOWN = 4
"""Clips at each end of a ranking, and of each failure mode."""


def about(result: ReportResult) -> str:
    """What was scored, of which clips, and what of it is not as in the paper."""
    made, settings = result.result, result.result.settings
    lines = [
        f"{made.system}",
        f"{len(result.clips)} clips of {made.clip_set}, store {settings.store_hash[:12]}, "
        f"step {settings.step}, weights {settings.weights_digest[:12]}, on {settings.device}",
        *made.notes,
    ]
    if missing := made.scores.missing:
        lines.append(f"without a video, and in no mean: {', '.join(missing)}")
    return f"<h3>{escape(result.name)}</h3>\n{items(lines)}"


def scores(result: ReportResult) -> str:
    """Means of each category and of all takes, with their intervals."""
    found = result.result.scores
    groups = {**found.categories, OVERALL: found.overall}
    shown = [name for name in HEADINGS if _is_known(name, list(groups.values()))]
    scales = {name: _scale(result, name) for name in shown}
    rows = [
        [escape(group), str(_takes(result, group))]
        + [_mean(result, group, score, name, scales[name]) for name in shown]
        for group, score in groups.items()
    ]
    headings = [HEADINGS[name] for name in shown]
    caption = f"{result.name}: means over takes, 95 % intervals (bootstrap over takes)"
    html = table(caption, ["category", "takes", *headings], rows)
    if others := [HEADINGS[name] for name in HEADINGS if name not in shown]:
        html += f'<p class="about">Not measured: {escape("; ".join(others))}.</p>\n'
    return html


def extremes(result: ReportResult) -> str:
    """The worst and the best clips."""
    ranked, by = ranking(result), HEADINGS[result.metric]
    worst, best = ranked[:SHOWN], ranked[SHOWN:][::-1][:SHOWN]
    html = _clip_table(f"{result.name}: the {len(worst)} worst clips by {by}", worst)
    return html + (_clip_table(f"{result.name}: the {len(best)} best", best) if best else "")


def ranking(result: ReportResult) -> list[ReportClip]:
    """All clips, the worst first."""
    sign = BETTER[result.metric]
    return sorted(
        result.clips.values(),
        key=lambda clip: (sign * getattr(clip.score, result.metric), clip.clip_id),
    )


def failures(result: ReportResult) -> str:
    """How many clips fail in which way, how they score against the others, and the worst."""
    rows, tables = [], ""
    for mode in MODES:
        measured, failing = _of_mode(result, mode)
        others = [clip for clip in result.clips.values() if clip not in failing]
        told = f"{len(failing)} of {measured}" if measured else f"not measured: give {mode.lacks}"
        means = [_mean_of(some, result.metric) for some in (failing, others)]
        rows.append([escape(mode.name), escape(mode.about), told, *means])
        if failing:
            tables += _clip_table(f"{result.name}: {mode.name.lower()}, worst", failing[:SHOWN])
    by = HEADINGS[result.metric]
    header = ["mode", "measure", "clips", f"{by}: these", "the others"]
    caption = f"{result.name}: the failure modes of the paper's section 11"
    return table(caption, header, rows, words=2) + tables


def failing_clips(result: ReportResult) -> list[str]:
    """Ids of the clips that the failure modes show."""
    return [clip.clip_id for mode in MODES for clip in _of_mode(result, mode)[1][:SHOWN]]


def modes_of(clip: ReportClip) -> list[str]:
    """Names of the ways in which a clip fails."""
    return [mode.name for mode in MODES if mode.fails(clip.measures)]


def _of_mode(result: ReportResult, mode: Mode) -> tuple[int, list[ReportClip]]:
    """How many clips the mode is measured of, and those that fail, the worst first."""
    values = {clip_id: mode.value(clip.measures) for clip_id, clip in result.clips.items()}
    known = {clip_id: value for clip_id, value in values.items() if value is not None}
    failing = [clip for clip in result.clips.values() if mode.fails(clip.measures)]
    sign = 1 if mode.low_is_worst else -1
    return len(known), sorted(failing, key=lambda clip: sign * known[clip.clip_id])


def _clip_table(caption: str, clips: Sequence[ReportClip]) -> str:
    metrics = [metric for metric in BETTER if _is_known(metric, [clip.score for clip in clips])]
    rows = [
        [
            clip_link(clip.clip_id),
            escape(clip.category),
            escape(", ".join(modes_of(clip)) or "none"),
        ]
        + [number(getattr(clip.score, metric)) for metric in metrics]
        + [number(clip.measures.first_psnr)]
        for clip in clips
    ]
    headings = [HEADINGS[metric] for metric in metrics]
    header = ["clip", "category", "fails by", *headings, "first frame, dB"]
    return table(caption, header, rows, words=3)


def _mean(
    result: ReportResult, group: str, score: Score, name: str, scale: tuple[float, float]
) -> str:
    ends = result.result.scores.intervals[group].get(name)
    return with_range(getattr(score, name), ends, *scale)


def _scale(result: ReportResult, name: str) -> tuple[float, float]:
    """From the lowest to the highest end of all groups."""
    groups = result.result.scores.intervals.values()
    found = [end for ends in groups if name in ends for end in (ends[name].low, ends[name].high)]
    numbers = [end for end in found if not isinstance(end, str)]
    return (min(numbers), max(numbers)) if numbers else (0.0, 1.0)


def _takes(result: ReportResult, group: str) -> int:
    return result.result.scores.intervals[group]["psnr"].takes


def _is_known(name: str, groups: Sequence[Score]) -> bool:
    assert name in MEASURES
    return not all(isinstance(getattr(score, name), str) for score in groups)


def _mean_of(clips: Sequence[ReportClip], metric: str) -> str:
    values = [getattr(clip.score, metric) for clip in clips]
    return number(sum(values) / len(values)) if values else "no clips"
