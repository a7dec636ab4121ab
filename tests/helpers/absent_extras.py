"""Run by a test in a process of its own: what each extra's parts say where its packages are not installed."""

import json
import sys
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import tifffile

import vitscope
from vitscope.errors import VitscopeError
from vitscope.images import load_image
from vitscope.media.sound import load_sound
from vitscope.media.volume import load_volume

BATCH = ("results", "report", "report_page", "explore_page", "rows", "output")
LAZY = ("vitscope.batch", "vitscope.bench", "vitscope.export", "vitscope.viewer.widget", "vitscope.web")


@contextmanager
def absent(*packages):
    """Python finds none of these packages, and forgets the modules that may have imported them."""
    hidden = [name for name in sys.modules if name.partition(".")[0] in packages or name.startswith(LAZY)]
    kept = {name: sys.modules.pop(name) for name in hidden}
    sys.modules.update(dict.fromkeys(packages))
    try:
        yield
    finally:
        for package in packages:
            del sys.modules[package]
        sys.modules.update(kept)


def _batch():
    from vitscope.batch.run import require_engine

    require_engine("local")


def _ray():
    from vitscope.batch.run import require_engine

    require_engine("ray")


def _report(folder):
    from vitscope.cli.commands._options import LoadFlags
    from vitscope.cli.commands.report import report

    report(folder, LoadFlags())


def _peft(model, folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    vitscope.load(folder)


def _timm_folder(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}))
    vitscope.load(folder)


def _sound(path):
    from vitscope.media.sound import load_sound

    path.write_bytes(b"fLaC")
    load_sound(path)


def _volume(path):
    from vitscope.media.volume import load_volume

    path.write_bytes(b"no volume")
    load_volume(path)


def _clips():
    from transformers import VideoMAEConfig

    from vitscope.models.transformers.video import video_processor

    video_processor(VideoMAEConfig(), (32, 32))


def _serve():
    from vitscope.cli.commands._options import LoadFlags
    from vitscope.cli.commands.serve import serve

    serve(LoadFlags())


def _compressed(path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tifffile"]:
        del sys.modules[name]  # which has found its codecs already
    load_image(path)


def _read_video(path):
    from vitscope.batch.sources import ImageSource

    list(ImageSource(str(path), file_kind="video"))


def _write_video(path):
    from vitscope.batch.overlays import write_video

    write_video([], path)


def _wandb():
    from vitscope.export.wandb import logger

    logger(None)


def _lightning():
    from vitscope.export.lightning import AttentionMaps  # noqa: F401


def _fiftyone(explanation, folder):
    from vitscope.export.fiftyone import add

    add([], [explanation], folder)


def _photos():
    from vitscope.bench.photos import _photo

    _photo.__wrapped__("astronaut")


def _digits():
    from vitscope.bench.digit_scenes import split_digits

    split_digits()


def _segmentation(path):
    from vitscope.bench.segmentation import imagenet_cases

    imagenet_cases(path)


def attempts(model, photo, folder):
    """(extra, the package that is absent, its import name, what is tried) for every extra and each of its packages."""
    scope = vitscope.load(model)
    explanation = scope.explain(photo, method="rollout")
    table = scope.statistics(photo)
    return (
        ("timm", "timm", "timm", lambda: vitscope.load("timm:vit_tiny_patch16_224")),
        ("audio", "soundfile", "soundfile", lambda: _sound(folder / "sound.flac")),
        ("volume", "nibabel", "nibabel", lambda: _volume(folder / "volume.nii")),
        ("video", "torchvision", "torchvision", _clips),
        ("torchvision", "torchvision", "torchvision", lambda: vitscope.load("torchvision:vit_b_16")),
        ("open_clip", "open_clip_torch", "open_clip", lambda: vitscope.load("open_clip:ViT-B-32/openai")),
        ("peft", "peft", "peft", lambda: _peft(model, folder / "adapter")),
        ("timm", "timm", "timm", lambda: _timm_folder(folder / "timm-folder")),
        ("flow", "scipy", "scipy", lambda: scope.explain(photo, method="flow")),
        ("batch", "pyarrow", "pyarrow", _batch),
        ("batch", "pyarrow", "pyarrow", lambda: table.save(folder / "table.parquet")),
        ("batch", "pyarrow", "pyarrow", lambda: _report(folder)),
        *(("batch", "pyarrow", "pyarrow", partial(import_module, f"vitscope.batch.{name}")) for name in BATCH),
        ("notebook", "anywidget", "anywidget", lambda: scope.view(photo, methods=("rollout",)).widget()),
        ("serve", "fastapi", "fastapi", _serve),
        ("serve", "starlette", "starlette", _serve),
        ("serve", "uvicorn", "uvicorn", _serve),
        ("ray", "ray", "ray", _ray),
        ("wandb", "wandb", "wandb", _wandb),
        ("lightning", "lightning", "lightning", _lightning),
        ("fiftyone", "FiftyOne", "fiftyone", lambda: _fiftyone(explanation, folder)),
        ("tiff", "tifffile", "tifffile", lambda: load_image(folder / "in.tif")),
        ("tiff", "imagecodecs", "imagecodecs", lambda: _compressed(folder / "zstd.tif")),
        ("dicom", "pydicom", "pydicom", lambda: load_image(folder / "in.dcm")),
        ("heic", "pillow-heif", "pillow_heif", lambda: load_image(folder / "in.heic")),
        ("video", "PyAV", "av", lambda: _write_video(folder / "out.mp4")),
        ("video", "PyAV", "av", lambda: _read_video(folder / "in.mp4")),
        ("audio", "soundfile", "soundfile", lambda: load_sound(folder / "in.flac")),
        ("volume", "nibabel", "nibabel", lambda: load_volume(folder / "in.nii")),
        ("bench", "scikit-image", "skimage", _photos),
        ("bench", "scikit-learn", "sklearn", _digits),
        ("bench", "h5py", "h5py", lambda: _segmentation(folder / "gtsegs_ijcv.mat")),
    )


def main(model, photo, folder):
    folder = Path(folder)
    (folder / "in.mp4").write_bytes(b"no video")
    for name in ("in.flac", "in.nii"):
        (folder / name).write_bytes(b"neither sound nor volume")
    (folder / "in.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "in.heic").write_bytes(b"\0\0\0\x1cftypheic")
    bands, kind = np.zeros((8, 9, 6), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(folder / "in.tif", bands, **kind)
    tifffile.imwrite(folder / "zstd.tif", bands, **kind, compression="zstd")
    answers = []
    for extra, package, module, attempt in attempts(model, photo, folder):
        with absent(module):
            try:
                attempt()
                code, text = "", "nothing was raised"
            except VitscopeError as error:
                code, text = error.code, str(error)
            except Exception as error:
                code, text = type(error).__name__, str(error)
        answers.append({"extra": extra, "package": package, "code": code, "text": text})
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
