"""The report as one self-contained HTML file: no script, nothing fetched, readable in the dark."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitscope._version import __version__
from vitscope.batch.report import SINK_FACTOR, Overview, SinkCounts
from vitscope.batch.results import explanation_from_row
from vitscope.explanation import Explanation
from vitscope.render import raster
from vitscope.render.raster import StyleOptions, limits

__all__ = ["render_report"]

_BARS = 40
_TITLES = {
    "effective_share": (
        "breadth",
        "share of the patches that a map spreads over: exp of its entropy, over all patches",
    ),
    "largest_share": ("largest patch", "share of the patches' weight that the largest of them holds"),
    "prefix_share": ("prefix tokens", "share of all weight on CLS and registers"),
}
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --line: #d9dde3; --page: #fff; --bar: #3b6ea8 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e8eaed; --soft: #a3abb5; --line: #363c44; --page: #15181c; --bar: #7fb0e6 }}
}}
* {{ box-sizing: border-box }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1240px;
  margin: 0 auto; padding: 1.5rem 1rem 4rem }}
h1 {{ font-weight: 600; margin: 0; overflow-wrap: anywhere }} h2 {{ font-weight: 600; margin: 2.5rem 0 .25rem }}
h3 {{ font-weight: 600; margin: 1.25rem 0 .25rem; font-size: 1rem }}
p, figcaption, td, th {{ overflow-wrap: anywhere }} .soft, figcaption, dt {{ color: var(--soft); font-size: .875rem }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1rem; margin: 1.25rem 0 }}
dd {{ margin: 0; font-size: 1.75rem; font-weight: 600; font-variant-numeric: tabular-nums }}
table {{ border-collapse: collapse; width: 100% }}
td:not(:last-child), th {{ white-space: nowrap }}
td, th {{ text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-top: 1px solid var(--line) }}
.row {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 1rem }}
.many {{ grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)) }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 1.5rem }}
figure {{ margin: 0 }} img {{ display: block; width: 100%; border-radius: 4px }}
svg {{ display: block; width: 100%; height: auto; fill: var(--bar) }} svg text {{ fill: var(--soft); font-size: 11px }}
svg line {{ stroke: var(--line) }} code {{ font-size: .8125rem }}
.places {{ margin-bottom: 1rem }} .places img {{ max-width: 360px }}
</style>
<h1>{title}</h1>
<p class="soft">{lead}</p>
<dl>{counts}</dl>
{body}
<p class="soft">vitscope {version}</p>
</html>
"""


def render_report(seen: Overview, name: str) -> str:
    """The whole report.

    Args:
        seen: what was found.
        name: what the run is called, such as its folder.
    """
    asked = ", ".join(seen.plan.get("methods", ()))
    lead = f"{_safe(asked)} on {_safe(seen.plan.get('model', ''))} · weights {_safe(seen.plan.get('weights', ''))}"
    fine = seen.images - seen.failed
    counts = [
        ("pictures", f"{seen.images:,}"),
        ("explained", f"{fine:,}"),
        ("failed", f"{seen.failed:,}"),
        ("maps", f"{sum(v['largest_share'].size for v in seen.numbers.values()):,}"),
        ("images/s of a worker", f"{seen.images / seen.seconds:.3g}" if seen.seconds else "–"),
    ]
    body = [_failures(seen), *(_method(*one) for one in seen.numbers.items())]
    grids = sorted(seen.sinks.items(), key=lambda one: -one[1].maps)[:3]
    body += ["<h2>Sinks by position</h2>" if grids else "", *(_sinks(*one) for one in grids)]
    body += [
        _cards("Most concentrated", "The maps that spread over the smallest share of their patches.", seen.narrow),
        _cards("Least concentrated", "The maps that spread over the largest share.", seen.broad),
        _cards("Contact sheet", "Chosen by their ids, which are hashes: related to nothing.", seen.sample, small=True),
    ]
    return _PAGE.format(
        title=_safe(name),
        lead=lead,
        counts="".join(f"<div><dt>{_safe(term)}</dt><dd>{number}</dd></div>" for term, number in counts),
        body="\n".join(part for part in body if part),
        version=__version__,
    )


def _failures(seen: Overview) -> str:
    if not seen.failures:
        return ""
    rows = "".join(
        f"<tr><td>{_safe(kind)}</td><td>{count:,}</td><td>{'<br>'.join(_safe(words) for words in told)}</td></tr>"
        for kind, (count, told) in seen.failures.items()
    )
    return f"<h2>Failures</h2><table><tr><th>kind<th>rows<th>the first few</tr>{rows}</table>"


def _method(name: str, numbers: Mapping[str, Float[np.ndarray, " n"]]) -> str:
    charts = "".join(
        f"<figure><h3>{title}</h3>{_histogram(numbers[key], title)}<figcaption>{about}; median "
        f"{np.median(numbers[key]):.3g}</figcaption></figure>"
        for key, (title, about) in _TITLES.items()
    )
    return f'<h2>{_safe(name)}</h2><div class="charts">{charts}</div>'


def _histogram(values: Float[np.ndarray, " n"], title: str) -> str:
    """Bars over the values' own range; each says its numbers when it is pointed at."""
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, _BARS, (low, high if high > low else low + 1e-6))
    wide, tall, most = 8, 110, int(counts.max())
    bars = "".join(
        f'<rect x="{at * wide}" y="{tall - tall * count / most:.1f}" width="{wide - 1}" '
        f'height="{tall * count / most:.1f}"><title>{edges[at]:.3g} to {edges[at + 1]:.3g}: {count:,}</title></rect>'
        for at, count in enumerate(counts.tolist())
        if count
    )
    across = _BARS * wide
    return (
        f'<svg viewBox="0 0 {across} {tall + 18}" role="img" aria-label="{title}: histogram of {values.size:,} maps '
        f'from {low:.3g} to {high:.3g}">{bars}<line x1="0" x2="{across}" y1="{tall}" y2="{tall}"/>'
        f'<text x="0" y="{tall + 14}">{low:.3g}</text>'
        f'<text x="{across}" y="{tall + 14}" text-anchor="end">{high:.3g}</text></svg>'
    )


def _sinks(grid: tuple[int, int], found: SinkCounts) -> str:
    share, even = found.border
    per_map = found.counts.sum() / max(found.maps, 1)
    words = (
        f"{found.maps:,} maps of {grid[0]} x {grid[1]} patches: how often a patch holds more than "
        f"{SINK_FACTOR} times its even share, white where most often ({int(found.counts.max()):,} times). "
        f"{per_map:.2g} such patches a map; "
        f"{share:.0%} of them lie on the border, which is {even:.0%} of the patches."
    )
    side = max(1, 360 // max(grid))
    level = (found.counts / max(int(found.counts.max()), 1)).astype(np.float32)
    picture = Image.fromarray((level * 255).astype(np.uint8).repeat(side, 0).repeat(side, 1))
    figure = f'<img alt="where sinks lie" src="{_data(picture, "PNG")}">'
    return f'<figure class="places">{figure}<figcaption>{words}</figcaption></figure>'


def _cards(title: str, about: str, rows: Sequence[Mapping[str, Any]], small: bool = False) -> str:
    cells = "".join(_card(row, 150 if small else 320, small) for row in rows)
    return f'<h2>{title}</h2><p class="soft">{about}</p><div class="row{" many" if small else ""}">{cells}</div>'


def _card(row: Mapping[str, Any], width: int, small: bool) -> str:
    patches = row["grid_rows"] * row["grid_columns"]
    name = row["source"].replace("\\", "/").rpartition("/")[2]
    lines = [_safe(name)]
    if not small:
        told = [f"{row['method']}", *([str(row["target"])] if row["target"] else [])]
        lines.append(_safe(" · ".join(told)))
        lines.append(
            f"{row['effective_patches']:.0f} of {patches} patches, the largest holds {row['largest_share']:.1%}"
        )
    lines.append(f"<code>{row['id'][:12]}</code>")
    picture = _picture(row)
    picture.thumbnail((width * 2, width * 2))
    return (
        f'<figure><img alt="{_safe(row["method"])} over {_safe(name)}" src="{_data(picture, "JPEG")}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>"
    )


def _picture(row: Mapping[str, Any]) -> Image.Image:
    """The map over the photo, where the photo is still there; else the map alone on the photo's frame."""
    e = explanation_from_row(row)
    if e.picture is not None:
        return e.overlay(**_drawing(e))
    heat = raster.heat(e.map, e.region, e.style(**_drawing(e)))
    below = Image.new("RGBA", heat.size, (127, 127, 127, 255))
    return Image.alpha_composite(below, heat).convert("RGB")


def _drawing(e: Explanation) -> StyleOptions:
    return {"norm": "robust"} if limits(e.map, "robust")[0] < limits(e.map, "robust")[1] else {}


def _data(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.convert("L" if kind == "PNG" else "RGB").save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _safe(text: object) -> str:
    return html.escape(str(text))
