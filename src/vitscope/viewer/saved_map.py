"""One saved map as the viewer's document: no model, no queries, nothing to measure."""

import base64
import io
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from vitscope._catalogues import page_messages
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration
from vitscope.metrics.ranking import rank_map
from vitscope.viewer.packed import Packed, scaled

__all__ = ["document_of"]

_WHY = msg("viewer.no-model", "a saved map has no model behind it")
_MISSING = (msg("viewer.queries", "queries"), msg("viewer.measurement", "measurement"))


def document_of(explanation: Explanation) -> dict[str, Any]:
    """Header and arrays, as `View.document()` gives them for a model: the map, its prefix, its order, the photo.

    Raises:
        UsageError: an explanation without its photo.
    """
    told, name = explanation.provenance, explanation.method
    values, scale = scaled(explanation.map)
    order = rank_map(explanation.map, int(told.get("seed", 0))).order.astype(np.uint16)
    arrays = {f"map.{name}": Packed.of(values), f"order.{name}": Packed.of(order)}
    entry = {
        "id": name,
        "method": explanation.method,
        "options": told.get("options", {}),
        "target": explanation.target,
        "label": None,
        "score": explanation.score,
        "scale": scale,
        "prefix": explanation.prefix.tolist(),
        "signed": bool(explanation.map.min() < 0 < explanation.map.max()),
        "norm": told.get("drawing", {}).get("norm"),
        "notes": list(told.get("notes", [])),
        "caveat": explanation.caveat,
        "source": "",
        "passes": "",
        "sums_to_one": False,
        "statistics": concentration(explanation),
        "command": "",
        "measurement": None,
    }
    photo = _jpeg(explanation.photo.pil())
    header = {
        "schema": 1,
        "kind": "view",
        "vitscope": __version__,
        "model": {
            "reference": str(told.get("model", "")),
            "adapter": str(told.get("adapter", "")),
            "weights": str(told.get("weights", "")),
        },
        "photo": {
            "name": explanation.photo.name,
            "source": explanation.photo.source,
            "notes": list(explanation.photo.notes),
        },
        "images": {"photo": photo, "seen": _jpeg(_seen(explanation))},
        "region": asdict(explanation.region),
        "layout": asdict(explanation.layout),
        "layers": [],
        "attention": {"why": _WHY, "error": None, "heads_scale": [], "max_mb": 0},
        "maps": [entry],
        "predictions": [[label, p] for label, p in explanation.predictions],
        "statistics": {"layers": [], "sinks": []},
        "missing": [{"what": what, "why": _WHY} for what in _MISSING],
        "seed": int(told.get("seed", 0)),
        "command": "",
    }
    return {
        "header": header,
        "messages": page_messages(header),
        "arrays": {key: one.document() for key, one in arrays.items()},
    }


def _seen(explanation: Explanation) -> Image.Image:
    (height, width), (left, top, right, bottom) = explanation.region.input, explanation.region.box
    return explanation.photo.pil().transform(
        (width, height), Image.Transform.EXTENT, (left, top, right, bottom), Image.Resampling.BICUBIC
    )


def _jpeg(image: Image.Image) -> str:
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((1600, 1600), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=86)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
