"""The report as one HTML file: sections, comparison, and the videos of the clips they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from exo2ego.evaluation.report.clips import ReportResult, read_report_result
from exo2ego.evaluation.report.compare import Comparison, compare
from exo2ego.evaluation.report.markup import anchor, clip_link, items, number, table
from exo2ego.evaluation.report.media import MEGABYTE, Media
from exo2ego.evaluation.report.sections import (
    HEADINGS,
    SHOWN,
    about,
    extremes,
    failing_clips,
    failures,
    modes_of,
    ranking,
    scores,
)
from exo2ego.evaluation.tables.claims import BETTER
from stores.atomic import write_whole
from stores.progress import Track, silent
from stores.reading import Store

MOST_MEGABYTES = 25.0
"""Of videos in a page. Choice: it opens at once, and mails."""


@dataclass(frozen=True)
class ReportWritten:
    """What a call of `write_report` did."""

    out: Path
    megabytes: float
    clips: int
    videos: int
    """Videos in the page."""
    videos_left_out: int
    """Wanted, but beyond the size of the page."""


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    store: Store | None = None,
    most_megabytes: float = MOST_MEGABYTES,
    track: Track = silent,
) -> ReportWritten:
    """Writes the page on one result, or on two and what differs between them.

    `store` adds the motion of the truth. Raises ResultFault for results that cannot be read or
    compared, SamplesFault for a damaged video.
    """
    results = [read_report_result(path, store, track) for path in paths]
    media = Media(int(most_megabytes * MEGABYTE))
    comparison = compare(*results) if len(results) > 1 else None
    shown = _clips_to_show(results, comparison)
    videos = [video for clip_id in shown for one in results if (video := one.video(clip_id))]
    media.add(videos)
    text = _page(results, comparison, shown, media).encode()
    write_whole(out, text)
    counts = (len(results[0].clips), len(media.uris), len(media.left_out))
    return ReportWritten(out, len(text) / MEGABYTE, *counts)


def _clips_to_show(results: Sequence[ReportResult], comparison: Comparison | None) -> list[str]:
    """Every clip that a section names, the most telling first."""
    found: list[str] = []
    for one in results:
        ranked = [clip.clip_id for clip in ranking(one)]
        found += [*ranked[:SHOWN], *ranked[::-1][:SHOWN], *failing_clips(one)]
    if comparison:
        found += [clip_id for some in _extreme_differences(results, comparison) for clip_id in some]
    return list(dict.fromkeys(found))


def _page(
    results: Sequence[ReportResult], comparison: Comparison | None, shown: list[str], media: Media
) -> str:
    parts = {
        "What was scored": "".join(map(about, results)),
        "Scores": "".join(map(scores, results)),
        "Comparison": _comparison(results, comparison) if comparison else "",
        "Worst and best clips": "".join(map(extremes, results)),
        "Failure modes": "".join(map(failures, results)),
        "Videos": _videos(results, shown, media),
    }
    parts = {title: body for title, body in parts.items() if body}
    links = "".join(f'<li><a href="#{_id(title)}">{title}</a></li>' for title in parts)
    body = "\n".join(
        f'<section id="{_id(title)}"><h2>{title}</h2>\n{html}</section>'
        for title, html in parts.items()
    )
    style = (files("exo2ego") / "evaluation" / "report" / "style.css").read_text("utf-8")
    title = escape(" and ".join(one.name for one in results))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>exo2ego report: {title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the content</a>\n'
        f'<header><h1>Report: {title}</h1></header>\n<nav aria-label="Sections"><ul>{links}</ul>'
        f'</nav>\n<main id="main">\n{body}\n</main>\n</body>\n</html>\n'
    )


def _id(title: str) -> str:
    return title.lower().replace(" ", "-")


def _comparison(results: Sequence[ReportResult], comparison: Comparison) -> str:
    """The second result against the first: means, the largest differences, then every clip."""
    first, second = (one.name for one in results)
    rows = [
        [
            *(escape(HEADINGS[one.metric]), number(one.mean, sign=True)),
            " to ".join(number(end, sign=True) for end in one.interval or ()) or "one take",
            *(str(one.better), str(one.worse), str(one.equal)),
        ]
        for one in comparison.metrics
    ]
    header = ["metric", "mean difference", "95 % interval", "clips better", "worse", "equal"]
    html = table(f"{second} less {first}: means over takes", header, rows)
    gains, losses = _extreme_differences(results, comparison)
    html += _difference_table(f"Where {second} gains most", results, comparison, gains)
    html += _difference_table(f"Where {second} loses most", results, comparison, losses)
    every = sorted(comparison.differences)
    whole = _difference_table(f"{second} less {first}", results, comparison, every)
    return html + f"<details><summary>All {len(every)} clips</summary>\n{whole}</details>\n"


def _extreme_differences(
    results: Sequence[ReportResult], comparison: Comparison
) -> tuple[list[str], list[str]]:
    """The clips where the second result gains most, and those where it loses most."""
    metric = "psnr" if "psnr" in (one.metric for one in results) else "lpips"
    gain = {
        clip_id: BETTER[metric] * of_clip[metric]
        for clip_id, of_clip in comparison.differences.items()
    }
    ranked = sorted(gain, key=lambda clip_id: (-gain[clip_id], clip_id))
    gains = [clip_id for clip_id in ranked if gain[clip_id] > 0]
    losses = [clip_id for clip_id in ranked[::-1] if gain[clip_id] < 0]
    return gains[:SHOWN], losses[:SHOWN]


def _difference_table(
    caption: str, results: Sequence[ReportResult], comparison: Comparison, clip_ids: Sequence[str]
) -> str:
    metrics = [one.metric for one in comparison.metrics]
    links = {clip_id: clip_link(clip_id) for clip_id in _clips_to_show(results, comparison)}
    rows = [
        [links.get(clip_id, escape(clip_id)), escape(results[0].clips[clip_id].category)]
        + [number(comparison.differences[clip_id][metric], sign=True) for metric in metrics]
        for clip_id in clip_ids
    ]
    header = ["clip", "category", *(HEADINGS[metric] for metric in metrics)]
    return table(caption, header, rows, words=2) if rows else ""


def _videos(results: Sequence[ReportResult], shown: Sequence[str], media: Media) -> str:
    """A card for each clip: exo views, truth and what was generated, side by side."""
    cards = "\n".join(_card(results, clip_id, media) for clip_id in shown)
    left = [f"{path.name} of {path.parent.name}" for path in media.left_out]
    html = f'<div class="clips">\n{cards}\n</div>\n'
    if left:
        limit = media.most_bytes / MEGABYTE
        html += f"<h3>Left out, since the page holds {limit:g} MB of videos</h3>\n{items(left)}"
    return html


def _card(results: Sequence[ReportResult], clip_id: str, media: Media) -> str:
    figures = "".join(_figure(one, clip_id, media) for one in results)
    clip = results[0].clips[clip_id]
    where = escape(f"{clip.take_name}, {clip.category}")
    return (
        f'<article id="{anchor(clip_id)}"><h3>{escape(clip_id)}</h3>'
        f'<p class="about">{where}</p>{figures}</article>'
    )


def _figure(one: ReportResult, clip_id: str, media: Media) -> str:
    clip, video = one.clips[clip_id], one.video(clip_id)
    told = ", ".join(
        f"{HEADINGS[metric]} {number(getattr(clip.score, metric))}" for metric in BETTER
    )
    modes = "".join(f' <span class="mode">{escape(mode)}.</span>' for mode in modes_of(clip))
    label = escape(f"{one.name}: {clip_id}, exo views, truth, generated")
    if video in media.uris:
        picture = (
            f'<video controls loop muted playsinline preload="metadata" aria-label="{label}" '
            f'src="{media.uris[video]}"></video>'
        )
    else:
        why = "left out for the size of the page" if video else "not in the folder of samples"
        picture = f"<p>Its video is {why}.</p>"
    caption = f"<figcaption>{escape(one.name)}: {escape(told)}.{modes}</figcaption>"
    return f"<figure>{picture}{caption}</figure>"
