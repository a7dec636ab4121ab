"""`vitscope doctor` and `vitscope cache`: what is installed, what works here, and what the cache holds."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from vitscope._files import path_exists
from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _options as opt
from vitscope.errors import UsageError, VitscopeError, first_line

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<of>[\w,-]+)\])?.*extra == ['\"](?P<extra>[\w-]+)['\"]")
_LIBRARIES = ("torch", "transformers", "timm", "torchvision", "open_clip_torch", "numpy", "Pillow")
_VARIABLES = ("VITSCOPE_", "HF_", "TRANSFORMERS_", "CUDA_VISIBLE_DEVICES", "OMP_")
_OWN = ("HF_HUB_DISABLE_PROGRESS_BARS", "OMP_WAIT_POLICY", "TRANSFORMERS_VERBOSITY")  # the command line sets them
_SECRET = re.compile("TOKEN|KEY|SECRET|PASSWORD")
# Row 6 of the map of `rollout` for the sample `digits.png` and `embedded:digit-scenes`, from whole matrices in float64
_STORED = (
    *(0.0044981, 0.0109174, 0.0215635, 0.0138488, 0.0077973),
    *(0.0102340, 0.0191030, 0.0221993, 0.0146526, 0.0061454),
)
_TOLERANCE = 1e-4  # of the largest value
_HUB_MODEL = "google/vit-base-patch16-224"


def doctor(
    hub: Annotated[bool, typer.Option(help="Also ask whether the Hugging Face Hub can be reached.")] = True,
    as_json: opt.AsJson = False,
) -> int:
    """Report versions, devices, extras, cache and Hub, and check a map against stored values.

    One screen to paste into a bug report; values of tokens and keys are left out. The exit code is 1 where the check
    fails.
    """
    from vitscope.models.bundled.wheel import cache_dir

    console.announce("looking ...")
    extras = {name: ", ".join(_absent(packages)) for name, packages in _extras().items()}
    check, passed = _self_check()
    facts: dict[str, Any] = {
        "vitscope": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "packages": ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name))),
        "devices": _devices(),
        "extras": ", ".join(name for name, absent in extras.items() if not absent) or "none",
        "not installed": "; ".join(f"{name} ({absent})" for name, absent in extras.items() if absent) or "none",
        "cache": f"{cache_dir()} ({_megabytes(cache_dir())})",
        **({"Hub": _hub()} if hub else {}),
        "variables": ", ".join(_variables()) or "none",
        "check": check,
    }
    if as_json:
        console.print_json({"facts": facts, "passed": passed})
    else:
        console.print_table(["", ""], list(facts.items()), wrap=True)
    return 0 if passed else 1


def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove the weights; they are fetched again when they are needed.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show where the cache is and what it holds; VITSCOPE_CACHE names another folder.

    --clear keeps calibrations, which you measured. Models of the Hugging Face Hub are in a cache of its own.
    """
    from vitscope.models.bundled.wheel import cache_dir, cached_weights

    folder = cache_dir()
    if path_exists(folder) and not folder.is_dir():
        raise UsageError.coded(
            "cli.cache-is-a-file", "the cache {path} is not a folder", "set VITSCOPE_CACHE to a folder", path=folder
        )
    weights = {path: _bytes(path) for path in cached_weights()}
    if clear:
        for path in weights:
            shutil.rmtree(path)
    calibrations = sorted((folder / "calibrations").glob("*.json"))
    held = [{"path": str(path), "bytes": size, "removed": clear} for path, size in weights.items()]
    if as_json:
        console.print_json(
            {"folder": str(folder), "weights": held, "calibrations": [str(path) for path in calibrations]}
        )
        return
    console.print_line(f"{folder} ({_megabytes(folder)})")
    for path, size in weights.items():
        console.print_line(f"  {'removed: ' if clear else ''}{path.name}, weights, {size / 1e6:.0f} MB")
    for path in calibrations:
        console.print_line(f"  {path.relative_to(folder)}, a calibration")


def _extras() -> dict[str, set[str]]:
    """Return the packages of each extra, those of other extras that it names included."""
    found: dict[str, set[str]] = {}
    others: dict[str, list[str]] = {}
    for line in requires("vitscope") or []:
        if parts := _REQUIREMENT.match(line):
            if parts["name"] == "vitscope":
                others.setdefault(parts["extra"], []).extend(parts["of"].split(","))
            else:
                found.setdefault(parts["extra"], set()).add(parts["name"])
    for name, more in others.items():
        found.setdefault(name, set()).update(*(found.get(other, set()) for other in more))
    return dict(sorted(found.items()))


def _absent(packages: set[str]) -> list[str]:
    return sorted(name for name in packages if not _version(name))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _devices() -> str:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{n} ({torch.cuda.get_device_name(n)})" for n in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []))


def _hub() -> str:
    from vitscope.models.references.hub import reach_hub

    try:
        return "reached" if reach_hub(_HUB_MODEL, None) else "out of reach: only models in its cache can be loaded"
    except VitscopeError as error:
        return error.message


def _variables() -> Iterator[str]:
    for name in sorted(os.environ):
        if name.startswith(_VARIABLES) and name not in _OWN:
            yield name if _SECRET.search(name) else f"{name}={os.environ[name]}"


def _self_check() -> tuple[str, bool]:
    """Return what became of a map that is known, and whether it is right."""
    import numpy as np

    try:
        scope = opt.load("embedded:digit-scenes", device="cpu")
        with as_file(files("vitscope.web") / "samples" / "digits.png") as photo:
            values = scope.explain(photo, method="rollout").map[6]
    except Exception as error:  # whatever is broken here is what is asked for
        return f"failed: {type(error).__name__}: {first_line(error)}", False
    difference = float(np.abs(values - np.array(_STORED)).max() / max(_STORED))
    passed = difference <= _TOLERANCE
    return f"rollout of a stored photo is {'right' if passed else 'WRONG'}: {difference:.1g} from float64", passed


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(folder: Path) -> str:
    return f"{_bytes(folder) / 1e6:.0f} MB"
