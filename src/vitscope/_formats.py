"""Decode files that Pillow does not: TIFF of any bands, DICOM, HEIC, numpy arrays; each is known by its bytes."""

import io
import logging
import math
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vitscope import _pillow
from vitscope._bands import Reading, Window, check_array, whole_range
from vitscope._header_scan import check_cost
from vitscope._image_file import HEAD, format_of
from vitscope._messages import msg
from vitscope._pillow import FORMATS, Decoded, decoding, too_large, upright
from vitscope.errors import ImageError, first_line, require_package

_LENGTHS = (279, 325)  # tags of a TIFF with the lengths of its strips, and of its tiles
_DECIDING = {*range(256, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, *range(322, 326), 338, 339, 347, 530}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # extra samples of a TIFF that are transparency
_UNSIGNED, _SIGNED = 1, 2  # integers of a TIFF
_DEFLATED, _RUN_LENGTHS = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"  # how a DICOM file is packed
_DICOM_START, _DICOM_HEADER = 132, 64_000_000  # bytes: where its elements begin; what they may have beside the pixels
_PIECE = 1_000_000  # bytes that are unpacked at once


def decode(data: bytes, source: str, reading: Reading, max_pixels: int | None) -> Decoded:
    """Decode the bytes of an image file.

    Raises:
        ImageError: broken, too large, or not an image.
        MissingDependencyError: the package that reads it is not installed.
        OutOfMemoryError: it needs more memory than there is.
    """
    with decoding(source):
        decoded = decode_special(format_of(data[:HEAD]), data, source, reading, max_pixels)
        if decoded is None:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                decoded = upright(image, source, max_pixels, reading.channels, whole=reading.window is not None)
    return decoded


def decode_special(kind: str, data: bytes, source: str, reading: Reading, max_pixels: int | None) -> Decoded | None:
    """Decode a file of a kind that Pillow does not read, or not whole; None where Pillow reads it.

    Raises:
        ImageError: broken or too large.
        MissingDependencyError: the package that reads it is not installed.
    """
    most = max_pixels or _pillow.MAX_PIXELS
    if kind == "avif" and "AVIF" not in _pillow.FORMATS:
        raise ImageError(
            msg("images.no-avif", "{source} is AVIF, which this build of Pillow does not read", source=source),
            msg("images.no-avif.hint", "install Pillow from a wheel, or convert the image to PNG"),
        )
    if kind == "tiff":
        return _tiff(data, source, reading, most) if _needs_tifffile(data, reading) else None
    if kind in ("dicom", "heic", "npy"):
        return {"dicom": _dicom, "heic": _heic, "npy": _npy}[kind](data, source, reading, most)
    return None


def _needs_tifffile(data: bytes, reading: Reading) -> bool:
    """Return whether Pillow reads a TIFF not at all, or not all of it that is wanted."""
    try:
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            extra = tags.get(338, ())
            samples, bits = tags.get(277, 1), max(tags.get(258, (1,)))
            alpha = bool(extra) and set(extra) <= {_ASSOCIATED, _UNASSOCIATED}
            lost = samples != len(image.getbands()) and image.mode not in ("P", "1") and not alpha
            kinds, white_first = set(tags.get(339, (_UNSIGNED,))), bits > 8 and tags.get(262) == 0
            lost |= (bits == 8 and _SIGNED in kinds) or (bits == 32 and _UNSIGNED in kinds) or white_first
            return lost or (bits > 8 and samples > 1 and (reading.window is not None or image.mode != "RGB"))
    except Exception:  # whatever Pillow raises at a TIFF that it does not know
        return True


def _tiff(data: bytes, source: str, reading: Reading, most: int) -> Decoded:
    require_package("tifffile", extra="tiff")
    import tifffile

    notes: list[str] = []
    with _damaged_tags_refused(), tifffile.TiffFile(io.BytesIO(data)) as file:
        first: Any = file.pages[0]
        pages, series = len(file.pages), file.series[0]
        shape = series.shape
        height, width = first.imagelength, first.imagewidth
        if not height or not width or height * width > most:
            raise too_large(f"{source} ({width} x {height})", most)
        ends = [sum(each) for each in zip(first.dataoffsets, first.databytecounts, strict=True)]
        if not any(tag in first.tags for tag in _LENGTHS) or max(ends, default=len(data) + 1) > len(data):
            raise ValueError("not all of its strips or tiles are in the file")  # tifffile would make numbers up
        banded = pages == reading.channels not in (1, 3) and first.samplesperpixel == 1 and len(shape) == 3
        if height * width * (pages if banded else first.samplesperpixel) > 4 * most:
            raise too_large(f"{source} ({width} x {height})", most)
        try:
            made = series.asarray() if banded else first.asarray()
        except (ValueError, ImportError) as error:
            if isinstance(error, ImportError) or "imagecodecs" in str(error):
                require_package("imagecodecs", extra="tiff")
            raise
        if made.dtype.kind not in "buif":
            raise ValueError(f"its numbers are {made.dtype}")
        if pages > 1:
            notes.append(
                msg("images.pages", "the {count} pages are its bands", count=pages)
                if banded
                else msg("images.first-frame", "first of {count} frames", count=pages)
            )
        made = made[..., None] if made.ndim == 2 else made
        if made.ndim == 3 and (banded or first.axes.startswith("S")):
            made = np.moveaxis(made, 0, -1)
        if made.dtype == bool:
            made = made.astype(np.uint8) * 255
        if made.shape[:2] != (height, width):
            raise ValueError(f"it has {height} x {width} pixels, and numbers of the shape {made.shape}")
        made = _upright_and_bright(made, first, reading.window, notes)
    return Decoded(notes, data=np.ascontiguousarray(made))


def _upright_and_bright(made: np.ndarray, page: Any, window: Window | None, notes: list[str]) -> np.ndarray:
    """Turn a TIFF's numbers upright by its orientation, and round where its 0 is white."""
    orientation = page.tags.get(274)
    if orientation is not None and int(orientation.value) in _TURNS:
        made = _TURNS[int(orientation.value)](made)
        notes.append(msg("images.turned", "turned upright by its EXIF orientation"))
    photometric = page.tags.get(262)  # tifffile takes a missing one for 0
    return made if photometric is None or int(photometric.value) != 0 else _inverted(made, window, notes)


def _inverted(values: np.ndarray, window: Window | None, notes: list[str]) -> np.ndarray:
    """Turn numbers whose low ones are white round, within their window or else within what they will be read as."""
    notes.append(msg("images.inverted", "inverted: its low numbers are white"))
    low, high = window or whole_range(values) or (float(values.min()), float(values.max()))
    turned: np.ndarray = low + high - values.astype(np.float64)
    return turned.astype(np.int64) if window is None and values.dtype.kind in "ui" else turned


class _Complaints(logging.Handler):
    """Collects what a library logs in this thread; with a handler, nothing of it is printed."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts, self.of_thread = list[str](), threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.of_thread:
            self.texts.append(record.getMessage())


@contextmanager
def _damaged_tags_refused() -> Iterator[None]:
    """Refuse a TIFF one of whose tags that decide its pixels cannot be read: tifffile logs that and goes on without."""
    log, complaints = logging.getLogger("tifffile"), _Complaints()
    log.addHandler(complaints)
    try:
        yield
    finally:
        log.removeHandler(complaints)
    for tag in re.findall(r"TiffTag (\d+)", "\n".join(complaints.texts)):
        if int(tag) in _DECIDING:
            raise ValueError(f"its tag {tag} is damaged")


_TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def _heic(data: bytes, source: str, reading: Reading, most: int) -> Decoded:
    require_package("pillow_heif", "pillow-heif", extra="heic")
    from pillow_heif import HeifImageFile

    opened: Any = HeifImageFile
    with opened(io.BytesIO(data)) as image:
        return upright(image, source, most, reading.channels)


def _npy(data: bytes, source: str, reading: Reading, most: int) -> Decoded:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ImageError(
            msg("images.pickled", "{source} holds Python objects, which are not loaded", source=source),
            msg("images.pickled.hint", "save numbers: numpy.save(path, array.astype(numpy.float32))"),
        )
    if len(shape) in (2, 3) and shape[0] * shape[1] > most and min(shape) > 0:
        raise too_large(f"{source} {shape}", most)
    if math.prod(shape) * dtype.itemsize > len(data) - file.tell():  # numpy would make room for it first
        raise ValueError(f"it says that it has {shape} numbers")
    return Decoded([], data=check_array(np.load(io.BytesIO(data), allow_pickle=False), reading))


def _dicom(data: bytes, source: str, reading: Reading, most: int) -> Decoded:
    require_package("pydicom", extra="dicom")
    import pydicom
    from pydicom.pixels import apply_modality_lut, pixel_array

    _check_deflated(data, source, 8 * most + _DICOM_HEADER)
    found = pydicom.dcmread(io.BytesIO(data))
    kinds = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if "Rows" not in found or "Columns" not in found or not any(kind in found for kind in kinds):
        raise ImageError(
            msg("images.dicom-without-pixels", "{source} is DICOM without pixels", source=source),
            msg("images.dicom-without-pixels.hint", "choose a file of the series that holds an image"),
        )
    if found.Rows * found.Columns > most:
        raise too_large(f"{source} ({found.Columns} x {found.Rows})", most)
    notes: list[str] = []
    frames, kind = int(found.get("NumberOfFrames") or 1), str(found.PhotometricInterpretation)
    if frames > 1:
        notes.append(msg("images.first-frame", "first of {count} frames", count=frames))
    _check_frame(found, source, frames)
    try:
        raw = pixel_array(found, index=0)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        syntax = found.file_meta.get("TransferSyntaxUID")
        raise ImageError.coded(
            "images.dicom-syntax",
            "{source} is DICOM compressed as {syntax}, which pydicom cannot read here: {reason}",
            "pip install 'pylibjpeg[all]', or decompress the file",
            source=source,
            syntax=getattr(syntax, "name", syntax),
            reason=first_line(error),
        ) from None
    if kind == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(raw, found)
        deep = colours.dtype.itemsize > 1
        notes.append(msg("images.palette", "palette converted to RGB"))
        return Decoded(notes, data=colours[..., :3], window=(0.0, 65535.0) if deep else (0.0, 255.0))
    if raw.ndim == 3:  # YBR is RGB by now
        if kind != "RGB":
            notes.append(msg("images.mode", "{mode} converted to RGB", mode=kind))
        return Decoded(notes, data=raw, window=(0.0, float(2 ** int(found.BitsStored) - 1)))
    _take_frame_groups(found)
    values = np.asarray(apply_modality_lut(raw, found), np.float64)
    window = _dicom_window(found)
    if reading.window is None and window is None and ("VOILUTSequence" in found or "WindowWidth" in found):
        values, window = _dicom_curve(values, found)
    window = reading.window or window
    if window is None:
        if int(found.BitsStored) <= 8 and "RescaleSlope" not in found:
            window = (0.0, float(2 ** int(found.BitsStored) - 1))
        else:
            values = values.astype(np.int32) if np.array_equal(values, values.round()) else values
    if kind == "MONOCHROME1" or str(found.get("PresentationLUTShape", "")) == "INVERSE":
        values = _inverted(values, window, notes)
    return Decoded(notes, data=values[..., None], window=window)


def _check_deflated(data: bytes, source: str, most: int) -> None:
    """Raise where a DICOM file is deflated and has more than `most` bytes unpacked: pydicom would unpack any number."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(data)
    file.seek(_DICOM_START)
    # the first elements, those of group 2, say how the others are packed
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if str(meta.get("TransferSyntaxUID")) != _DEFLATED:
        return
    unpacker, rest, size = zlib.decompressobj(-zlib.MAX_WBITS), data[file.tell() :], 0
    while rest and not unpacker.eof:
        size += len(unpacker.decompress(rest, _PIECE))
        rest = unpacker.unconsumed_tail
        if size > most:
            raise ImageError.coded(
                "images.deflated",
                "{source} has more than {limit} million bytes when it is unpacked",
                msg("images.too-large.hint", "shrink or crop it first"),
                source=source,
                limit=f"{most / 1e6:,.0f}",
            )


def _check_frame(found: Any, source: str, frames: int) -> None:
    """Raise where the first frame of a DICOM file is compressed and larger, or asks for more work, than it says."""
    from pydicom.encaps import get_frame

    syntax = found.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_encapsulated or "PixelData" not in found:
        return
    tables = (found.get("ExtendedOffsetTable"), found.get("ExtendedOffsetTableLengths"))
    frame = get_frame(found.PixelData, 0, number_of_frames=frames, extended_offsets=tables if all(tables) else None)
    pixels = found.Rows * found.Columns
    if str(syntax) == _RUN_LENGTHS:
        expected = pixels * found.SamplesPerPixel * (found.BitsAllocated // 8)
        larger = 64 * len(frame) > 2 * expected + _DICOM_HEADER and _unpacks_to_more(frame[64:], 2 * expected)
    else:
        check_cost(frame, source)
        larger = False
        with suppress(UnidentifiedImageError), Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            larger = image.width * image.height > pixels
    if larger:
        raise ValueError("its frame is larger than it says")


def _unpacks_to_more(data: bytes, most: int) -> bool:
    """Return whether run lengths, a byte that counts and then one byte or as many as it says, make more bytes."""
    at = size = 0
    while at < len(data) and size <= most:
        count = data[at]
        size += count + 1 if count < 128 else 257 - count
        at += count + 2 if count < 128 else 2
    return size > most


def _take_frame_groups(found: Any) -> None:
    """Put what an enhanced multi-frame file says of its first frame, or of all, where one-frame files say it."""
    for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        groups = (found.get("PerFrameFunctionalGroupsSequence"), found.get("SharedFunctionalGroupsSequence"))
        for group in groups:
            if group and group[0].get(name):
                found.update(group[0][name][0])
                break


def _dicom_curve(values: np.ndarray, found: Any) -> tuple[np.ndarray, Window]:
    """Return numbers after a DICOM file's own curve, a table or a sigmoid, and which of them are black and white."""
    from pydicom.pixels import apply_voi_lut

    if "VOILUTSequence" in found:
        bits = int(found.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi_lut(values.astype(np.int64), found), np.float64), (0.0, float(2**bits - 1))
    centre, width = _centre_and_width(found)
    return 1 / (1 + np.exp(-4 * (values - centre) / width)), (0.0, 1.0)


def _centre_and_width(found: Any) -> tuple[float, float]:
    """Return the first window of a DICOM file."""
    centre, width = (
        float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)
        for value in (found.WindowCenter, found.WindowWidth)
    )
    return centre, max(width, 1e-6)


def _dicom_window(found: Any) -> tuple[float, float] | None:
    """Return the numbers that a linear window of a DICOM file makes black and white."""
    if "VOILUTSequence" in found or "WindowWidth" not in found or "WindowCenter" not in found:
        return None
    centre, width = _centre_and_width(found)
    function = str(found.get("VOILUTFunction", "LINEAR")).upper()
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        return None
    width = max(width, 1e-6)
    low, high = centre - width / 2, centre + width / 2
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"its window is {width:g} wide around {centre:g}")
    return low, high
