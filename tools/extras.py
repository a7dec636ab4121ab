"""Install each extra alone beside the package itself, and use it; before that, ask the package without any extra.

    python tools/extras.py               all extras: gigabytes, and half an hour
    python tools/extras.py flow batch    these alone

Without the extra one line has to name it, and nothing else; with it, its part has to work. `out/extras/base` holds the
package with its dependencies; the environment of an extra sees that one, and holds what the extra adds.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tools.release import build  # noqa: E402  # the path is set above

PLACE = ROOT / "out" / "extras"
TINY = "embedded:digit-scenes"
# what makes the files that the commands below read
FILES = """
import json, struct
from pathlib import Path
from PIL import Image
Image.linear_gradient("L").convert("RGB").resize((90, 60)).save("photo.png")
Path("photos").mkdir(); Image.open("photo.png").save("photos/a.png")
Path("adapter").mkdir()
Path("adapter/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "."}))
for name in ("a.flac", "a.nii", "a.mp4"): Path(name).write_bytes(b"neither sound nor volume")
Path("a.dcm").write_bytes(bytes(128) + b"DICM")
Path("a.heic").write_bytes(bytes(3) + b"\\x1cftypheic")
tags = [(256, 3, 1, 9), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 6),
        (278, 3, 1, 8), (279, 4, 1, 432)]  # a TIFF of six bands, which Pillow does not read
entries = b"".join(struct.pack("<HHIHH" if kind == 3 else "<HHII", *tag, *([0] if kind == 3 else []))
                   for tag in tags for kind in (tag[1],))
Path("a.tif").write_bytes(b"II*\\0" + struct.pack("<I", 440) + bytes(432) + struct.pack("<H", 9) + entries + bytes(4))
"""
EXPLANATION = f"import vitscope; scope = vitscope.load({TINY!r}); e = scope.explain('photo.png', method='rollout')\n"
# of each extra: arguments of `vitscope`, or a program, that needs it; and a program that has to work with it
PARTS: dict[str, tuple[str, str]] = {
    "timm": (
        "inspect -m timm:vit_tiny_patch16_224",
        "import timm, vitscope; vitscope.load(timm.create_model('vit_tiny_patch16_224'))",
    ),
    "torchvision": (
        "inspect -m torchvision:vit_b_16",
        "import torchvision, vitscope; vitscope.load(torchvision.models.vit_b_16())",
    ),
    "open_clip": (
        "inspect -m open_clip:ViT-B-32/openai",
        "import open_clip, vitscope; vitscope.load(open_clip.create_model('ViT-B-32').visual)",
    ),
    "peft": ("inspect -m adapter", "import peft, vitscope"),
    "flow": (f"explain photo.png -m {TINY} --method flow", EXPLANATION + "scope.explain('photo.png', method='flow')"),
    "batch": (
        f"batch photos -o out -m {TINY}",
        EXPLANATION + "from vitscope.batch.run import run; from vitscope.batch.types import BatchPlan\n"
        f"assert run('photos', 'with-batch', BatchPlan({TINY!r}, methods=('rollout',)), scope=scope).failed == 0",
    ),
    "notebook": (EXPLANATION + "vitscope.widget_of(e)",) * 2,
    "serve": (f"serve -m {TINY} --port 0", "import vitscope.web.server"),
    "ray": (
        f"batch photos -o out -m {TINY} --engine ray",
        "from vitscope.batch.run import require_engine; require_engine('ray')",
    ),
    "tensorboard": ("", "import torch.utils.tensorboard, vitscope.export.tensorboard"),
    "wandb": ("from vitscope.export.wandb import logger; logger(None)", "import wandb, vitscope.export.wandb"),
    "lightning": ("from vitscope.export.lightning import AttentionMaps",) * 2,
    "fiftyone": (
        EXPLANATION + "from vitscope.export.fiftyone import add; add([], [e], 'heat')",
        "import fiftyone, vitscope.export.fiftyone",
    ),
    "tiff": (
        f"explain a.tif -m {TINY}",
        "from vitscope.images import load_image; assert load_image('a.tif').bands == 6",
    ),
    "dicom": (f"explain a.dcm -m {TINY}", "import pydicom, vitscope"),
    "heic": (
        f"explain a.heic -m {TINY}",
        "import pillow_heif; from PIL import Image; from vitscope.images import load_image\n"
        "pillow_heif.from_pillow(Image.open('photo.png')).save('b.heic')\n"
        "assert load_image('b.heic').size == (90, 60)",
    ),
    "video": (
        "from vitscope.media.clip import load_clip; load_clip('a.mp4', 2)",
        "from pathlib import Path; from PIL import Image; from vitscope.media.clip import load_clip\n"
        "from vitscope.render.film import encode_video; import torchvision\n"
        "encode_video([Image.new('RGB', (64, 48), (80 * i, 0, 0)) for i in range(3)], Path('b.mp4'), 3)\n"
        "assert load_clip('b.mp4', 2).pixels.shape",
    ),
    "audio": (
        "from vitscope.media.sound import load_sound; load_sound('a.flac')",
        "import numpy, soundfile; from vitscope.media.sound import load_sound\n"
        "soundfile.write('b.flac', numpy.zeros(800), 8000); load_sound('b.flac')",
    ),
    "volume": (
        "from vitscope.media.volume import load_volume; load_volume('a.nii')",
        "import nibabel, numpy; from vitscope.media.volume import load_volume\n"
        "nibabel.save(nibabel.Nifti1Image(numpy.ones((4, 5, 6), 'f4'), numpy.eye(4)), 'b.nii'); load_volume('b.nii')",
    ),
    "bench": (
        "bench digits --count 2 -o bench",
        "import h5py, skimage.data; from vitscope.bench.digit_scenes import split_digits; split_digits()",
    ),
}


def main() -> None:
    """Try the extras that the arguments name, or all; exit with 1 if one does not keep its word."""
    names = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"extras: no extra is called {', '.join(unknown)}")
    wheel, _ = build()
    base = PLACE / "base"
    if not base.exists():
        python = environment(base)
        install(python, str(wheel))
    else:  # kept from before, its dependencies with it
        python = python_of(base)
        install(python, "--no-deps", "--force-reinstall", str(wheel))
    faults = [fault for name in names if (fault := without(python, name) or beside(base, wheel, name))]
    print(f"extras: {len(names) - len(faults)} of {len(names)} do as they should")
    sys.exit("\n".join(faults) or 0)


def without(python: Path, name: str) -> str:
    """Return what is wrong with the answer of the package without any extra, or nothing."""
    if not (asked := PARTS[name][0]):
        return ""
    ran = run(python, asked)
    text = ran.stderr.strip().splitlines()
    end = f"is not installed (pip install 'vitscope[{name}]')"
    if asked.startswith(("import", "from")):  # a program: the line is that of the exception
        text = text[-1:]
    if ran.returncode and len(text) == 1 and text[0].endswith(end):
        print(f"{name}: {text[0]}")
        return ""
    return f"extras: without {name}: {ran.stderr.strip() or ran.stdout.strip() or 'nothing is said'}"


def beside(base: Path, wheel: Path, name: str) -> str:
    """Return what does not work where the extra is installed alone, or nothing."""
    python = environment(PLACE / name, base)
    install(python, f"{wheel}[{name}]")
    ran = run(python, PARTS[name][1])
    shutil.rmtree(PLACE / name)
    return f"extras: with {name}: {ran.stderr.strip()}" if ran.returncode else ""


def run(python: Path, asked: str) -> "subprocess.CompletedProcess[str]":
    """Run arguments of `vitscope`, or a program, in a new folder with the files that it may need."""
    shutil.rmtree(place := PLACE / "work", ignore_errors=True)
    place.mkdir(parents=True)
    subprocess.run([python, "-c", FILES], cwd=place, check=True)
    program = asked.startswith(("import", "from"))
    command = [python, "-c", asked] if program else [python, "-m", "vitscope", *asked.split(), "-q"]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=900)


def environment(place: Path, base: Path | None = None) -> Path:
    """Make a new environment, which sees the packages of another one after its own; return its Python."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    if base is not None:
        (packages_of(place) / "base.pth").write_text(f"{packages_of(base)}\n", "utf-8")
    return python_of(place)


def python_of(place: Path) -> Path:
    """Return the Python of an environment."""
    return next(path for path in place.glob("*/python*") if path.parent.name in ("bin", "Scripts"))


def packages_of(place: Path) -> Path:
    """Return the folder of an environment's packages."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(place), "platbase": str(place)}))


def install(python: Path, *what: str) -> None:
    """Install with pip."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *what], check=True)


if __name__ == "__main__":
    main()
