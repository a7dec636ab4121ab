"""A benchmark's report as one HTML page: no link leads out of it, nothing in it runs."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from vitscope._version import __version__
from vitscope.bench.runner import PRIORS
from vitscope.bench.summary import BenchmarkSummary, MethodScore, format_number
from vitscope.metrics.resampling import Estimate
from vitscope.render.scores import Dot, dots, scatter

__all__ = ["WorstCase", "outline_mask", "render_report"]

_LINE = (0, 255, 128)
_THUMB = 224
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1, h2 { font-weight: 600 } h2 { margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid #8883; white-space: nowrap }
th:first-child, td:first-child { text-align: left } td:first-child { white-space: normal; min-width: 12rem }
thead th { vertical-align: bottom; white-space: normal }
small { opacity: .65 } tr.prior { opacity: .65 } .prior small { opacity: 1 } .wide { overflow-x: auto }
img { max-width: 100%; border-radius: 4px } img.plot { background: #fff }
.row { display: flex; flex-wrap: wrap; gap: 12px; margin: 10px 0 } figure { margin: 0; width: 224px }
figcaption { font-size: 12px; overflow-wrap: anywhere } dl { display: grid; grid-template-columns: max-content auto }
dt { opacity: .65; padding-right: 1rem } dd { margin: 0; overflow-wrap: anywhere }
"""


@dataclass(frozen=True, eq=False)
class WorstCase:
    """One case that went badly.

    Attributes:
        name: the case's.
        pictures: (caption, picture) from left to right.
    """

    name: str
    pictures: Sequence[tuple[str, Image.Image]]


def outline_mask(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> Image.Image:
    """The picture with a line around the mask."""
    wide = max(1, round(min(mask.shape) / 160))
    inner = mask.copy()
    for _ in range(wide):
        padded = np.pad(inner, 1)
        inner &= padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = _LINE
    return Image.fromarray(drawn)


def render_report(summary: BenchmarkSummary, worst: Sequence[WorstCase]) -> str:
    """The whole report.

    Args:
        summary: the table.
        worst: cases to show, the worst first.
    """
    info, cases = summary.info, sum(summary.groups.values())
    parts = [
        f"<h1>{_safe(info.title)}</h1>",
        f"<p>{_safe(_lead(summary, cases))}</p>",
        f'<div class="wide">{_main(summary)}</div>',
        f"<p><small>{_safe(_reading(summary))}</small></p>",
        *(f"<p><small>{_safe(note)}</small></p>" for note in summary.notes),
        _image(dots(_panels(summary)), "every number with its interval"),
    ]
    if summary.timed:
        parts += [
            "<h2>Accuracy and cost</h2>",
            _image(
                scatter(
                    _dots(summary, info.headline),
                    "cost of one map, in plain forwards (preprocessing included)",
                    info.metrics[info.headline],
                ),
                "accuracy against cost",
            ),
        ]
    if len(summary.groups) > 1:
        parts += ["<h2>By group</h2>", f'<div class="wide">{_groups(summary)}</div>']
    if worst:
        parts += [f"<h2>Where {_safe(summary.reference)} does worst</h2>", *map(_worst, worst)]
    parts += ["<h2>Made from</h2>", _options(summary)]
    title = f"vitscope bench {summary.kind}"
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">\n'
        f"<title>{_safe(title)}</title>\n<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _lead(summary: BenchmarkSummary, cases: int) -> str:
    info = summary.info
    groups = ", ".join(f"{count} {group}" for group, count in summary.groups.items() if group)
    named = f" ({groups})" if len(summary.groups) > 1 else ""
    return (
        f"{summary.options.get('model', '')}: {cases} cases{named}, sorted by {info.metrics[info.headline]}. "
        f"Knowing nothing scores: {info.chance}."
    )


def _reading(summary: BenchmarkSummary) -> str:
    cost = "cost in plain forwards, median and its interval" if summary.timed else "median seconds of one map"
    return (
        "In brackets 95 % bootstrap intervals over the cases. The difference is from "
        f"{summary.reference} on the same cases; p by random signs, corrected for the number of methods (Holm). "
        f"Last column: {cost}."
    )


def _main(summary: BenchmarkSummary) -> str:
    head = "".join(f"<th>{_safe(heading)}</th>" for heading in summary.headings())
    body = []
    for score, line in zip(summary.scores, summary.table(), strict=True):
        cells = [_safe(cell).replace(" [", "<br><small>[").replace("]", "]</small>") for cell in line[1:]]
        resolved = "" if score.resolved in ("", score.method) else f"<br><small>{_safe(score.resolved)}</small>"
        kind = ' class="prior"' if score.method in PRIORS else ""
        body.append(f"<tr{kind}><td>{_safe(line[0])}{resolved}</td>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _groups(summary: BenchmarkSummary) -> str:
    shown = summary.shown()
    head = "".join(f"<th>{_safe(summary.info.metrics[name])}</th>" for name in shown)
    body = []
    for group, count in summary.groups.items():
        body.append(f'<tr><th colspan="{len(shown) + 1}" style="text-align:left">{_safe(group)} ({count})</th></tr>')
        for score in summary.scores:
            numbers = score.groups.get(group, {})
            cells = "".join(f"<td>{format_number(numbers[n]) if n in numbers else ''}</td>" for n in shown)
            body.append(f"<tr><td>{_safe(score.method)}</td>{cells}</tr>")
    return f"<table><thead><tr><th>method</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _panels(summary: BenchmarkSummary) -> list[tuple[str, list[Dot]]]:
    return [(summary.info.metrics[name], _dots(summary, name)) for name in summary.shown()]


def _dots(summary: BenchmarkSummary, name: str) -> list[Dot]:
    return [_dot(score, score.numbers[name], summary.reference) for score in summary.scores if name in score.numbers]


def _dot(score: MethodScore, number: Estimate, reference: str) -> Dot:
    prior, ratio = score.method in PRIORS, score.ratio
    cost = (ratio.value, ratio.low, ratio.high) if ratio and not prior else (0.0, 0.0, 0.0)
    return Dot(score.method, number.value, number.low, number.high, *cost, prior, score.method == reference)


def _worst(one: WorstCase) -> str:
    figures = []
    for caption, picture in one.pictures:
        small = picture.copy()
        small.thumbnail((2 * _THUMB, 2 * _THUMB))
        figures.append(
            f'<figure><img alt="{_safe(caption)}" width="{_THUMB}" src="data:image/jpeg;base64,{_data(small, "JPEG")}">'
            f"<figcaption>{_safe(caption)}</figcaption></figure>"
        )
    return f'<h3>{_safe(one.name)}</h3><div class="row">{"".join(figures)}</div>'


def _options(summary: BenchmarkSummary) -> str:
    options = {"vitscope": __version__, **summary.options}
    lines = "".join(f"<dt>{_safe(name)}</dt><dd>{_safe(value)}</dd>" for name, value in options.items())
    return f"<dl>{lines}</dl>"


def _image(picture: Image.Image, alt: str) -> str:
    return f'<p><img class="plot" alt="{_safe(alt)}" src="data:image/png;base64,{_data(picture, "PNG")}"></p>'


def _data(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return base64.b64encode(buffer.getvalue()).decode()


def _safe(text: object) -> str:
    return html.escape(str(text))
