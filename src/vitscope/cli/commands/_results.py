"""Where results of commands go: usable images, free folders, image files, and what is printed of them."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope._files import already_there, atomic_write, path_exists
from vitscope._version import __version__
from vitscope.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image


def unusable(image: str) -> ImageError | None:
    """Return what is wrong with an image file, as far as its first bytes tell; other media are only looked for."""
    from vitscope.batch.sources import IMAGE_SUFFIXES
    from vitscope.images import check_image_file

    path = Path(image)
    try:
        if not path_exists(path) or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()):
            check_image_file(path)
    except ImageError as error:
        return error
    return None


def result_folders(images: list[str], out: Path, ending: str = "") -> list[Path]:
    """Return OUT/NAME for each image; a further image of the same name gets NAME-2, or the next free number."""
    stems = [Path(image).stem for image in images]
    names: list[str] = []
    for stem in stems:
        numbered = (f"{stem}-{number}" for number in count(2))
        names.append(stem if stem not in names else next(n for n in numbered if n not in names and n not in stems))
    return [out / f"{name}{ending}" for name in names]


def require_free(path: Path, force: bool) -> Path:
    """Return the path; raise a ResultError where something is there that may not be replaced."""
    if path_exists(path) and not force:
        raise already_there(path)
    return path


def write_png(picture: "Image.Image", path: Path) -> None:
    """Write an image file, whole or not at all."""
    with atomic_write(path) as part:
        picture.save(part, "PNG")


def print_result(path: Path, as_json: bool, document: dict[str, Any]) -> None:
    """Print where the result is, or a JSON document about it."""
    from vitscope.cli import console

    if as_json:
        console.print_json({"vitscope": __version__, "out": str(path)} | document)
    else:
        console.print_line(str(path))
