"""Renders the report of a batch as one self-contained HTML page without scripts."""

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
from vitscope.render.html import data_url, render_template
from vitscope.render.raster import StyleOptions, limits

_BARS = 40
_TITLES = {
    "effective_share": ("breadth", "exp of the map's entropy, as a share of all patches"),
    "largest_share": ("largest patch", "the largest patch's share of the weight of all patches"),
    "prefix_share": ("prefix tokens", "share of all weight on CLS and registers"),
}


def render_report(overview: Overview, name: str) -> str:
    """Return the report of the run `name` as HTML."""
    grids = sorted(overview.sinks.items(), key=lambda one: -one[1].maps)[:3]
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
        methods_charts=[
            (method, [_histogram(numbers[key], *words) for key, words in _TITLES.items()])
            for method, numbers in overview.numbers.items()
        ],
        sinks=[_sinks(*one) for one in grids],
        sections=[
            _section("Most concentrated", "The maps with the smallest breadth.", overview.narrow),
            _section("Least concentrated", "The maps with the largest breadth.", overview.broad),
            _section("Contact sheet", "A random sample: the smallest ids, which are hashes.", overview.sample, True),
        ],
        version=__version__,
    )


def _histogram(values: Float[np.ndarray, " n"], title: str, about: str) -> dict[str, Any]:
    """Return the bars of a histogram over the values' own range, with their tooltips."""
    low, high = float(values.min()), float(values.max())
    width = max(high - low, 1e-6 * max(abs(low), 1.0))  # bars that float32 could not tell apart are no bars
    counts, edges = np.histogram(values.astype(np.float64), _BARS, (low, low + width))
    wide, tall, most = 8, 110, int(counts.max())
    return {
        "title": title,
        "caption": f"{about}; median {np.median(values):.3g}",
        "label": f"{title}: histogram of {values.size:,} maps from {low:.3g} to {high:.3g}",
        "width": _BARS * wide,
        "height": tall,
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "bars": [
            {
                "x": at * wide,
                "y": f"{tall - tall * count / most:.1f}",
                "width": wide - 1,
                "height": f"{tall * count / most:.1f}",
                "label": f"{edges[at]:.3g} to {edges[at + 1]:.3g}: {count:,}",
            }
            for at, count in enumerate(counts.tolist())
            if count
        ],
    }


def _sinks(grid: tuple[int, int], found: SinkCounts) -> tuple[str, str]:
    """Draw how often each patch is a sink; return the image and its caption."""
    share, even = found.border
    per_map = found.counts.sum() / max(found.maps, 1)
    caption = (
        f"How often a patch holds more than {SINK_FACTOR} times its even share, in {found.maps:,} maps of {grid[0]} x "
        f"{grid[1]} patches; white is {int(found.counts.max()):,} times. {per_map:.2g} such patches per map; "
        f"{share:.0%} of them are on the border, which has {even:.0%} of the patches."
    )
    side = max(1, 360 // max(grid))
    level = (found.counts / max(int(found.counts.max()), 1)).astype(np.float32)
    image = Image.fromarray((level * 255).astype(np.uint8).repeat(side, 0).repeat(side, 1))
    return data_url(image, "PNG"), caption


def _section(title: str, about: str, rows: Sequence[Mapping[str, Any]], small: bool = False) -> dict[str, Any]:
    cards = [_card(row, 150 if small else 320, small) for row in rows]
    return {"title": title, "about": about, "small": small, "cards": cards}


def _card(row: Mapping[str, Any], width: int, small: bool) -> dict[str, Any]:
    name = row["source"].replace("\\", "/").rpartition("/")[2]
    patches = row["grid_rows"] * row["grid_columns"]
    about = [
        " · ".join([row["method"], *([str(row["target"])] if row["target"] else [])]),
        f"{row['effective_patches']:.0f} of {patches} patches, the largest holds {row['largest_share']:.1%}",
    ]
    return {
        "alt": f"{row['method']} over {name}",
        "image": data_url(_image(row), longest=2 * width, quality=80),
        "lines": [name] if small else [name, *about],
        "id": row["id"][:12],
    }


def _image(row: Mapping[str, Any]) -> Image.Image:
    """Draw the map over the photo, or alone where the photo no longer exists."""
    e = explanation_from_row(row)
    if e.picture is not None:
        return e.overlay(**_style(e))
    heat = raster.heat(e.map, e.region, e.style(**_style(e)))
    below = Image.new("RGBA", heat.size, (127, 127, 127, 255))
    return Image.alpha_composite(below, heat).convert("RGB")


def _style(e: Explanation) -> StyleOptions:
    return {"norm": "robust"} if limits(e.map, "robust")[0] < limits(e.map, "robust")[1] else {}
