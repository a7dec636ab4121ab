"""One finished map as the viewer's document, without the model."""

from dataclasses import asdict
from typing import Any

from vitscope._catalogues import page_messages
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.explanation import Explanation
from vitscope.viewer.document import SCHEMA, image_urls, map_entry, photo_entry

_WHY = msg("viewer.no-model", "a saved map has no model behind it")
_MISSING = (msg("viewer.queries", "queries"), msg("viewer.measurement", "measurement"))


def document_of(explanation: Explanation) -> dict[str, Any]:
    """Return header and arrays as `View.document()` gives them; raise a UsageError without a photo."""
    provenance, photo = explanation.provenance, explanation.photo
    entry, arrays = map_entry(explanation, explanation.method)
    header = {
        "schema": SCHEMA,
        "kind": "view",
        "vitscope": __version__,
        "model": {
            "reference": str(provenance.get("model", "")),
            "adapter": str(provenance.get("adapter", "")),
            "weights": str(provenance.get("weights", "")),
        },
        "photo": photo_entry(photo),
        "images": image_urls(photo, explanation.region),
        "region": asdict(explanation.region),
        "layout": asdict(explanation.layout),
        "layers": [],
        "attention": {"why": _WHY, "error": None, "heads_scale": [], "max_mb": 0},
        "maps": [entry],
        "predictions": [[label, p] for label, p in explanation.predictions],
        "activation": explanation.activation,
        "statistics": {"layers": [], "sinks": []},
        "missing": [{"what": what, "why": _WHY} for what in _MISSING],
        "seed": int(provenance.get("seed", 0)),
        "command": "",
    }
    return {
        "header": header,
        "messages": page_messages(header),
        "arrays": {key: one.document() for key, one in arrays.items()},
    }
