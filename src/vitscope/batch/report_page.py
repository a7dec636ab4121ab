"""Renders the report of a batch as one self-contained HTML page without scripts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float
from PIL import Image

from vitscope._version import __version__
from vitscope.batch.report import SHORT_ID, SINK_FACTOR, Overview, SinkCounts
from vitscope.batch.results import explanation_from_row
from vitscope.batch.rows import SENTENCES
from vitscope.explanation import Explanation
from vitscope.metrics.verdict_text import MARKS
from vitscope.render import raster
from vitscope.render.html import data_url, render_template
from vitscope.render.raster import StyleOptions, limits

_BARS, _FEWEST_BARS = 40, 5
_TITLES = {
    "effective_share": (
        "breadth",
        "the share of the patches that the map is spread over: exp of its entropy over their number",
    ),
    "largest_share": ("largest patch", "the largest patch's share of the weight of all patches"),
    "prefix_share": ("prefix tokens", "share of all weight on CLS and registers"),
}


def render_report(overview: Overview, name: str, folder: Path | None = None) -> str:
    """Return the report of the run `name` as HTML.

    Args:
        overview: the run.
        name: its title.
        folder: where the page will lie; pages of the viewer are linked from there. None links none.
    """
    grids = sorted(overview.sinks.items(), key=lambda one: -one[1].maps)[:3]
    views = _links(overview, folder)
    return render_template(
        "vitscope.batch",
        "report.html",
        title=name,
        methods=", ".join(overview.plan.get("methods", ())),
        plan={"model": "", "weights": "", **overview.plan},
        counts=[
            ("images", f"{overview.images:,}"),
            ("explained", f"{overview.images - overview.failed:,}"),
            ("failed", f"{overview.failed:,}"),
            ("maps", f"{sum(v['largest_share'].size for v in overview.numbers.values()):,}"),
            ("images/s per worker", f"{overview.images / overview.seconds:.3g}" if overview.seconds else "–"),
        ],
        failures=overview.failures,
        charts=_charts(overview.numbers),
        sinks=[_sinks(*one) for one in grids],
        sections=_sections(overview, views),
        version=__version__,
    )


def _links(overview: Overview, folder: Path | None) -> dict[str, str]:
    """Return the addresses of the viewer's pages as seen from a folder."""
    if folder is None:
        return {}
    return {name: quote(Path(os.path.relpath(path, folder)).as_posix()) for name, path in overview.views.items()}


def _charts(numbers: Mapping[str, Mapping[str, Float[np.ndarray, " n"]]]) -> list[tuple[str, str, Any]]:
    """Return title, explanation and histograms of each number; of prefix tokens those methods that give them any."""
    charts = []
    for key, (title, about) in _TITLES.items():
        values = {m: one[key] for m, one in numbers.items() if key != "prefix_share" or one[key].any()}
        if values:
            charts.append((title, about, _histograms(values, title)))
    return charts


def _histograms(values: Mapping[str, Float[np.ndarray, " n"]], title: str) -> list[dict[str, Any]]:
    """Return a histogram for each method, all on the same axes, with fewer bars where there are few maps."""
    every = np.concatenate(list(values.values())).astype(np.float64)
    low, high = float(every.min()), float(every.max())
    span = max(high - low, 1e-6 * max(abs(low), 1.0))  # bars that float32 could not tell apart are no bars
    bars = int(np.clip(np.ceil(2 * min(map(len, values.values())) ** (1 / 3)), _FEWEST_BARS, _BARS))
    found = {m: np.histogram(one.astype(np.float64), bars, (low, low + span)) for m, one in values.items()}
    most, wide, tall = max(int(counts.max()) for counts, _ in found.values()), 320 / bars, 110
    return [
        {
            "method": method,
            "caption": f"{values[method].size:,} maps; median {np.median(values[method]):.3g}",
            "label": f"{title}, {method}: histogram of {values[method].size:,} maps from {low:.3g} to {high:.3g}",
            "width": 320,
            "height": tall,
            "low": f"{low:.3g}",
            "high": f"{high:.3g}",
            "most": f"{most:,} {'map' if most == 1 else 'maps'}",
            "bars": [
                {
                    "x": f"{at * wide:.1f}",
                    "y": f"{tall - tall * count / most:.1f}",
                    "width": f"{max(wide - 1, 1):.1f}",
                    "height": f"{tall * count / most:.1f}",
                    "label": f"{edges[at]:.3g} to {edges[at + 1]:.3g}: {count:,}",
                }
                for at, count in enumerate(counts.tolist())
                if count
            ],
        }
        for method, (counts, edges) in found.items()
    ]


def _sinks(grid: tuple[int, int], found: SinkCounts) -> tuple[str, str]:
    """Draw how often each patch is a sink; return the image, empty where none is, and its caption."""
    share, even = found.border
    per_map, most = found.counts.sum() / max(found.maps, 1), int(found.counts.max())
    maps = f"{found.maps:,} {'map' if found.maps == 1 else 'maps'} of {grid[0]} x {grid[1]} patches"
    if not most:
        return "", f"No patch in {maps} holds more than {SINK_FACTOR} times its even share."
    caption = (
        f"How often a patch holds more than {SINK_FACTOR} times its even share, in {maps}; white is {most:,} "
        f"{'time' if most == 1 else 'times'}. Such patches a map: {per_map:.2g}; "
        f"{share:.0%} of them are on the border, which has {even:.0%} of the patches."
    )
    side = max(1, 360 // max(grid))
    level = (found.counts / max(most, 1)).astype(np.float32)
    image = Image.fromarray((level * 255).astype(np.uint8).repeat(side, 0).repeat(side, 1))
    return data_url(image, "PNG"), caption


def _sections(overview: Overview, views: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the pictures, each image once: the extremes of each method, then others at random, method by method."""
    if overview.images - overview.failed <= len(overview.sample):  # all are in the sample
        images = sorted(overview.sample, key=lambda rows: rows[0]["effective_patches"])
        first = images[0][0]["method"] if images else ""
        about = f"The most concentrated by {first} first."
        return [{"title": "All images", "about": about, "cards": [_card(rows, views) for rows in images]}]
    sections, shown = [], set()
    for title, about, found in (
        ("Most concentrated", "the maps with the smallest breadth", overview.narrow),
        ("Least concentrated", "the maps with the largest breadth", overview.broad),
    ):
        for method, rows in found.items():
            cards = [_card([row], views) for row in rows if (row["id"], method) not in shown]
            shown |= {(row["id"], method) for row in rows}
            sections.append({"title": f"{title} by {method}", "about": f"Of {method}, {about}.", "cards": cards})
    ids = {name for name, _ in shown}
    cards = [_card(rows, views) for rows in overview.sample if rows[0]["id"] not in ids]
    about = "A random sample of the other images: the smallest ids, which are hashes."
    return [*sections, {"title": "Contact sheet", "about": about, "cards": cards}]


def _card(rows: Sequence[Mapping[str, Any]], views: Mapping[str, str]) -> dict[str, Any]:
    """Return one image with its maps side by side."""
    name, short = rows[0]["source"].replace("\\", "/").rpartition("/")[2], rows[0]["id"][:SHORT_ID]
    return {
        "name": name,
        "id": short,
        "link": views.get(short, ""),
        "many": len(rows),
        "maps": [_map(row, name) for row in rows],
    }


def _map(row: Mapping[str, Any], name: str) -> dict[str, str]:
    e, patches = explanation_from_row(row), row["grid_rows"] * row["grid_columns"]
    about = f"{row['effective_patches']:.0f} of {patches} patches, the largest holds {row['largest_share']:.1%}"
    return {
        "alt": f"{row['method']} over {name}",
        "image": data_url(overlay_or_heat(e), longest=400, quality=80),
        "title": " · ".join([row["method"], *([str(row["target"])] if row["target"] else [])]),
        "about": "; ".join([about, *e.remarks, *_verdicts(row)]),
        "sentence": row.get(SENTENCES["en"]) or "",
    }


def _verdicts(row: Mapping[str, Any]) -> list[str]:
    """Say of each measured number how the map compares with random maps."""
    names = [column.removesuffix("_verdict") for column in row if column.endswith("_verdict") and row[column]]
    return [
        f"{MARKS[verdict]} {verdict} ({name} {row[name]:.3g}, random maps {row[f'{name}_random']:.3g})"
        for name in names
        for verdict in [row[f"{name}_verdict"]]
    ]


def overlay_or_heat(e: Explanation) -> Image.Image:
    """Draw the map over the photo, or alone where the photo no longer exists."""
    if e.picture is not None:
        return e.overlay(**_style(e))
    heat = raster.heat(e.map, e.region, e.style(**_style(e)))
    below = Image.new("RGBA", heat.size, (127, 127, 127, 255))
    return Image.alpha_composite(below, heat).convert("RGB")


def _style(e: Explanation) -> StyleOptions:
    """Clip the ends of a map that is drawn over its whole range, where one sink would hide the rest."""
    low, high = limits(e.map, "robust")
    return {"norm": "robust"} if e.style().norm == "minmax" and low < high else {}
