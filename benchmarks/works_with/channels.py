"""Numbers of channels and number formats: 1 to 13 bands, windows, DICOM, HEIC; int8, offloaded and half models."""

import io
import tempfile
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pillow_heif
import pydicom
import tifffile
import timm
import torch
from benchmarks.works_with.table import REFUSED, row
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from timm.data import create_transform
from torch.ao.quantization import quantize_dynamic
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import vitscope
from vitscope.errors import UnsupportedError, VitscopeError

__all__: list[str] = []

KIND = "Numbers of channels"
FILES = "Files of other numbers than 8-bit RGB"
WEIGHTS = "Quantised and offloaded weights"
_RNG = np.random.default_rng(0)
_PHOTO = _RNG.integers(0, 256, (40, 56, 3), dtype=np.uint8)
_BANDS = _RNG.integers(0, 10_000, (32, 32, 13), dtype=np.uint16)
_TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_GREY = {"image_size": 32, "patch_size": 8, "num_labels": 3}


def _timm(channels: int) -> Any:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", in_chans=channels, **_TIMM).eval()


def _vit(**options: Any) -> Any:
    torch.manual_seed(0)
    config = ViTConfig(**_SMALL, **_GREY, **options)
    config._attn_implementation = "eager"
    return ViTForImageClassification(config).eval()


def _processor(channels: int = 3) -> Any:
    half = [0.5] * channels
    return ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=half, image_std=half)


def _apart(pixels: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(pixels, np.float64) - np.asarray(expected, np.float64)).max())


def _gradient_map(model: Any, pixels: torch.Tensor, target: int) -> np.ndarray:
    """Return input times gradient of a class, summed over each patch of 8 pixels, in float64 by autograd alone."""
    model = model.double()
    x = pixels.double()[None].requires_grad_()
    answer = model(x)
    (gradient,) = torch.autograd.grad(getattr(answer, "logits", answer)[0, target], x)
    return (x * gradient).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()


def _units(channels: int) -> float:
    """Compare the gradient map of a model of so many bands with the one of a tensor prepared by hand."""
    data = _BANDS[..., :channels]
    by_hand = torch.from_numpy((data.astype(np.float64) / 10_000 - 0.5) / 0.5).permute(2, 0, 1)
    scope = vitscope.load(
        _timm(channels).double(),
        processor=lambda array: torch.from_numpy((array.astype(np.float64) - 0.5) / 0.5).permute(2, 0, 1),
        window=(0, 10_000),
    )
    found = scope.explain(data, method="input-x-gradient", target=1)
    return _apart(found.map, _gradient_map(_timm(channels), by_hand, 1))


for _count in (2, 4, 13):
    row(
        KIND,
        f"{_count} bands of uint16 and `window=(0, 10000)`",
        libraries=("timm",),
        against="input x gradient in float64, by autograd",
        tolerance=1e-4,
    )(lambda count=_count: _units(count))


@row(KIND, "13 bands, timm's own preprocessing", libraries=("timm",), against="(x / 10000 - 0.5) / 0.5, by NumPy")
def _() -> float:
    whole = np.pad(_BANDS, ((1, 2), (1, 2), (0, 0)))  # 35 pixels, of which crop_pct 0.9 keeps 32
    expected = (_BANDS.astype(np.float64) / 10_000 - 0.5) / 0.5
    made = vitscope.load(_timm(13), window=(0, 10_000)).prepare(whole)
    return _apart(made.pixels.permute(1, 2, 0), expected) + _apart(made.region.box, (1, 1, 33, 33))


@row(KIND, "an RGB photo for a model of one channel", libraries=("timm",), against="timm's transform of `convert('L')`")
def _() -> float:
    config = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 0.9, "interpolation": "bicubic"}
    expected = create_transform(**config, is_training=False)(Image.fromarray(_PHOTO).convert("L"))
    return _apart(vitscope.load(_timm(1)).prepare(_PHOTO).pixels, expected)


@row(KIND, "a grey photo and `num_channels=1`", libraries=("transformers",), against="its processor, on (H, W, 1)")
def _() -> float:
    grey, processor = _PHOTO[..., 0], _processor(1)
    expected = processor(images=grey[..., None], input_data_format="channels_last", return_tensors="pt")
    made = vitscope.load(_vit(num_channels=1), processor=processor).prepare(grey).pixels
    return _apart(made, expected["pixel_values"][0])


@row(KIND, "a grey photo for a model of three channels", libraries=("timm",), against="the photo with grey repeated")
def _() -> float:
    scope, grey = vitscope.load(_timm(3)), _PHOTO[..., 0]
    return _apart(scope.prepare(grey).pixels, scope.prepare(np.stack([grey] * 3, 2)).pixels)


@row(KIND, "RGBA for a model of four channels", libraries=("timm",), against="its four bands / 255")
def _() -> float:
    rgba = _RNG.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    model = _timm(4)
    scope = vitscope.load(model, processor=lambda a: torch.from_numpy(a.astype(np.float32) / 255).permute(2, 0, 1))
    return _apart(scope.prepare(Image.fromarray(rgba, "RGBA")).pixels, rgba.transpose(2, 0, 1) / 255)


@row(KIND, "an RGB photo for a model of four channels", libraries=("timm",), against="a refusal with both numbers")
def _() -> float | str:
    try:
        vitscope.load(_timm(4)).explain(_PHOTO)
    except VitscopeError as error:
        return REFUSED if error.code == "models.other-bands" else 1.0
    return 1.0


@row(KIND, "reflectances of 13 bands without a window", libraries=("timm",), against="a refusal with their range")
def _() -> float | str:
    try:
        vitscope.load(_timm(13)).explain(_BANDS)
    except VitscopeError as error:
        return REFUSED if error.code == "images.unknown-range" else 1.0
    return 1.0


def _file(name: str, data: bytes) -> str:
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(data)
    return str(path)


def _tiff(array: np.ndarray, **options: Any) -> str:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack", **options)
    return _file("in.tif", buffer.getvalue())


def _read(path: str, channels: int, **options: Any) -> np.ndarray:
    data = vitscope.images.load_image(path, channels=channels, **options).data
    assert data is not None
    return data


@row(FILES, "TIFF, 4 interleaved bands of 16 bits", libraries=("tifffile",), against="the array that was written")
def _() -> float:
    return _apart(_read(_tiff(_BANDS[..., :4], planarconfig="contig"), 4), _BANDS[..., :4])


@row(FILES, "TIFF, 13 planes, deflated", libraries=("tifffile",), against="the array that was written")
def _() -> float:
    path = _tiff(_BANDS.transpose(2, 0, 1), planarconfig="separate", compression="zlib")
    return _apart(_read(path, 13), _BANDS)


@row(FILES, "TIFF, 13 pages", libraries=("tifffile",), against="the array that was written")
def _() -> float:
    return _apart(_read(_tiff(_BANDS.transpose(2, 0, 1)), 13), _BANDS)


@row(FILES, "`display=(3, 2, 1)`", libraries=("tifffile",), against="percentiles 2 and 98, by NumPy")
def _() -> float:
    picture = vitscope.images.load_image(_tiff(_BANDS, planarconfig="contig"), display=(3, 2, 1))
    shown = _BANDS[..., [3, 2, 1]].astype(np.float64)
    low, high = np.percentile(shown, (2, 98))
    return _apart(picture.pixels, ((shown - low) / (high - low)).clip(0, 1).astype(np.float32).__mul__(255).round())


def _twelve_bits() -> tuple[np.ndarray, str]:
    values = _RNG.integers(200, 4096, (40, 40), dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return values, _file("scan.png", buffer.getvalue())


@row(FILES, "12 bits in a 16-bit PNG, `window=(0, 4095)`", libraries=("pillow",), against="x / 4095, by NumPy")
def _() -> float:
    values, path = _twelve_bits()
    return _apart(vitscope.images.load_image(path, window=(0, 4095)).unit()[..., 0], values / 4095)


@row(FILES, "12 bits in a 16-bit PNG, no window", libraries=("pillow",), against="percentiles 0.5 and 99.5, by NumPy")
def _() -> float:
    values, path = _twelve_bits()
    low, high = np.percentile(values, (0.5, 99.5))
    return _apart(vitscope.images.load_image(path).unit()[..., 0], ((values - low) / (high - low)).clip(0, 1))


def _dicom(photometric: str = "MONOCHROME2") -> tuple[Any, str]:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("scan.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Rows, found.Columns, found.SamplesPerPixel, found.PhotometricInterpretation = 40, 48, 1, photometric
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 12, 11, 0
    found.RescaleSlope, found.RescaleIntercept, found.WindowCenter, found.WindowWidth = 1, -1024, 40, 400
    found.PixelData = _RNG.integers(0, 4096, (40, 48), dtype=np.uint16).tobytes()
    path = _file("scan.dcm", b"")
    found.save_as(path, enforce_file_format=True)
    return pydicom.dcmread(path), path


def _windowed(found: Any) -> np.ndarray:
    """Return pydicom's own window of an image, from 0 to 1."""
    found.PhotometricInterpretation = "MONOCHROME2"
    values = apply_windowing(apply_modality_lut(found.pixel_array, found), found)
    return (values + 1024) / 4095


@row(FILES, "DICOM, CT with a window", libraries=("pydicom",), against="pydicom's apply_windowing")
def _() -> float:
    found, path = _dicom()
    return _apart(vitscope.images.load_image(path).unit()[..., 0], _windowed(found))


@row(FILES, "DICOM, MONOCHROME1", libraries=("pydicom",), against="1 - pydicom's apply_windowing")
def _() -> float:
    found, path = _dicom("MONOCHROME1")
    return _apart(vitscope.images.load_image(path).unit()[..., 0], 1 - _windowed(found))


@row(FILES, "HEIC", libraries=("pillow_heif",), against="the array that pillow-heif decodes")
def _() -> float:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(_PHOTO)).save(buffer)
    expected = np.asarray(pillow_heif.open_heif(io.BytesIO(buffer.getvalue())))
    return _apart(vitscope.images.load_image(buffer.getvalue()).pixels, expected)


@row(FILES, "AVIF", libraries=("pillow",), against="the array that Pillow decodes")
def _() -> float:
    buffer = io.BytesIO()
    Image.fromarray(_PHOTO).save(buffer, "AVIF")
    return _apart(vitscope.images.load_image(buffer.getvalue()).pixels, np.asarray(Image.open(buffer)))


def _attention(model: Any, tolerance_dtype: torch.dtype = torch.float32) -> float:
    """Compare the last layer's attention of the CLS token with what the eager model itself returns."""
    scope = vitscope.load(model, processor=_processor())
    pixels = _processor()(images=_PHOTO, return_tensors="pt")["pixel_values"].to(tolerance_dtype)
    with torch.no_grad():
        expected = model(pixels, output_attentions=True).attentions[-1][0, :, 0, 1:].float().mean(0)
    found = scope.explain(_PHOTO, method="attention", layer=-1)
    return _apart(found.map, expected.reshape(4, 4))


@row(WEIGHTS, "int8 by torch's dynamic quantisation", libraries=("torch", "transformers"), against="its own attentions")
def _() -> float:
    return _attention(quantize_dynamic(_vit(), {torch.nn.Linear}, dtype=torch.qint8))


@row(WEIGHTS, "gradients of such an int8 model", libraries=("torch", "transformers"), against="a refusal: no backward")
def _() -> float | str:
    model = quantize_dynamic(_vit(), {torch.nn.Linear}, dtype=torch.qint8)
    try:
        vitscope.load(model, processor=_processor()).explain(_PHOTO, method="input-x-gradient", target=1)
    except UnsupportedError:
        return REFUSED
    return 1.0


@row(WEIGHTS, "int8 weights by torchao", libraries=("torchao", "transformers"), against="its own attentions")
def _() -> float:
    model = _vit()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return _attention(model)


@row(WEIGHTS, "bfloat16", libraries=("transformers",), against="its own attentions", tolerance=2e-2)
def _() -> float:
    return _attention(_vit().to(torch.bfloat16), torch.bfloat16)


@row(
    WEIGHTS,
    "offloaded by `accelerate.cpu_offload`",
    libraries=("accelerate", "transformers"),
    against="input x gradient in float64, by autograd",
    tolerance=1e-4,
)
def _() -> float:
    pixels = _processor()(images=_PHOTO, return_tensors="pt")["pixel_values"][0]
    model = accelerate.cpu_offload(_vit(), execution_device=torch.device("cpu"))
    found = vitscope.load(model, processor=_processor()).explain(_PHOTO, method="input-x-gradient", target=1)
    return _apart(found.map, _gradient_map(_vit(), pixels, 1))
