"""Load models of transformers from a folder or the Hub, as the class that they were saved as."""

import json
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from typing import Any, TypeAlias

import torch

from vitscope._cached import cached_property
from vitscope._messages import Message, msg
from vitscope.errors import ModelError
from vitscope.models.options import ModelOptions
from vitscope.models.references.hub import OTHER_SOURCES, cached_revision, fetch_file, not_loaded, remote_code
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.models.transformers.audio import AudioAdapter
from vitscope.models.transformers.processor_loading import processor_of
from vitscope.models.transformers.types import AUDIO_TYPES, VIDEO_TYPES
from vitscope.models.transformers.video import VideoAdapter
from vitscope.models.weights.weights_file import WeightsFile
from vitscope.models.weights.weights_match import match

log = logging.getLogger(__name__)

Adapter: TypeAlias = TransformersAdapter | VideoAdapter | AudioAdapter

# heads that rebuild what was masked in training: without a mask there is nothing to rebuild
_PRETRAINING = ("ForPreTraining", "ForMaskedImageModeling")


@dataclass(frozen=True)
class Source:
    """Where a model of transformers lies, and how it is read.

    Attributes:
        path: a folder or a Hub id.
        reference: how the model was named.
        local: use local files only.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that the repository or folder brings.
    """

    path: str
    reference: str
    local: bool
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `from_pretrained`; without `trust_remote_code` transformers would ask on the terminal."""
        return {
            "local_files_only": self.local,
            "revision": self.revision or "main",
            "trust_remote_code": self.trust_remote_code,
        }

    def config(self) -> dict[str, Any]:
        """Return config.json as it is written; empty where it cannot be read."""
        return self._written

    @cached_property
    def _written(self) -> dict[str, Any]:
        here = Path(self.path) / "config.json"
        file = here if here.exists() else fetch_file(self.path, "config.json", self.revision, local=self.local)
        try:
            found = json.loads(file.read_text("utf-8")) if file else {}
        except (OSError, ValueError, RecursionError):  # the loader says what is wrong with it
            return {}
        return found if isinstance(found, dict) else {}


def load_transformers(
    source: Source,
    processor: Any,
    device: torch.device,
    dtype: torch.dtype,
    options: ModelOptions,
    *,
    weights: WeightsFile | None = None,
    extra: dict[str, Any] | None = None,
) -> Adapter:
    """Load a model of transformers with its image processor.

    Args:
        source: where the model lies.
        processor: an image processor; by default the model's own.
        device: where the model goes.
        dtype: of its parameters.
        options: what the caller said of the model.
        weights: a file whose weights are taken instead of the source's.
        extra: further keywords of the adapter.

    Raises:
        ModelError: broken or incomplete files, or a model that takes no images.
        LayoutError: the tokens cannot be traced.
    """
    model, notes = load_module(source, dtype, weights)
    if processor is None:
        processor, chosen = processor_of(source.path, source.reference, source.keywords, source.config())
        notes = (*notes, *chosen)
    return adapted(source, model, processor, device, options, notes, extra=extra, own_weights=weights is None)


def adapted(
    source: Source,
    model: Any,
    processor: Any,
    device: torch.device,
    options: ModelOptions,
    notes: Iterable[Message],
    *,
    extra: dict[str, Any] | None = None,
    own_weights: bool = True,
) -> Adapter:
    """Make the adapter of a loaded model."""
    kind: type[Adapter] = TransformersAdapter
    if model.config.model_type in VIDEO_TYPES:
        kind = VideoAdapter
    elif model.config.model_type in AUDIO_TYPES:
        kind = AudioAdapter
    if not kind.claims(model):
        raise ModelError.coded(
            "models.takes-no-images",
            "{reference} is a {architecture}, which takes no images",
            reference=source.reference,
            architecture=type(model).__name__,
        )
    revision = cached_revision(source.reference, source.revision) if own_weights else ""
    keywords = {"reference": source.reference, "weights": revision} | (extra or {})
    return kind.bound(model.to(device).eval(), processor, options, notes, **keywords)


def load_module(
    source: Source,
    dtype: torch.dtype,
    weights: WeightsFile | None = None,
    *,
    class_name: str = "",
    labels: int = 0,
    supplied: Collection[str] = (),
) -> tuple[Any, tuple[Message, ...]]:
    """Load the model itself, as the class that it was saved as.

    Args:
        source: where it lies.
        dtype: of its parameters.
        weights: a file whose weights are taken instead of the source's.
        class_name: the class to load, where the config does not name it.
        labels: the number of classes, where it is not the config's.
        supplied: parameters that the caller fills in afterwards.

    Returns:
        The model, and what a reader must know of how it was loaded.

    Raises:
        ModelError: broken or incomplete files, code that nobody allowed, or weights that do not fit.
    """
    from transformers import AutoConfig

    written = source.config()
    if written.get("auto_map") and not source.trust_remote_code:
        _require_native(source, written)
    try:
        config = AutoConfig.from_pretrained(
            source.path, **source.keywords, **({"num_labels": labels} if labels else {})
        )
        named = [class_name] if class_name else [*(config.architectures or [])]
        loader = _class_of(source, config, named)
        notes: tuple[Message, ...] = ()
        with _no_bar():
            if weights is None:
                model, report = _from_pretrained(loader, source, config, dtype)
            else:
                model, report, notes = _from_file(loader, config, dtype, weights)
    except ModelError:
        raise
    except Exception as error:  # broken files make the loaders raise anything
        raise not_loaded(source.reference, error) from error
    name = source.reference if weights is None else str(weights.path)
    _check_weights(name, report, supplied)
    return model, (*notes, *_left_out(name, type(model).__name__, named, report))


def _require_native(source: Source, written: dict[str, Any]) -> None:
    """Raise where a repository's model exists only in its own code."""
    from transformers import CONFIG_MAPPING

    if written.get("model_type") not in CONFIG_MAPPING:
        raise remote_code(source.reference, _code_files(written))


def _code_files(written: dict[str, Any]) -> str:
    return ", ".join(sorted({str(name).rpartition(".")[0] + ".py" for name in _flat(written["auto_map"])}))


def _flat(auto_map: Any) -> list[str]:
    values = auto_map.values() if isinstance(auto_map, dict) else [auto_map]
    return [str(one) for value in values for one in (value if isinstance(value, (list, tuple)) else [value]) if one]


def _class_of(source: Source, config: Any, named: list[str]) -> Any:
    """Return the class of transformers that a checkpoint was saved as, or the AutoModel that finds it."""
    import transformers

    own_code = dict(getattr(config, "auto_map", None) or {}) if source.trust_remote_code else {}
    for name in named:
        if name.endswith(_PRETRAINING):
            return transformers.AutoModel
        found = getattr(transformers, name, None)
        if found is not None and name not in {str(value).rpartition(".")[2] for value in own_code.values()}:
            takes_pixels = str(getattr(found, "main_input_name", "")).startswith("pixel_values")
            takes_pixels |= hasattr(found, "from_config") or config.model_type in AUDIO_TYPES
            log.debug("%s: %s, by its config", source.reference, name)
            return found if takes_pixels else transformers.AutoModel
    for auto, name in own_code.items():
        if str(name).rpartition(".")[2] in named and hasattr(transformers, auto):
            return getattr(transformers, auto)
    if own_code or not named:
        return transformers.AutoModel
    if (written := source.config()).get("auto_map"):
        raise remote_code(source.reference, _code_files(written))
    raise ModelError.coded(
        "models.unknown-class",
        "{reference} was saved by the class {name}, which transformers does not have",
        "build the model in Python, load its weights and pass it to vitscope.load",
        reference=source.reference,
        name=named[0],
    )


@contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers from drawing its bar of weights in this thread; its settings are left as they were found."""
    from transformers.utils.logging import set_tqdm_hook

    thread = get_ident()

    def without(factory: Any, args: Any, keywords: dict[str, Any]) -> Any:
        keywords = {**keywords, "disable": True} if get_ident() == thread else keywords
        return found(factory, args, keywords) if found else factory(*args, **keywords)

    found = set_tqdm_hook(without)
    try:
        yield
    finally:
        if (now := set_tqdm_hook(found)) is not without:
            set_tqdm_hook(now)  # that of another thread


def _from_pretrained(loader: Any, source: Source, config: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    model, report = loader.from_pretrained(
        source.path,
        config=config,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # refused below, by name
        **source.keywords,
    )
    return model, report


def _from_file(
    loader: Any, config: Any, dtype: torch.dtype, weights: WeightsFile
) -> tuple[Any, dict[str, Any], tuple[Message, ...]]:
    """Load the weights of a file into the class; the number of classes is that of the file's classifier."""
    with torch.device("meta"):
        own = loader.from_config(config) if hasattr(loader, "from_config") else loader(config)
    matched = match(weights, own.state_dict())
    notes, kind = [*weights.notes, *matched.notes], type(own)
    while True:
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(matched.tensors),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        heads = {name: shape for name, shape, _ in report["mismatched_keys"] if name.startswith("classifier.")}
        count = next((shape[0] for shape in heads.values()), config.num_labels)
        if len(heads) < len(report["mismatched_keys"]) or count == config.num_labels:
            break
        notes.append(
            msg(
                "models.weights-classes",
                "{file}: {count} classes, by the shape of {name}",
                file=weights.path.name,
                count=count,
                name=min(heads),
            )
        )
        config.num_labels = count
    if report["unexpected_keys"]:
        names = sorted(report["unexpected_keys"])
        raise ModelError.coded(
            "models.weights-beyond",
            "{file} has weights that have no place in {model}: {names}",
            OTHER_SOURCES,
            file=weights.path,
            model=kind.__name__,
            names=", ".join(names[:4]) + (f" + {len(names) - 4}" if len(names) > 4 else ""),
        )
    return model, report, tuple(notes)


def _left_out(name: str, loaded: str, named: list[str], report: dict[str, Any]) -> tuple[Message, ...]:
    """Return notes on weights that the loaded class has no place for; refuse them where no class was named."""
    unused = sorted(report["unexpected_keys"])
    if not unused:
        return ()
    if not named:
        raise ModelError.coded(
            "models.class-unknown",
            "the config of {reference} names no class, and a plain {loaded} would leave out {count} weights, such "
            "as {name}",
            'add "architectures" to config.json with the class that was trained, such as ViTForImageClassification',
            reference=name,
            loaded=loaded,
            count=len(unused),
            name=unused[0],
        )
    return (
        msg(
            "models.weights-left-out",
            "{count} weights of {reference} are not part of the {loaded} that is explained, such as {name}: saved as "
            "{saved}",
            count=len(unused),
            reference=name,
            loaded=loaded,
            name=unused[0],
            saved=", ".join(named),
        ),
    )


def _check_weights(reference: str, report: dict[str, Any], supplied: Collection[str]) -> None:
    """Refuse weights that do not fit their config, or that lack parameters."""
    if mismatched := sorted(one for one in report["mismatched_keys"] if one[0] not in supplied):
        name, in_file, in_config = mismatched[0]
        raise ModelError.coded(
            "models.weights-do-not-fit",
            "{count} weights of {reference} do not fit its config, such as {name}: {in_file} in the file, "
            "{in_config} in the config",
            "the folder mixes two models: take config and weights of one",
            count=len(mismatched),
            reference=reference,
            name=name,
            in_file=tuple(in_file),
            in_config=tuple(in_config),
        )
    lacking = set(report["missing_keys"]) - set(supplied)
    missing = sorted(name for name in lacking if "pooler" not in name and "mask_token" not in name)
    if missing:
        raise ModelError.coded(
            "models.weights-missing",
            "the weights of {reference} lack {count} parameters, such as {name}",
            "these would be random numbers: use a complete checkpoint",
            reference=reference,
            count=len(missing),
            name=missing[0],
        )
