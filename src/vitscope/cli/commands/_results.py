"""Where results of commands go: usable images, free folders, image files, and what is printed of them."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope._files import already_there, atomic_write, is_file_name, path_exists
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.cli.commands import _options as opt
from vitscope.errors import ImageError, UsageError

if TYPE_CHECKING:
    from PIL import Image

    from vitscope.images import Picture
    from vitscope.scope import Scope

_HARMLESS = ("output", "display", "window", "region")  # how an answer or image is read: no file and no code


def unusable(image: str) -> ImageError | None:
    """Return what is wrong with an image file, as far as its first bytes tell; other media are only looked for."""
    from vitscope._image_file import first_bytes, is_known
    from vitscope.batch.sources import IMAGE_SUFFIXES

    path = Path(image)
    if path_exists(path) and path.is_dir():
        return ImageError(
            msg("cli.no-images", "{path} is a folder, not an image, and there are none in it", path=image),
            msg("cli.no-images.hint", "its subfolders are not searched: name the one with the images"),
        )
    if path_exists(path) and not (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()):
        return None
    try:
        with suppress(OSError):  # told below
            if is_known(first_bytes(path)):
                return None
        from vitscope.images import check_image_file  # numpy and Pillow: only where something is wrong

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


def swallows(path: Path, images: Iterable[str]) -> UsageError | None:
    """Return what is wrong with a result that would take the place of an image which it is made of, or its folder's."""
    place = Path(os.path.realpath(path))
    for image in images:
        if place in ((own := Path(os.path.realpath(image))), *own.parents):
            return UsageError(
                msg("cli.replaces-image", "{path} would take the place of the image {image}", path=path, image=image),
                msg("cli.replaces-image.hint", "choose another path with -o"),
            )
    return None


def require_free(path: Path, force: bool, *images: str) -> Path:
    """Return the path; raise an error where something is there that may not be replaced, such as the images."""
    if problem := swallows(path, images):
        raise problem
    if path_exists(path) and not force:
        raise already_there(path)
    return path


def sheet_path(out: Path, name: str, force: bool, *images: str) -> Path:
    """Return where a sheet goes, which is not there yet: the file that `out` names, or one of that name in it."""
    return require_free(out if is_file_name(out) else out / name, force, *images)


def write_sheet(picture: "Image.Image", path: Path) -> None:
    """Write a drawing as the kind of file that its name says, whole or not at all."""
    from vitscope.render.image_files import write_image

    with atomic_write(path) as part:
        write_image(picture, part)


def print_notes(scope: "Scope", picture: "Picture", size: int | None) -> None:
    """Print on stderr what was converted in an image, and whether its input size is another than `size`."""
    from vitscope.cli import console

    for note in scope.prepare(picture, size=size).picture.notes:
        console.print_note(f"{picture.name}: {console.in_flags(note)}")


def print_result(path: Path, as_json: bool, document: dict[str, Any]) -> None:
    """Print where the result is, or a JSON document about it."""
    from vitscope.cli import console

    if as_json:
        console.print_json({"vitscope": __version__, "out": str(path)} | document)
    else:
        console.print_line(str(path))


def recorded_model(
    recorded: str, said: Mapping[str, Any], model: str | None, flags: opt.LoadFlags
) -> tuple[str, dict[str, Any]]:
    """Return the model that results name, and how it is loaded.

    A bundled one is loaded as the results say. Code, weights and files that they name are taken only from the user: the
    results may be a stranger's.

    Raises:
        UsageError: the results were made with more than the user names.
    """
    from vitscope.models.bundled.catalogue import NAMES, SHIPPED

    plain = {name: said[name] for name in _HARMLESS if getattr(flags, name) is None and isinstance(said.get(name), str)}
    options = replace(flags, **plain).keywords()
    for name in ("output", "multi_label"):
        if options.get(name) is None and isinstance(said.get(name), int):
            options[name] = said[name]
    missing = (
        [] if model or recorded in {f"embedded:{name}" for name in (*NAMES, *SHIPPED)} else [f"--model {recorded}"]
    )
    missing += [
        f"--{name.replace('_', '-')}" + ("" if said[name] is True else f" {said[name]}")
        for name in ("weights", "processor", "labels", "trust_remote_code")
        if said.get(name) and not options.get(name)
    ]
    if missing:
        raise UsageError.coded(
            "cli.view-loads",
            "this was made with {options}: what a file of results names is loaded only when you say so",
            "if you trust them, add {options}",
            options=" ".join(missing),
        )
    return model or recorded, options
