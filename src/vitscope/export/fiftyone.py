"""Exports maps to FiftyOne: each map becomes a `Heatmap` of its photo, with an image file in a folder."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitscope.errors import MissingDependencyError, ResultError
from vitscope.explanation import Explanation, require_image
from vitscope.geometry import ImageRegion
from vitscope.render.raster import limits

_SIDE = 512  # pixels of the longer side of a map's file, which FiftyOne stretches over the photo


def add(dataset: Any, explanations: Iterable[Explanation], folder: str | Path, *, field: str = "vitscope") -> int:
    """Add maps to a FiftyOne dataset.

    Photos in the dataset get one more field; others are added.

    Each map becomes `FIELD_METHOD`, a `Heatmap` whose file is an 8-bit PNG in `folder`; `low` and `high` are the map's
    own values at 0 and 255, `score`, `target` and `model` go beside them. Adding the same photo and method to the same
    field again replaces map and file.

    Args:
        dataset: a `fiftyone.Dataset`.
        explanations: of photos that are files.
        folder: where the maps go; FiftyOne stores the paths, so it must not move.
        field: prefix of the fields' names.

    Returns:
        The number of maps added.

    Raises:
        MissingDependencyError: FiftyOne is not installed.
        ResultError: an explanation of an image that is not a file.
    """
    try:
        import fiftyone as fo
    except ImportError:
        raise MissingDependencyError("FiftyOne", "fiftyone") from None
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    samples = {sample.filepath: sample for sample in dataset}
    count = 0
    for e in explanations:
        path = Path(str(e.provenance.get("source", ""))).resolve()
        if not path.is_file():
            raise ResultError.coded(
                "export.not-a-file",
                "'{source}' is not a file, but FiftyOne shows photos from disk",
                source=e.provenance.get("source"),
            )
        low, high = limits(e.map, "minmax")
        name = re.sub(r"\W", "_", f"{field}_{e.method}")
        apart = hashlib.blake2b(str(path).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        heat = folder / f"{path.stem}-{apart}-{name}.png"
        _map_image(e, low, high).save(heat)
        sample = samples.get(str(path))
        if sample is None:
            sample = samples[str(path)] = fo.Sample(filepath=str(path))
            dataset.add_sample(sample)
        fields = {"method": e.method, "model": e.provenance.get("model"), "target": e.target, "score": e.score}
        sample[name] = fo.Heatmap(map_path=str(heat), range=[0, 255], low=low, high=high, **fields)
        sample.save()
        count += 1
    return count


def _map_image(explanation: Explanation, low: float, high: float) -> Image.Image:
    """Draw the map at the photo's aspect, 0 to 255; 0 outside the model's input."""
    require_image(explanation)
    region = explanation.region
    shrink = min(1.0, _SIDE / max(region.size))
    width, height = (max(1, round(length * shrink)) for length in region.size)
    sx, sy = width / region.size[0], height / region.size[1]
    left, top, right, bottom = region.box
    box = (left * sx, top * sy, right * sx, bottom * sy)
    left, top, right, bottom = region.cells or region.box
    cells = (left * sx, top * sy, right * sx, bottom * sy)
    small = ImageRegion((width, height), box, region.input, cells if region.cells else None)
    placed = np.nan_to_num(small.upsample(explanation.map), nan=low)
    return Image.fromarray(((placed - low) / max(high - low, 1e-30) * 255 + 0.5).astype(np.uint8))
