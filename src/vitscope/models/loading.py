"""Model references: a name, a folder or a module becomes a ModelAdapter, or one line why not.

`embedded:NAME` · a Hub id or a local folder of transformers · `timm:NAME` · `torchvision:NAME` ·
`open_clip:ARCH/PRETRAINED` (or `ARCH/FILE`) · any `nn.Module`.
"""

import re
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from vitscope.attention._torch_private import unwrap_compiled
from vitscope.errors import (
    LayoutError,
    MissingDependencyError,
    ModelError,
    UnknownNameError,
    UsageError,
    VitscopeError,
    first_line,
)
from vitscope.geometry import TokenLayout
from vitscope.models.base import ADAPTERS, ModelAdapter
from vitscope.models.bundled import wheel

__all__ = ["DEFAULT_MODEL", "DTYPES", "open_model", "pick_device"]

DEFAULT_MODEL = "embedded:dinov2-small"
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_SECONDS = 12.0
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_OTHERS = {"timm": "timm", "torchvision": "torchvision", "open_clip": "open_clip_torch"}
_ELSEWHERE = f"use --model {DEFAULT_MODEL}, or a local folder written by save_pretrained"
T = TypeVar("T")


def open_model(
    model: str | Path | nn.Module,
    *,
    processor: Any = None,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    layout: TokenLayout | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ModelAdapter:
    """Find, load and understand a model.

    Args:
        model: a reference (see the module's first lines) or a module, which is used as it is.
        processor: the image processor; by default the model's own.
        device: `auto`, `cpu`, `cuda`, `cuda:0`, `mps`; a module passed in stays where it is.
        dtype: `float32`, `float64`, `bfloat16`, `float16`; a module passed in keeps its own.
        revision: branch, tag or commit on the Hub.
        layout: which token is which, for a module whose tokens cannot be followed.
        progress: called with (stage, done, total) while weights are fetched.

    Raises:
        ModelError: not found, out of reach or broken.
        MissingDependencyError: the library that the reference names is not installed.
        LayoutError: loaded, but of a kind whose tokens are not understood.
    """
    if isinstance(model, nn.Module):
        model = unwrap_compiled(model)
        assert isinstance(model, nn.Module)
        stated = {} if layout is None else {"layout": layout}
        return _claim(model)(model, processor, **stated)  # type: ignore[call-arg]
    if layout is not None:
        raise UsageError("layout= goes with a module, not with a reference", "load the module yourself and pass it")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    place = pick_device(device)
    reference = str(model)
    scheme, colon, name = reference.partition(":")
    if colon and scheme == "embedded" and name in wheel.SHIPPED:
        place_of, known = str(wheel.shipped(name)), {"weights": wheel.shipped_id(name)}
        return _from_transformers(place_of, reference, processor, place, DTYPES[dtype], local=True, extra=known)
    if colon and scheme == "embedded":
        folder = wheel.folder(name, progress=progress)
        extra = {"weights": wheel.weights_id(name), "size": wheel.about(name).image_size}
        return _from_transformers(str(folder), reference, processor, place, DTYPES[dtype], local=True, extra=extra)
    if colon and scheme in _OTHERS:
        made, extra = _made_by(scheme, name)
        extra = {"processor": processor, "reference": reference} | {
            k: v for k, v in extra.items() if k != "processor" or not processor
        }
        return _claim(made)(made.to(place, DTYPES[dtype]).eval(), **extra)  # type: ignore[call-arg]
    if colon and not Path(reference).exists():
        kinds = ["embedded:", *(f"{other}:" for other in _OTHERS), "HUB/ID", "FOLDER"]
        raise UnknownNameError("kind of model reference", scheme + ":", kinds)
    local = Path(reference).is_dir()
    if not local and _looks_like_path(reference):
        raise ModelError(f"the model folder {reference} does not exist", _ELSEWHERE)
    if not local:
        local = not _reach_hub(reference, revision)
    return _from_transformers(reference, reference, processor, place, DTYPES[dtype], local=local, revision=revision)


def pick_device(device: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"the device '{device}' is not there: {why}", "use auto or cpu") from None
    if found.type == "meta":
        raise UsageError("the device 'meta' is not there: it holds no numbers", "use auto or cpu")
    return found


def _claim(model: nn.Module) -> type[ModelAdapter]:
    for name, adapter in sorted(ADAPTERS, key=lambda part: part[0] == "generic"):
        if (name == "generic" or type(model).__module__.partition(".")[0] == name) and adapter.claims(model):
            return adapter
    raise LayoutError(
        f"no family knows {type(model).__module__}.{type(model).__name__}",
        f"known: {', '.join(name for name, _ in ADAPTERS)}; vitscope.capture(model) gives raw attention of any model",
    )


def _made_by(library: str, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A pretrained model of another library, and what else its family wants to know."""
    if find_spec(library) is None:
        raise MissingDependencyError(
            f"models of {library} need {_OTHERS[library]}", f"pip install 'vitscope[{library}]'"
        )
    try:
        return _MAKERS[library](name)
    except VitscopeError:
        raise
    except Exception as error:  # whatever a broken connection or an unknown name raises in there
        raise ModelError(f"the model {library}:{name} cannot be loaded: {first_line(error)}", _ELSEWHERE) from error


def _from_timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    import timm

    plain = name.partition(".")[0]
    if plain not in timm.list_models():
        raise UnknownNameError("timm model", plain, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise ModelError(
            f"timm has no pretrained weights for {name}", f"see timm.list_models('{plain}*', pretrained=True)"
        )
    if config.hf_hub_id:
        _reach_hub(
            config.hf_hub_id + ("" if config.hf_hub_id.count("/") and not config.hf_hub_id.endswith("/") else name),
            None,
        )
    try:
        return timm.create_model(name, pretrained=True, dynamic_img_size=True), {}
    except TypeError:  # not one of those that take other input sizes
        return timm.create_model(name, pretrained=True), {}


def _from_torchvision(name: str) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    plain, _, which = name.partition("/")
    if plain not in models.list_models(module=models):
        raise UnknownNameError("torchvision model", plain, models.list_models(module=models))
    weights = getattr(models.get_model_weights(plain), which or "DEFAULT")
    model = _within(_HUB_SECONDS * 50, lambda: models.get_model(plain, weights=weights))
    labels = dict(enumerate(weights.meta.get("categories", ())))
    return model, {"processor": weights.transforms(), "labels": labels}


def _from_open_clip(name: str) -> tuple[nn.Module, dict[str, Any]]:
    import open_clip

    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise UnknownNameError("open_clip architecture", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags and (own := Path(tag).expanduser()).is_file():
        tag = str(own)
    elif tag not in tags and "/" in tag:
        raise ModelError(f"the file of weights {tag} does not exist", "open_clip:ARCH/FILE, as torch.save wrote it")
    elif tag not in tags:
        raise UnknownNameError(f"pretrained weights of {architecture}", tag or "(none)", tags)
    model, process = open_clip.create_model_from_pretrained(architecture, pretrained=tag)
    return model, {"processor": process}


_MAKERS: dict[str, Callable[[str], tuple[nn.Module, dict[str, Any]]]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "open_clip": _from_open_clip,
}


def _from_transformers(
    path: str,
    reference: str,
    processor: Any,
    device: torch.device,
    dtype: torch.dtype,
    *,
    local: bool,
    revision: str | None = None,
    extra: dict[str, Any] | None = None,
) -> ModelAdapter:
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

    where: dict[str, Any] = {"local_files_only": local, "revision": revision or "main"}
    try:
        config = AutoConfig.from_pretrained(path, **where)
        architectures = config.architectures or []
        classifies = any("ForImageClassification" in name for name in architectures)
        auto = AutoModelForImageClassification if classifies else AutoModel
        model, report = auto.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **where,
        )
        processor = processor or AutoImageProcessor.from_pretrained(path, **where)  # type: ignore[no-untyped-call]
    except VitscopeError:
        raise
    except Exception as error:  # broken files make the loaders raise anything
        raise ModelError(f"the model {reference} cannot be loaded: {first_line(error)}", _ELSEWHERE) from error
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, wanted = mismatched[0]
        raise ModelError(
            f"{len(mismatched)} weights of {reference} do not fit its config, such as {name}: "
            f"{tuple(found)} in the file, {tuple(wanted)} in the config",
            "the folder mixes two models: take config and weights of one",
        )
    missing = [name for name in report["missing_keys"] if "pooler" not in name and "mask_token" not in name]
    if missing:
        raise ModelError(
            f"the weights of {reference} lack {len(missing)} parameters, such as {sorted(missing)[0]}",
            "they would be random numbers: use a complete checkpoint",
        )
    arguments = {"reference": reference, "weights": _revision(reference, revision)} | (extra or {})
    return _claim(model)(model.to(device).eval(), processor, **arguments)  # type: ignore[call-arg]


def _revision(reference: str, revision: str | None) -> str:
    """`revision:COMMIT` for a model that came from the Hub, or an empty string."""
    from huggingface_hub import try_to_load_from_cache

    if Path(reference).is_dir() or not _HUB_ID.fullmatch(reference):
        return ""
    cached = try_to_load_from_cache(reference, "config.json", revision=revision)
    return f"revision:{Path(cached).parent.name}" if isinstance(cached, str) else ""


def _reach_hub(reference: str, revision: str | None) -> bool:
    """Ask the Hub for the model within a deadline, without retries; False where only the local cache has it."""
    if not _HUB_ID.fullmatch(reference):
        raise ModelError(f"'{reference}' is neither a folder nor a Hub id", _ELSEWHERE)
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    url = hf_hub_url(reference, "config.json", revision=revision)
    try:
        _within(_HUB_SECONDS, lambda: get_hf_file_metadata(url, timeout=_HUB_SECONDS / 2))
    except GatedRepoError:
        raise ModelError(f"{reference} is gated on the Hub", "accept its terms there and log in") from None
    except RepositoryNotFoundError:
        raise ModelError(f"the Hub has no model {reference}, or it is private", _ELSEWHERE) from None
    except Exception as error:  # whatever a broken connection raises, the cache may still have the model
        if isinstance(try_to_load_from_cache(reference, "config.json", revision=revision), str):
            return False
        if isinstance(error, HfHubHTTPError):
            raise ModelError(f"the Hub refused {reference}: {first_line(error)}", _ELSEWHERE) from None
        raise ModelError(f"the Hub is out of reach and {reference} is not in its local cache", _ELSEWHERE) from None
    return True


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, or TimeoutError: a hanging connection must not hang us."""
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds} seconds")
    return result[0]


def _looks_like_path(reference: str) -> bool:
    return reference.startswith((".", "/", "~")) or reference.count("/") > 1 or "\\" in reference
