"""Files that unpack to more than they say: each is refused before there is room for it."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filereader import read_dataset
from pydicom.uid import UID, SecondaryCaptureImageStorage, generate_uid

from tests.helpers.errors import raises
from vitscope import _formats
from vitscope._bands import Reading
from vitscope.errors import ImageError

SCAN = np.arange(400, dtype=np.uint8).reshape(20, 20)
DEFLATED, RUN_LENGTHS, JPEG, JPEG2000 = (
    f"1.2.840.10008.1.2.{end}" for end in ("1.99", "5", "4.50", "4.90")
)  # fmt: skip
MB = 1_000_000


def dicom(syntax, pixels):
    """Return the bytes of a DICOM file of 20 x 20 pixels that are packed by a transfer syntax."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    found = FileDataset("scan", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Rows = found.Columns = 20
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    found.BitsAllocated, found.BitsStored, found.HighBit = 8, 8, 7
    found.PixelData = pixels if syntax == DEFLATED else encapsulate([pixels])
    found["PixelData"].is_undefined_length = syntax != DEFLATED
    found.save_as(file := io.BytesIO(), enforce_file_format=True)
    return file.getvalue()


def with_zeros(data, count):
    """Return a deflated DICOM file with one more element of so many zeros."""
    file = io.BytesIO(data)
    file.seek(132)
    read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    plain = zlib.decompress(data[file.tell() :], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [plain, struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, count), *[bytes(MB)] * (count // MB)]
    return data[: file.tell()] + b"".join(packer.compress(piece) for piece in pieces) + packer.flush()


def image(size, kind):
    Image.new("L", (size, size), 100).save(file := io.BytesIO(), kind)
    return file.getvalue()


def run_lengths(packed):
    return struct.pack("<16L", 1, 64, *[0] * 14) + packed


def decode(data):
    """Decode a file, and see that it took less than 100 MB."""
    tracemalloc.start()
    try:
        return _formats.decode(data, "scan.dcm", Reading(), 10_000)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * MB


def test_a_deflated_dicom_file_is_read():
    assert np.array_equal(decode(with_zeros(dicom(DEFLATED, SCAN.tobytes()), MB)).data[..., 0], SCAN)


def test_a_deflated_dicom_file_is_unpacked_as_far_as_its_limit():
    data = with_zeros(dicom(DEFLATED, SCAN.tobytes()), 300 * MB)
    assert len(data) < MB
    with raises(ImageError, "images.deflated"):
        decode(data)


def test_what_is_no_deflated_data_is_broken():
    with raises(ImageError, "images.broken"):
        decode(dicom(DEFLATED, SCAN.tobytes())[:-100] + b"\xff" * 100)


@pytest.mark.parametrize(("syntax", "kind"), [(JPEG, "JPEG"), (JPEG2000, "JPEG2000")])
def test_an_image_within_a_dicom_file_has_the_size_that_it_says(syntax, kind):
    assert decode(dicom(syntax, image(20, kind))).data.shape == (20, 20, 1)
    with raises(ImageError, "images.broken") as caught:
        decode(dicom(syntax, image(11_000, kind)))
    assert "larger than it says" in str(caught.value)


def test_a_jpeg_of_many_scans_within_a_dicom_file_is_refused():
    data = image(20, "JPEG")
    scan = data[data.index(b"\xff\xda") : -2]
    with raises(ImageError, "images.costly"):
        decode(dicom(JPEG, data[:-2] + scan * 200 + data[-2:]))


def test_run_lengths_of_a_dicom_file_make_no_more_pixels_than_it_says():
    honest = run_lengths(b"".join(b"\x13" + row.tobytes() for row in SCAN))
    assert np.array_equal(decode(dicom(RUN_LENGTHS, honest)).data[..., 0], SCAN)
    with raises(ImageError, "images.broken") as caught:
        decode(dicom(RUN_LENGTHS, run_lengths(b"\x81\x00" * 1_000_000)))
    assert "larger than it says" in str(caught.value)
