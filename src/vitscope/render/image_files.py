"""Write a drawing as one file: PNG, JPEG, PDF or SVG."""

from pathlib import Path
from typing import Any

from PIL import Image

from vitscope.render.html import data_url

_OPTIONS: dict[str, dict[str, Any]] = {".png": {"compress_level": 4}}
_JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}  # also what a PDF holds


def write_image(image: Image.Image, path: Path) -> None:
    """Write an image in the format of the file's ending; PDF and SVG hold it unchanged, a pixel a point."""
    suffix = path.suffix.lower()
    if suffix == ".svg":
        size = f'width="{image.width}" height="{image.height}"'
        path.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {image.width} {image.height}">'
            f'<image {size} href="{data_url(image, "PNG")}"/></svg>\n',
            "utf-8",
        )
    else:
        image.save(path, **_OPTIONS.get(suffix, _JPEG))
