"""Read odd pictures whose pixels are known, and the same files after damage."""

import io
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from benchmarks.soak.counts import Counts
from PIL import ExifTags, Image, ImageOps

from vitscope.errors import VitscopeError
from vitscope.images import load_image

__all__ = ["run"]

_SECONDS = 60.0  # the largest picture that is read, of 100 million pixels, takes half of it on a busy machine
_SHARE = 0.05  # of the numbers, which a few bad bytes change in a file that Pillow does not know
_LOSSY = 14  # levels by which a smooth picture differs after a lossy codec
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # from the stored pixels to those that people see
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}
_LOSSLESS = ("PNG", "BMP", "PPM", "TIFF", "WEBP")
_OPTIONS = {"WEBP": {"lossless": True}}
_TIFF = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")

Case = tuple[str, object, np.ndarray, int]  # what it is, the source, the pixels that are right, and levels of tolerance


def run(count: int, seed: int) -> Counts:
    """Read `count` pictures, of which every second one is damaged."""
    counts = Counts()
    for number in range(count):
        chance = np.random.default_rng((seed, number))
        name, source, expected, tolerance = _MAKERS[number // 2 % len(_MAKERS)](chance)
        if number % 2 and isinstance(source, bytes):
            name, source = _damaged(name, source, chance)
            known = _by_pillow(source, expected, tolerance)
            if known is None:
                _read(counts, f"{name} ({number})", source, expected, tolerance, _SHARE)
            else:
                _read(counts, f"{name} ({number})", source, known, tolerance, 0.0)
        else:
            _read(counts, f"{name} ({number})", source, expected, tolerance, None)
    return counts


def _read(counts: Counts, name: str, source: object, expected: np.ndarray, tolerance: int, share: float | None) -> None:
    """Read one; `share` of its numbers may be others, and where it is not None, a refusal is right."""
    begun = time.monotonic()
    try:
        pixels = load_image(source).pixels
    except VitscopeError as error:
        fine = share is not None and str(error) and "\n" not in str(error)
        counts.count("refused" if fine else "wrong", "" if fine else f"{name}: {error}")
    except Exception as error:
        counts.count("wrong", f"{name}: {error!r}")
    else:
        same = pixels.shape == expected.shape and np.mean(np.abs(pixels.astype(int) - expected) > tolerance) <= (
            share or 0.0
        )
        counts.count("right" if same else "wrong", "" if same else f"{name}: other pixels")
    if time.monotonic() - begun > _SECONDS:
        counts.mark("hung", name)


def _by_pillow(data: bytes, expected: np.ndarray, tolerance: int) -> np.ndarray | None:
    """Return the pixels that Pillow reads of damaged bytes, the undamaged where those are near; None for none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            with suppress(Exception):  # broken metadata: the pixels are whole
                ImageOps.exif_transpose(image, in_place=True)
            upright = image.convert("RGBA")
    except Exception:
        return None
    white = Image.new("RGBA", upright.size, "white")
    found = np.asarray(Image.alpha_composite(white, upright).convert("RGB"))
    near = found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= tolerance
    return expected if near else found


def _damaged(name: str, data: bytes, chance: np.random.Generator) -> tuple[str, bytes]:
    kind = ("cut", "flipped", "zeroed", "twice", "prefixed", "followed")[int(chance.integers(6))]
    at, changed = int(chance.integers(len(data))), bytearray(data)
    if kind == "cut":
        changed = changed[:at]
    elif kind == "flipped":
        for place in chance.integers(0, len(data), int(chance.integers(1, 9))):
            changed[place] ^= 1 << int(chance.integers(8))
    elif kind == "zeroed":
        changed[at : at + 40] = bytes(len(changed[at : at + 40]))
    elif kind == "twice":
        changed[at:at] = data[at : at + 60]
    elif kind == "prefixed":
        changed[:0] = bytes(chance.integers(0, 256, 9, np.uint8))
    else:
        changed += bytes(chance.integers(0, 256, 99, np.uint8))
    return f"{name}, {kind}", bytes(changed)


# Makers of pictures whose pixels are known.


def _noise(chance: np.random.Generator, bands: int = 3) -> np.ndarray:
    height, width = (int(n) for n in chance.integers(2, 64, 2))
    return chance.integers(0, 256, (height, width, bands), np.uint8)


def _smooth(chance: np.random.Generator) -> np.ndarray:
    """Colours that change by two levels a pixel, which lossy codecs keep."""
    height, width = (int(n) for n in chance.integers(16, 64, 2))
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + rows + columns, 80 + rows, 200 - columns], 2).astype(np.uint8)


def _file(pixels: np.ndarray | Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    buffer = io.BytesIO()
    image.save(buffer, kind, **{**_OPTIONS.get(kind, {}), **options})
    return buffer.getvalue()


def _one_of(chance: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(chance.integers(len(names)))]


def _lossless(chance: np.random.Generator) -> Case:
    pixels, kind = _noise(chance), _one_of(chance, _LOSSLESS)
    return f"colours as {kind}", _file(pixels, kind), pixels, 0


def _grey(chance: np.random.Generator) -> Case:
    pixels, kind = _noise(chance, 1), _one_of(chance, ("PNG", "BMP", "PPM", "TIFF", "GIF"))
    return f"grey as {kind}", _file(pixels, kind), pixels.repeat(3, 2), 0


def _tiff(chance: np.random.Generator) -> Case:
    pixels, compression = _noise(chance), _one_of(chance, _TIFF)
    return f"TIFF, {compression}", _file(pixels, "TIFF", compression=compression), pixels, 0


def _turned(chance: np.random.Generator) -> Case:
    pixels, turn, exif = _noise(chance), int(chance.integers(1, 9)), Image.Exif()
    kind = _one_of(chance, ("PNG", "TIFF", "WEBP"))
    exif[ExifTags.Base.Orientation] = turn
    return f"{kind} of orientation {turn}", _file(pixels, kind, exif=exif.tobytes()), _TURNS[turn](pixels), 0


def _turned_jpeg(chance: np.random.Generator) -> Case:
    pixels, turn, exif = _smooth(chance), int(chance.integers(1, 9)), Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    data = _file(pixels, "JPEG", quality=95, subsampling=0, progressive=bool(turn % 2), exif=exif.tobytes())
    return f"JPEG of orientation {turn}", data, _TURNS[turn](pixels), _LOSSY


def _palette(chance: np.random.Generator) -> Case:
    colours = chance.integers(0, 256, (16, 3), np.uint8)
    index = chance.integers(0, 16, _noise(chance).shape[:2], np.uint8)
    image = Image.fromarray(index, "L")
    image.putpalette(colours.tobytes())
    kind = _one_of(chance, ("PNG", "GIF", "BMP"))
    return f"palette as {kind}", _file(image, kind), colours[index], 0


def _hole(chance: np.random.Generator) -> Case:
    pixels = _noise(chance)
    hole = chance.random(pixels.shape[:2]) < 0.3
    alpha = np.where(hole, 0, 255).astype(np.uint8)[..., None]
    kind = _one_of(chance, ("PNG", "TIFF"))
    expected = np.where(hole[..., None], 255, pixels).astype(np.uint8)
    pixels = expected if kind == "TIFF" else pixels  # a damaged tag makes the transparency a band like others
    return f"transparent holes as {kind}", _file(np.concatenate([pixels, alpha], 2), kind), expected, 0


def _bits(chance: np.random.Generator) -> Case:
    bits = _noise(chance, 1)[..., 0] > 127
    expected = np.where(bits, 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
    kind = _one_of(chance, ("PNG", "TIFF", "PPM", "BMP"))
    return f"one bit as {kind}", _file(Image.fromarray(bits), kind), expected, 0


def _frames(chance: np.random.Generator) -> Case:
    first = _noise(chance)
    others = [Image.fromarray(chance.integers(0, 256, first.shape, np.uint8)) for _ in range(3)]
    kind = _one_of(chance, ("TIFF", "PNG", "WEBP"))
    return f"first frame as {kind}", _file(first, kind, save_all=True, append_images=others), first, 0


def _ink(chance: np.random.Generator) -> Case:
    ink = _noise(chance, 4)
    left = 255 - ink[..., :3].astype(int)
    expected = np.round(left * (255 - ink[..., 3:].astype(int)) / 255).astype(np.uint8)
    return "CMYK as TIFF", _file(Image.fromarray(ink, "CMYK"), "TIFF"), expected, 1


def _lossy(chance: np.random.Generator) -> Case:
    pixels, kind = _smooth(chance), _one_of(chance, ("JPEG", "WEBP"))
    return f"lossy as {kind}", _file(pixels, kind, quality=95, lossless=False), pixels, _LOSSY


def _array(chance: np.random.Generator) -> Case:
    pixels = _smooth(chance)  # of more rows than an array of channels has
    forms: dict[str, Callable[[], np.ndarray]] = {
        "bytes": lambda: pixels,
        "rows from below": lambda: pixels[::-1].copy()[::-1],
        "Fortran's order": lambda: np.asfortranarray(pixels),
        "a part of a larger one": lambda: np.pad(pixels, ((1, 2), (3, 4), (0, 0)))[1:-2, 3:-4],
        "floats": lambda: pixels.astype(np.float32) / 255,
        "doubles": lambda: pixels / 255,
        "read-only": lambda: np.frombuffer(pixels.tobytes(), np.uint8).reshape(pixels.shape),
    }
    form = _one_of(chance, tuple(forms))
    return f"an array, {form}", forms[form](), pixels, 0


def _object(chance: np.random.Generator) -> Case:
    pixels = _noise(chance)
    image = Image.fromarray(pixels)
    forms: dict[str, Callable[[], object]] = {
        "Pillow image": lambda: image,
        "Pillow image with alpha": lambda: image.convert("RGBA"),
        "open file": lambda: io.BytesIO(_file(pixels, "PNG")),
        "row of a dataset": lambda: {"bytes": _file(pixels, "PNG"), "path": None},
        "memoryview": lambda: memoryview(_file(pixels, "BMP")),
    }
    form = _one_of(chance, tuple(forms))
    return form, forms[form](), pixels, 0


_MAKERS: tuple[Callable[[np.random.Generator], Case], ...] = (
    _lossless, _grey, _tiff, _turned, _turned_jpeg, _palette, _hole, _bits, _frames, _ink, _lossy, _array, _object,
)  # fmt: skip
