"""Renders maps of a batch as one page: breadth, verdict and class are brushed, and the pictures follow."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from PIL import Image

from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.batch._arrow import pa, pc
from vitscope.batch.report import SHORT_ID
from vitscope.batch.report_page import overlay_or_heat
from vitscope.batch.results import explanation_from_row, read_plan, row_batches
from vitscope.batch.rows import SENTENCES
from vitscope.engine.options import Progress
from vitscope.errors import ResultError
from vitscope.explanation import Explanation
from vitscope.geometry import Box, ImageRegion
from vitscope.images import Picture
from vitscope.metrics.verdict_text import MARKS
from vitscope.render.html import data_url, render_template
from vitscope.viewer.page import bundle, content_hash, script

MOST = 2000  # maps in one page: 5 kB each
_SIDE, _QUALITY = 160, 70


def render_explorer(
    out: Path,
    name: str,
    folder: Path | None = None,
    *,
    most: int = MOST,
    lang: str | None = None,
    progress: Progress | None = None,
) -> tuple[str, int, int]:
    """Return a page of a run's maps, and how many of how many maps are in it.

    Args:
        out: the output folder.
        name: the page's title.
        folder: where the page will lie; pages of the viewer are linked from there. None links none.
        most: maps in the page. Of more, whole images are taken, those with the smallest ids: hashes, so a random
            choice, equal each time.
        lang: `en` or `zh`; None is the reader's own.
        progress: called with (name, done, total).

    Raises:
        ResultError: no run, no map, or a shard that cannot be read.

    Cost: reads the dataset twice and each photo that is shown once for each of its maps.
    """
    plan = read_plan(out)
    maps: Counter[str] = Counter()
    for part in row_batches(out, ["id", "error"]):
        maps.update(part.filter(pc.is_null(part["error"]))["id"].to_pylist())
    if not maps:
        raise ResultError(
            msg("batch.no-maps", "{path} has no map yet", path=out),
            msg("batch.nothing-finished.hint", "{@resume=True} continues the batch"),
        )
    chosen: Counter[str] = Counter()
    for image in sorted(maps):
        if chosen.total() + maps[image] > most and chosen:
            break
        chosen[image] = maps[image]
    links = {path.stem: path.resolve() for path in (out / "views").glob("*.html")} if folder else {}
    rows: list[dict[str, Any]] = []
    for part in row_batches(out):
        wanted = pc.and_(pc.is_null(part["error"]), pc.is_in(part["id"], pa.array(list(chosen))))
        for row in part.filter(wanted).to_pylist():
            if progress:
                progress("drawing", len(rows), chosen.total())
            link = links.get(row["id"][:SHORT_ID])
            rows.append(_entry(row, quote(Path(os.path.relpath(link, folder)).as_posix()) if link and folder else ""))
    metrics = [key.removesuffix("_verdict") for key in rows[0]["verdicts"]]
    about = {"title": name, "model": plan.get("model", ""), "version": __version__, "total": maps.total()}
    document = {"rows": rows, "metrics": metrics, "marks": MARKS, "about": about}
    code = script("explore", "vitscope.batch", ("explore-page",))
    style = bundle("explore.css", "vitscope.batch")
    page = render_template(
        "vitscope.batch",
        "explore.html",
        title=name,
        lang=lang,
        policy=Markup(
            f"default-src 'none'; script-src '{content_hash(code)}'; style-src '{content_hash(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=Markup(style),
        document=Markup(json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
        script=Markup(code),
    )
    return page, len(rows), maps.total()


def _entry(row: Mapping[str, Any], link: str) -> dict[str, Any]:
    """Return what the page knows of one map."""
    (top, *_) = row["top"] or ({"label": None},)
    return {
        "id": row["id"][:SHORT_ID],
        "name": row["source"].replace("\\", "/").rpartition("/")[2],
        "method": row["method"],
        "class": row["target"] or top["label"] or "",
        "breadth": row["effective_patches"] / (row["grid_rows"] * row["grid_columns"]),
        "verdicts": {key: value for key, value in row.items() if key.endswith("_verdict")},
        "said": {language: row.get(name) or "" for language, name in SENTENCES.items()},
        "link": link,
        "image": data_url(overlay_or_heat(_small(explanation_from_row(row))), quality=_QUALITY),
    }


def _small(e: Explanation) -> Explanation:
    """Return a map on its photo as small as it is drawn: drawing costs as many pixels as the photo has."""
    (width, height), longest = e.region.size, max(e.region.size)
    if longest <= _SIDE:
        return e
    size = max(1, round(width * _SIDE / longest)), max(1, round(height * _SIDE / longest))
    across, down = size[0] / width, size[1] / height

    def scaled(box: Box) -> Box:
        left, top, right, bottom = box
        return left * across, top * down, right * across, bottom * down

    region = ImageRegion(size, scaled(e.region.box), e.region.input, e.region.cells and scaled(e.region.cells))
    if e.picture is None:
        return replace(e, region=region)
    pixels = np.array(e.picture.pil().resize(size, Image.Resampling.LANCZOS, reducing_gap=2))
    return replace(e, region=region, picture=Picture(pixels, e.picture.name, e.picture.source))
