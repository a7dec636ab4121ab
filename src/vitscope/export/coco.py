"""Exports maps as COCO-like JSON: one annotation per map, around its largest bright part."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool

from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.errors import UsageError
from vitscope.explanation import Explanation, require_image

_NO_CLASS = "attended"


def coco(explanations: Iterable[Explanation], *, above: float = 0.2) -> dict[str, Any]:
    """Return a COCO document of images, categories and annotations.

    It consists of plain JSON values.

    The category is the target, else the most probable class, else `attended`. Each annotation has `bbox` (x, y, width,
    height in pixels of the photo), `segmentation` (uncompressed RLE, column by column), `area`, `score` (the class's
    probability or the target's score, null without either), and under `vitscope` the method and model.

    Args:
        explanations: any number; several of one photo share its image.
        above: share of the map's largest value above which a patch belongs to the annotation, in [0, 1).
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations = []
    for number, e in enumerate(explanations, 1):
        source = str(e.provenance.get("source", e.picture.source if e.picture else number))
        width, height = e.region.size
        image = images.setdefault(
            source, {"id": len(images) + 1, "file_name": source, "width": width, "height": height}
        )
        label, score = (e.target, e.score) if e.target else (e.predictions[0] if e.predictions else (_NO_CLASS, None))
        inside = bright_region(e, above)
        ys, xs = np.nonzero(inside)
        left, top = int(xs.min()), int(ys.min())
        annotations.append(
            {
                "id": number,
                "image_id": image["id"],
                "category_id": categories.setdefault(label, len(categories) + 1),
                "bbox": [left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
                "area": int(inside.sum()),
                "segmentation": {"size": [height, width], "counts": _runs(inside)},
                "iscrowd": 1,
                "score": score,
                "vitscope": {"method": e.method, "model": e.provenance.get("model"), "above": above},
            }
        )
    return {
        "info": {"description": f"maps by vitscope {__version__}"},
        "images": list(images.values()),
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": annotations,
    }


def bright_region(explanation: Explanation, above: float) -> Bool[np.ndarray, "H W"]:
    """Return the largest connected bright part of a map as pixels of the photo.

    Bright are the patches above a share of the map's largest value, connected those that share an edge (Zhou et al.
    2016, "Learning Deep Features for Discriminative Localization", section 3.2, on patches instead of pixels). The part
    is never empty.

    Raises:
        UsageError: a share outside [0, 1).
    """
    if not 0 <= above < 1:
        raise UsageError(msg("export.above", "{@above} must be in [0, 1), got {above}", above=above))
    require_image(explanation)
    weight = explanation.map
    bright = weight > above * weight.max() if weight.max() > 0 else weight == weight.max()
    parts = np.where(bright, np.arange(1, weight.size + 1).reshape(weight.shape), 0)
    while True:  # every patch takes the largest number around it, until each part has a single one
        padded = np.pad(parts, 1)
        around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:], parts]
        spread = np.where(bright, np.max(around, axis=0), 0)
        if np.array_equal(spread, parts):
            break
        parts = spread
    counts = np.bincount(parts[bright])
    placed = explanation.region.upsample((parts == counts.argmax()).astype(np.float32), smooth=False)
    return np.asarray(np.nan_to_num(placed) > 0.5)


def _runs(inside: Bool[np.ndarray, "H W"]) -> list[int]:
    """Return the lengths of runs, column by column; the first one is outside."""
    flat = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs
