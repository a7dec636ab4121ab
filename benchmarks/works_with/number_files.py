"""Files whose numbers are easily taken for others: more bits than Pillow reads, white zeros, enhanced DICOM."""

import io
import tempfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from benchmarks.works_with.table import row
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

import vitscope

__all__: list[str] = []

FILES = "Files of other numbers than 8-bit RGB"
WRITTEN = "the numbers that were written"
_RNG = np.random.default_rng(0)
_COLOURS = _RNG.integers(0, 4096, (40, 48, 3), dtype=np.uint16)


def _unit(source: Any, **options: Any) -> np.ndarray:
    return vitscope.images.load_image(source, **options).unit().astype(np.float64)


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


@row(FILES, "12 bits a colour in a 16-bit PNG, `window=(0, 4095)`", libraries=("pillow",), against="x / 4095, by NumPy")
def _() -> float:
    return _apart(_unit(imagecodecs.png_encode(_COLOURS), window=(0, 4095)), _COLOURS / 4095)


@row(FILES, "a PGM of 12 bits, `window=(0, 4095)`", libraries=("pillow",), against="x / 4095, by NumPy")
def _() -> float:
    grey = _COLOURS[..., 0]
    return _apart(_unit(b"P5 48 40 4095\n" + grey.astype(">u2").tobytes(), window=(0, 4095))[..., 0], grey / 4095)


@row(
    FILES,
    "HEIC of 10 bits, `window=(0, 1023)`: 8 of them",
    libraries=("pillow_heif",),
    against="the ramp that was written",
    tolerance=1.5 / 255,
)
def _() -> float:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64, 1).astype(np.uint16).repeat(3, 2)
    buffer = io.BytesIO()
    pillow_heif.from_bytes(mode="RGB;16", size=(64, 48), data=ramp.tobytes()).save(buffer, quality=-1)
    return _apart(_unit(buffer.getvalue(), window=(0, 1023)), ramp / 65535)


for _kind, _low, _high in (("int8", -120, 120), ("uint32", 0, 2.0**32 - 1), ("int16", -120, 120), ("float64", -9, 9)):

    def _try_it(kind: str = _kind, low: float = _low, high: float = _high) -> float:
        numbers = np.linspace(low, high, 40 * 48).reshape(40, 48).astype(kind)
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, numbers, photometric="minisblack")
        found = _unit(buffer.getvalue(), window=(low, high))[..., 0]
        return _apart(found, (numbers.astype(float) - low) / (high - low))

    row(FILES, f"TIFF of {_kind}", libraries=("tifffile",), against=WRITTEN)(_try_it)


@row(FILES, "TIFF of 16 bits whose 0 is white", libraries=("tifffile",), against="1 - x / 65535, by NumPy")
def _() -> float:
    numbers = np.linspace(1000, 60_000, 40 * 48).reshape(40, 48).astype(np.uint16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, numbers, photometric="miniswhite")
    return _apart(_unit(buffer.getvalue())[..., 0], 1 - numbers / 65535)


def _dicom(**values: Any) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("scan.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Rows, found.Columns, found.SamplesPerPixel, found.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.PixelData = _COLOURS[..., 0].tobytes() * int(values.get("NumberOfFrames", 1))
    for name, value in values.items():
        setattr(found, name, value)
    path = Path(tempfile.mkdtemp()) / "scan.dcm"
    found.save_as(path, enforce_file_format=True)
    return path


def _items(**values: Any) -> Sequence:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])


@row(
    FILES, "enhanced DICOM: slope and window of the first frame", libraries=("pydicom",), against="DICOM PS3.3 C.11.2.1"
)
def _() -> float:
    groups = _items(
        PixelValueTransformationSequence=_items(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU"),
        FrameVOILUTSequence=_items(WindowCenter=40, WindowWidth=400),
    )
    path = _dicom(NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)
    units = _COLOURS[..., 0] * 2.0 - 1000
    return _apart(_unit(path)[..., 0], ((units - 39.5) / 399 + 0.5).clip(0, 1))


@row(FILES, "DICOM with a sigmoid for its window", libraries=("pydicom",), against="DICOM PS3.3 C.11.2.1.3.1")
def _() -> float:
    path = _dicom(WindowCenter=2000, WindowWidth=3000, VOILUTFunction="SIGMOID")
    return _apart(_unit(path)[..., 0], 1 / (1 + np.exp(-4 * (_COLOURS[..., 0] - 2000.0) / 3000)))
