"""Images of numbers: windows, bands for people, and the formats of files that hold them."""

import io
import struct
import warnings

import imagecodecs
import numpy as np
import pillow_heif
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence
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


@pytest.mark.parametrize("window", [(-2000, -1000), (5000, 9000), (-1, 0), (0, 1e-3)])
def test_a_window_beside_the_numbers_is_refused(window):
    """Black or white all over, the image would be explained without a word."""
    data = np.random.default_rng(0).integers(1, 4096, (32, 32), np.uint16)
    with raises(ImageError, "images.window-beside", "images.window-beside.hint") as caught:
        load_image(data, window=window)
    low, high = int(data.min()), int(data.max())  # as the hint says
    assert f"window=({low},{high})" in caught.value.hint
    assert 0.4 < load_image(data, window=(low, high)).unit().mean() < 0.6


def test_how_a_window_fits_is_said():
    data = np.arange(1, 4097, dtype=np.uint16).reshape(64, 64)
    assert codes(load_image(data, window=(0, 4095))) == ["windowed"]
    picture = load_image(data, window=(1025, 1536))
    assert codes(picture) == ["windowed", "window-clips"]
    assert picture.notes[1].params == {"below": 25, "above": 62}  # 1,024 and 2,560 of 4,096
    assert codes(load_image(data, window=(0, 65535))) == ["windowed", "window-wide"]
    assert codes(load_image(data, window=(-1000, 3000))) == ["windowed"]
    black = np.zeros((64, 64), np.uint16)
    black[0, 0] = 4095  # nearly all of it is black by its own numbers
    assert codes(load_image(black, window=(0, 4095))) == ["windowed"]


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


@pytest.mark.parametrize("display", [(1, 2), (), (0.5, 1, 2), (-1, 0, 1), "red", True, "1_0", "\u0662", "--5", "2.0"])
def test_what_are_no_bands_is_refused(display):
    with raises(UsageError, "images.display", "images.display.hint"):
        load_image(BANDS, display=display)


@pytest.mark.parametrize("window", ["1_0,2_0", "\u0660,\u0669", "nan,1", "0,inf", "0,1e400", "--5,5", "1", "5,1"])
def test_a_text_that_is_no_window_is_refused(window):
    with raises(UsageError, "images.window", "images.window.hint"):
        load_image(BANDS, window=window)


def test_texts_are_read_as_numbers():
    assert np.array_equal(load_image(BANDS, display=" 3, 2,+1").pixels, load_image(BANDS, display=(3, 2, 1)).pixels)
    assert np.array_equal(load_image(BANDS, window="-5,1e3").pixels, load_image(BANDS, window=(-5, 1000)).pixels)


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


@pytest.mark.parametrize("kind", ["png", "ppm"])
def test_a_window_is_in_the_numbers_of_the_file(kind):
    """Pillow reads the upper 8 bits of colours, and spreads greys of 12 bits over 16."""
    colours = RNG.integers(0, 4096, (20, 24, 3), dtype=np.uint16)
    ppm = b"P6 24 20 4095\n" + colours.astype(">u2").tobytes()
    data = imagecodecs.png_encode(colours) if kind == "png" else ppm
    step = 0 if kind == "png" else 0.5 / 255
    assert np.allclose(load_image(data, window=(0, 4095)).unit(), colours / 4095, atol=step + 1e-6)
    assert codes(load_image(data)) == ["high-bytes"]
    grey = b"P5 24 20 4095\n" + colours[..., 0].astype(">u2").tobytes()
    for window in ({}, {"window": (0, 4095)}):
        assert np.allclose(load_image(grey, **window).unit()[..., 0], colours[..., 0] / 4095, atol=1e-6)


def test_a_window_on_ten_bits_of_heic_is_in_the_numbers_of_the_file():
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    buffer = io.BytesIO()
    made = pillow_heif.from_bytes(mode="RGB;16", size=(64, 48), data=ramp[..., None].repeat(3, 2).tobytes())
    made.save(buffer, quality=-1)
    picture = load_image(buffer.getvalue(), window=(0, 1023))
    assert codes(picture) == ["high-bytes", "windowed"]
    assert picture.notes[0].params["bits"] == 10
    assert np.abs(picture.unit() - ramp[..., None] / 65535).max() < 1.5 / 255


def test_the_bits_of_avif_are_those_of_its_box():
    data = encoded(Image.new("RGB", (16, 16)), format="AVIF")
    assert _pillow._avif_bits(data) == 8
    ten = data.replace(b"\x03\x08\x08\x08", b"\x03\x0a\x0a\x0a")
    assert _pillow._avif_bits(ten) == 10
    assert _pillow._avif_bits(b"") == _pillow._avif_bits(b"pixi") == 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["int8", "int16", "uint16", "uint32", "int64", "float32"])
@pytest.mark.parametrize("white", ["minisblack", "miniswhite"])
def test_numbers_of_any_format_are_those_that_were_written(kind, order, white):
    """Pillow takes signed bytes for unsigned, wraps 32 unsigned bits, and knows no white zero of more than 8 bits."""
    low, high = (0, 2.0**32 - 1) if kind == "uint32" else (-120, 120) if kind[0] in "if" else (0, 60_000)
    numbers = np.linspace(low, high, 20 * 24).reshape(20, 24).astype(kind)
    picture = load_image(tiff(numbers, photometric=white, byteorder=order), window=(low, high))
    expected = (numbers.astype(float) - low) / (high - low)
    assert np.allclose(picture.unit()[..., 0], expected if white == "minisblack" else 1 - expected, atol=1e-6)
    assert ("inverted" in codes(picture)) is (white == "miniswhite")


def test_without_a_word_of_which_number_is_white_none_is_turned():
    numbers = np.arange(30 * 20 * 3, dtype=np.uint16).astype(np.uint8).reshape(30, 20, 3)
    written = tiff(numbers, photometric="rgb")
    unnamed = written.replace(struct.pack("<HHI", 262, 3, 1), struct.pack("<HHI", 774, 3, 1))
    assert unnamed != written
    picture = load_image(unnamed)
    assert np.array_equal(picture.pixels, numbers)
    assert "inverted" not in codes(picture)


def test_a_white_zero_of_16_bits_without_a_window_is_turned_within_all_16():
    numbers = np.linspace(1000, 60_000, 20 * 24).reshape(20, 24).astype(np.uint16)
    picture = load_image(tiff(numbers, photometric="miniswhite"))
    assert codes(picture) == ["inverted", "16-bit"]
    assert np.allclose(picture.unit()[..., 0], 1 - numbers / 65535, atol=1e-6)


def test_an_array_of_numpy_is_an_image(tmp_path):
    np.save(tmp_path / "bands.npy", BANDS)
    assert np.array_equal(load_image(tmp_path / "bands.npy").data, BANDS)
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(tmp_path / "code.npy", "pickled")
    (tmp_path / "short.npy").write_bytes((tmp_path / "bands.npy").read_bytes()[:200])
    refused(tmp_path / "short.npy", "broken")
    with (tmp_path / "huge.npy").open("wb") as file:
        head = {"descr": "<f8", "fortran_order": False, "shape": (1000, 1000, 10**6)}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(bytes(64))
    refused(tmp_path / "huge.npy", "broken")  # and not for want of memory, after which it would be tried again


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


@pytest.mark.parametrize(("centre", "width"), [("1e308", "-1e308"), ("1e17", "2"), ("-1e308", "1.7e308")])
def test_a_dicom_window_without_numbers_in_it_is_refused(tmp_path, centre, width):
    with raises(ImageError, "images.broken"):
        load_image(dicom(tmp_path, WindowCenter=centre, WindowWidth=width))


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


def items(**values):
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return Sequence([made])


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_an_enhanced_file_says_slope_and_window_for_its_frames(tmp_path, place):
    groups = items(
        PixelValueTransformationSequence=items(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU"),
        FrameVOILUTSequence=items(WindowCenter=40, WindowWidth=400),
    )
    none = {"RescaleSlope": None, "RescaleIntercept": None, "NumberOfFrames": 2, "PixelData": SCAN.tobytes() * 2}
    path = dicom(tmp_path, **none, **{place: groups})
    units = SCAN * 2.0 - 1000
    assert np.allclose(load_image(path).unit()[..., 0], ((units - 39.5) / 399 + 0.5).clip(0, 1), atol=1e-6)
    assert np.allclose(
        load_image(path, window=(-1000, 1000)).unit()[..., 0], ((units + 1000) / 2000).clip(0, 1), atol=1e-6
    )


def test_a_curve_of_a_dicom_file_is_over_its_whole_range(tmp_path):
    """Not over what the image happens to hold, which would stretch an image of little contrast."""
    window = {"WindowCenter": 400, "WindowWidth": 3000, "VOILUTFunction": "SIGMOID"}
    expected = 1 / (1 + np.exp(-4 * (SCAN - 1024.0 - 400) / 3000))
    assert np.allclose(load_image(dicom(tmp_path, **window)).unit()[..., 0], expected, atol=1e-6)
    table = (np.linspace(0.2, 0.6, 4096) ** 2 * 65535).astype(np.uint16)
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 16])
    lut.add_new("LUTData", "OW", table.tobytes())
    path = dicom(tmp_path, RescaleSlope=None, RescaleIntercept=None, VOILUTSequence=Sequence([lut]))
    assert np.allclose(load_image(path).unit()[..., 0], table[SCAN] / 65535, atol=1e-6)


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
