"""Images of numbers: windows, bands for people, and the formats of files that hold them."""

import io
import warnings

import numpy as np
import pillow_heif
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from tests.helpers.errors import raises
from tests.helpers.images import codes, encoded, refused
from vitscope import _pillow
from vitscope.errors import ImageError, UsageError
from vitscope.images import load_image

RNG = np.random.default_rng(0)
BANDS = RNG.integers(0, 10_000, (20, 24, 13), dtype=np.uint16)
SCAN = RNG.integers(200, 4096, (20, 24), dtype=np.uint16)


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(0, 4095), [0, 4095.0], np.array([0, 4095]), "0,4095"])
def test_a_window_is_0_to_1_and_clips(window):
    picture = load_image(SCAN, window=window)
    assert np.allclose(picture.unit()[..., 0], SCAN / 4095, atol=1e-6)
    assert np.array_equal(picture.pixels[..., 1], np.round(SCAN / 4095 * 255).astype(np.uint8))
    assert np.array_equal(picture.data[..., 0], SCAN)
    assert codes(picture) == ["windowed"]
    clipped = load_image(SCAN, window=(1000, 2000)).unit()
    assert (clipped.min(), clipped.max()) == (0, 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_12_bits_without_a_window_get_their_percentiles_and_a_note(kind):
    picture = load_image(encoded(Image.fromarray(SCAN), format=kind))
    low, high = np.percentile(SCAN, (0.5, 99.5))
    assert np.allclose(picture.unit()[..., 0], ((SCAN - low) / (high - low)).clip(0, 1), atol=1e-6)
    assert codes(picture) == ["percentile-window"]
    for number in (SCAN.min(), SCAN.max(), low, high):
        assert f"{number:.6g}" in picture.notes[0]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_any_range_are_read_with_a_window(mode):
    numbers = np.array([[-5, 0, 250_000], [500_000, 1_000_000, 7]], np.int32 if mode == "I" else np.float32)
    picture = load_image(encoded(Image.fromarray(numbers), format="TIFF"), window=(0, 1_000_000))
    assert np.allclose(picture.unit()[..., 0], (numbers / 1e6).clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("window", [(1, 1), (2, 1), (0,), "low,high", (0, np.inf), 3, {}])
def test_what_is_no_window_is_refused(window):
    with raises(UsageError, "images.window", "images.window.hint"):
        load_image(SCAN, window=window)


def test_a_picture_may_be_read_again_under_another_window():
    first = load_image(SCAN)
    again = load_image(first, window=(0, 4095))
    assert np.allclose(again.unit()[..., 0], SCAN / 4095, atol=1e-6)
    assert codes(again) == codes(load_image(again, window=(0, 4095))) == ["windowed"]


# --- bands for people ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("display", [(3, 2, 1), "3,2,1", [3, 2, 1]])
def test_bands_for_people_are_chosen_and_stretched(display):
    picture = load_image(BANDS, display=display)
    shown = BANDS[..., [3, 2, 1]].astype(float)
    low, high = np.percentile(shown, (2, 98))
    assert np.abs(picture.pixels - ((shown - low) / (high - low)).clip(0, 1) * 255).max() <= 0.51
    assert np.array_equal(picture.data, BANDS)
    assert codes(picture) == ["shown-stretched"]


@pytest.mark.parametrize(("count", "shown"), [(2, [0, 0, 0]), (4, [0, 1, 2]), (13, [0, 1, 2])])
def test_the_first_bands_are_shown_by_default(count, shown):
    data = (BANDS[..., :count] % 256).astype(np.uint8)
    picture = load_image(data)
    assert np.array_equal(picture.pixels, data[..., shown])
    assert codes(picture) == ["shown"]


def test_colours_in_another_order_are_a_photo_for_people_only():
    photo = (BANDS[..., :3] % 256).astype(np.uint8)
    picture = load_image(photo, display=(2, 1, 0))
    assert np.array_equal(picture.pixels, photo[..., ::-1])
    assert np.array_equal(picture.data, photo)


@pytest.mark.parametrize("display", [(1, 2), (), (0.5, 1, 2), (-1, 0, 1), "red", True])
def test_what_are_no_bands_is_refused(display):
    with raises(UsageError, "images.display", "images.display.hint"):
        load_image(BANDS, display=display)


def test_a_band_that_is_not_there():
    with raises(ImageError, "images.no-such-band") as caught:
        load_image(BANDS, display=(13, 1, 2))
    assert "13 bands: 0 to 12" in str(caught.value)


def test_arrays_that_are_no_pixels():
    refused(np.ma.masked_less(SCAN, 300), "masked")
    assert load_image(np.ma.masked_less(SCAN, 0)).bands == 1  # nothing is masked
    refused(BANDS.transpose(2, 0, 1), "channels-first")
    holed = BANDS.astype(np.float32)
    holed[3, 4, 5] = np.nan
    refused(holed, "not-finite")


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "contig", "compression": "zlib"},
        {"planarconfig": "contig", "compression": "zstd", "tile": (16, 16)},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "byteorder": ">"},
        {},
        {"compression": "lzma"},
        {"bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_13_bands_of_a_tiff_are_those_that_were_written(options, dtype, tmp_path):
    data = (BANDS % 251).astype(dtype)
    interleaved = options.get("planarconfig") == "contig"
    path = tmp_path / "tile.tif"
    path.write_bytes(tiff(data if interleaved else data.transpose(2, 0, 1), **options))
    picture = load_image(path, channels=13)
    assert np.array_equal(picture.data, data)
    assert picture.name == "tile"
    assert picture.source == str(path)
    pages = interleaved or "planarconfig" in options
    assert ("pages" in codes(picture)) is not pages


def test_pages_are_frames_for_a_model_of_colours():
    picture = load_image(tiff((BANDS % 251).astype(np.uint8).transpose(2, 0, 1)), channels=3)
    assert codes(picture) == ["first-frame"]
    assert picture.notes[0].params["count"] == "13"


def test_a_tiff_of_bands_is_too_large_before_it_is_decoded(monkeypatch):
    data = tiff(BANDS, planarconfig="contig")
    monkeypatch.setattr(_pillow, "MAX_PIXELS", 100)
    refused(data, "too-large")


def test_16_bits_a_colour_are_said():
    data = tiff(BANDS[..., :3], photometric="rgb")
    assert codes(load_image(data)) == ["high-bytes"]
    assert np.allclose(load_image(data, window=(0, 10_000)).unit(), BANDS[..., :3] / 10_000, atol=1e-6)


def test_an_array_of_numpy_is_an_image(tmp_path):
    np.save(tmp_path / "bands.npy", BANDS)
    assert np.array_equal(load_image(tmp_path / "bands.npy").data, BANDS)
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(tmp_path / "code.npy", "pickled")
    (tmp_path / "short.npy").write_bytes((tmp_path / "bands.npy").read_bytes()[:200])
    refused(tmp_path / "short.npy", "broken")


def dicom(tmp_path, **changes):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("scan", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    values = {"Rows": 20, "Columns": 24, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    values |= {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0}
    values |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "PixelData": SCAN.tobytes()}
    for name, value in (values | changes).items():
        if value is not None:
            setattr(found, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.save_as(tmp_path / "scan.dcm", enforce_file_format=True)
    return tmp_path / "scan.dcm"


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_is_seen_through_its_own_window(tmp_path, function, photometric):
    window = {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": function}
    path = dicom(tmp_path, PhotometricInterpretation=photometric, **window)
    read = pydicom.dcmread(path)
    read.PhotometricInterpretation = "MONOCHROME2"
    expected = (apply_windowing(apply_modality_lut(read.pixel_array, read), read) + 1024) / 4095
    picture = load_image(path)
    assert np.allclose(picture.unit()[..., 0], expected if photometric[-1] == "2" else 1 - expected, atol=1e-5)
    assert ("inverted" in codes(picture)) is (photometric == "MONOCHROME1")


def test_the_callers_window_is_in_the_units_of_the_file(tmp_path):
    picture = load_image(dicom(tmp_path, WindowCenter=40, WindowWidth=400), window=(-1000, 1000))
    assert np.allclose(picture.unit()[..., 0], ((SCAN - 1024.0 + 1000) / 2000).clip(0, 1), atol=1e-6)


def test_dicom_of_several_frames_colours_and_none(tmp_path):
    frames = RNG.integers(0, 4096, (3, 20, 24), dtype=np.uint16)
    picture = load_image(dicom(tmp_path, NumberOfFrames=3, PixelData=frames.tobytes()), window=(-1024, 3071))
    assert np.allclose(picture.unit()[..., 0], frames[0] / 4095, atol=1e-6)
    assert "first-frame" in codes(picture)
    colours = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PlanarConfiguration": 0, "RescaleSlope": None}
    kind = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "RescaleIntercept": None}
    assert np.array_equal(load_image(dicom(tmp_path, **eight, **kind, PixelData=colours.tobytes())).pixels, colours)
    refused(dicom(tmp_path, Rows=None, PixelData=None), "dicom-without-pixels")


def test_heic_and_avif_are_photos():
    photo = Image.fromarray(RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    pillow_heif.from_pillow(photo).save(buffer)
    expected = np.asarray(pillow_heif.open_heif(io.BytesIO(buffer.getvalue())))
    assert np.array_equal(load_image(buffer.getvalue()).pixels, expected)
    refused(buffer.getvalue()[:300], "broken")
    data = encoded(photo, format="AVIF")
    assert np.array_equal(load_image(data).pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_a_tiff_whose_strips_are_not_in_the_file_is_broken(tmp_path):
    """Tifffile makes up what is missing: zeros, an empty array, a length."""
    whole = tiff((BANDS % 251).astype(np.uint8), planarconfig="contig")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        entries = {tag.code: tag.offset for tag in file.pages[0].tags}
    for code in (273, 279):  # where the strips are, and how long
        for damaged in (
            whole[: entries[code]] + bytes(12) + whole[entries[code] + 12 :],
            whole[: entries[code] + 8] + b"\xff\xff\xff\x7f" + whole[entries[code] + 12 :],
        ):
            with raises(ImageError, "images.broken"):
                load_image(damaged)


@pytest.mark.parametrize("code", [258, 262, 277, 338])
def test_a_tiff_with_a_damaged_tag_is_broken_and_nothing_is_printed(code, capfd):
    whole = tiff((BANDS % 251).astype(np.uint8), planarconfig="contig")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        at = next(tag.offset for tag in file.pages[0].tags if tag.code == code)
    for damaged in (whole[: at + 2] + b"\x99\x04" + whole[at + 4 :], whole[: at + 8] + b"\xf0" * 4 + whole[at + 12 :]):
        with raises(ImageError, "images.broken"):
            load_image(damaged)
    assert capfd.readouterr() == ("", "")


def test_bands_of_one_bit_are_black_and_white():
    bits = BANDS[..., :4] % 2 > 0
    picture = load_image(tiff(bits.transpose(2, 0, 1), planarconfig="separate"), channels=4)
    assert np.array_equal(picture.data, bits * np.uint8(255))
