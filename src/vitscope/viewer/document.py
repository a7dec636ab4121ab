"""What a document holds whether or not the model is there: one map's entry, the image, JSON without NaN."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from vitscope._messages import visible
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion
from vitscope.images import Picture
from vitscope.metrics.concentration import concentration
from vitscope.metrics.ranking import rank_map
from vitscope.render.html import data_url
from vitscope.render.nearly_grey import colour_weights, nearly_grey
from vitscope.viewer.packed import Packed, scaled

SCHEMA = 1
_PHOTO, _INPUT = (1600, 86), (1024, 84)  # longest side in pixels, JPEG quality


def photo_entry(picture: Picture) -> dict[str, Any]:
    """Return what the header says of the photo; control characters of its name are visible, its path is as it is."""
    return {"name": visible(picture.name), "source": picture.source, "notes": list(picture.notes)}


def map_entry(explanation: Explanation, name: str) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Return a map's entry in the header, as far as the map itself says it, and the map's arrays.

    Args:
        explanation: the map.
        name: identifies the map in its page.

    Returns:
        The entry, and `map.NAME` (float16, to be multiplied by `scale`) and `order.NAME` (patches, hottest first).
    """
    provenance = explanation.provenance
    values, scale = scaled(explanation.map)
    order = rank_map(explanation.map, int(provenance.get("seed", 0))).order.astype(np.uint16)
    entry = {
        "id": name,
        "method": explanation.method,
        "options": provenance.get("options", {}),
        "target": explanation.target,
        "label": None,
        "score": explanation.score,
        "scale": scale,
        "prefix": explanation.prefix.tolist(),
        "signed": bool(explanation.map.min() < 0 < explanation.map.max()),
        "norm": provenance.get("drawing", {}).get("norm"),
        "notes": list(provenance.get("notes", [])),
        "caveat": explanation.caveat,
        "remarks": explanation.remarks,
        "source": "",
        "passes": "",
        "sums_to_one": False,
        "statistics": concentration(explanation),
        "command": "",
        "measurement": None,
    }
    return entry, {f"map.{name}": Packed.of(values), f"order.{name}": Packed.of(order)}


def image_urls(picture: Picture, region: ImageRegion) -> dict[str, str]:
    """Return the photo and the model's input as `data:` URLs, and both as they lie below a map (`..._below`).

    The input is the region at the size of the model's input, black where the model was given padding. Beyond the region
    the photo is the same below a map.
    """
    (height, width), (left, top, right, bottom) = region.input, region.box
    corners = (left, top, right, bottom)
    seen = picture.pil().transform((width, height), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC)
    photo, weights = picture.pil(), colour_weights(picture.pixels)
    photo.thumbnail((_PHOTO[0], _PHOTO[0]), Image.Resampling.LANCZOS)
    below = photo.copy()
    scales = photo.width / picture.size[0], photo.height / picture.size[1]
    x, y, far_x, far_y = (round(end * scales[i % 2]) for i, end in enumerate(region.window()))
    below.paste(Image.fromarray(nearly_grey(np.asarray(photo), weights)).crop((x, y, far_x, far_y)), (x, y))
    images = {
        "photo": (photo, *_PHOTO),
        "photo_below": (below, *_PHOTO),
        "input": (seen, *_INPUT),
        "input_below": (Image.fromarray(nearly_grey(np.asarray(seen), weights)), *_INPUT),
    }
    return {
        name: data_url(image, longest=longest, quality=quality, optimize=True)
        for name, (image, longest, quality) in images.items()
    }


def json_safe(value: Any) -> Any:
    """Replace infinity and NaN, which JSON does not know, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): json_safe(one) for key, one in value.items()}
    return [json_safe(one) for one in value] if isinstance(value, (list, tuple)) else value
