"""Models of timm, with the preprocessing and the class names of their own configuration."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from vitscope._messages import Message, msg
from vitscope.attention.model_modes import plain_defaults
from vitscope.errors import ModelError, UnknownNameError, require_package
from vitscope.geometry import TokenLayout
from vitscope.models.base import ADAPTERS
from vitscope.models.generic import GenericAdapter
from vitscope.models.pixels.bands import Resizing, convolution_channels, normalisation
from vitscope.models.references.hub import reach_hub
from vitscope.models.timm.classes import answers_with_clip_features, class_names, is_headless, pretrained_tag
from vitscope.models.timm.files import fill_architecture
from vitscope.models.weights.weights import hash_of
from vitscope.models.weights.weights_file import WeightsFile


class TimmAdapter(GenericAdapter):
    """A timm model.

    Args:
        model: made by `timm.create_model`, or of a class derived from timm's.
        processor: a function from a Pillow image to pixels; without one, timm's own for the model's data config.
        reference: how the model was named.
        layout: which token is which, where it should not be traced.
        labels: class names by index; without them those that the model's own configuration gives, or ImageNet's where
            its classifier is, number by number, that of timm's pretrained weights in the local cache.
    """

    name = "timm"
    references = msg(
        "models.timm-references", "a model of timm with pretrained weights, such as timm:vit_base_patch16_224"
    )

    def __init__(
        self,
        model: nn.Module,
        processor: Callable[..., Any] | None = None,
        *,
        reference: str = "",
        layout: TokenLayout | None = None,
        labels: Mapping[int, str] | None = None,
    ) -> None:
        from timm.data import create_transform, resolve_model_data_config

        self._own_processor = processor is None
        self._config = resolve_model_data_config(model)
        channels: int = convolution_channels(model)
        notes: list[str] = []
        if channels != 3:
            (mean, std), note = normalisation(self._config["mean"], self._config["std"], channels)
            size = (channels, *self._config["input_size"][1:])
            self._config |= {"input_size": size, "mean": mean, "std": std}
            notes = [note] if note else []
        inside = getattr(model, "model", model)  # features_only puts the model into a module of its own
        if (made_for := _made_for(inside)) is not None:
            self._config["input_size"] = (self._config["input_size"][0], *made_for)
        elif processor is None:
            self.model, self.channels = model, channels
            self._config["input_size"] = (self._config["input_size"][0], *self._working_size((channels,)))
        if processor is None and channels in (1, 3):
            processor = plain_defaults(create_transform)(**self._config, is_training=False)
        self.classes = not (is_headless(model) or answers_with_clip_features(model))
        super().__init__(model, processor, reference=reference, layout=layout, labels=labels or class_names(model))
        self.labels = self.labels if self.classes else {}
        if self._own_processor and channels != 3:
            self.channels = self.bands = channels
            self._bands, self.by_caller, self.notes = self.resizing(), False, (*self.notes, *notes)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Return the size of the model's own configuration, then others: some take only the size they were made for."""
        yield self._config["input_size"][1:]
        yield from super().sizes()

    def resizing(self) -> Resizing:
        """Return timm's own preprocessing for images of other bands than colours."""
        from timm.data.transforms import str_to_pil_interp

        c, (height, width) = self._config, self._config["input_size"][1:]
        whole = tuple(math.floor(n / c["crop_pct"]) for n in (height, width))
        squashed = c["crop_mode"] == "squash"

        def resized(size: tuple[int, int]) -> tuple[int, int]:
            if squashed:
                return whole
            scale = max(whole[0] / size[1], whole[1] / size[0])
            return max(int(size[1] * scale), whole[0]), max(int(size[0] * scale), whole[1])

        filters = str_to_pil_interp(c["interpolation"])
        return Resizing(resized, (height, width), c["mean"], c["std"], resample=filters)

    @classmethod
    def load_pretrained(cls, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """Load a pretrained model of timm by name; it takes other input sizes where timm can interpolate."""
        require_package("timm", extra="timm")
        import timm

        plain = name.partition(".")[0]
        _require_name(plain)
        config = timm.get_pretrained_cfg(name)
        if config is None or not (config.hf_hub_id or config.url):
            raise ModelError(
                msg("models.timm-without-weights", "timm has no pretrained weights for {name}", name=name),
                msg(
                    "models.timm-without-weights.hint",
                    "list the models with weights: timm.list_models('{name}*', pretrained=True)",
                    name=plain,
                ),
            )
        if hub_id := config.hf_hub_id:
            whole = hub_id.count("/") and not hub_id.endswith("/")
            reach_hub(hub_id if whole else hub_id + name, None)
        try:
            model = timm.create_model(name, pretrained=True, dynamic_img_size=True)
        except TypeError:  # not one of those that take other input sizes
            model = timm.create_model(name, pretrained=True)
        return model, {"labels": class_names(model, pretrained=True)}

    @classmethod
    def load_architecture(
        cls, name: str, weights: WeightsFile
    ) -> tuple[nn.Module, dict[str, Any], tuple[Message, ...]]:
        """Build an architecture as large as the weights of a file are, and fill it with them."""
        require_package("timm", extra="timm")
        _require_name(name.partition(".")[0])
        model, notes = fill_architecture(name, weights)
        return model, {}, notes

    @property
    def weights(self) -> str:  # type: ignore[override]
        """The SHA-256 of the parameters in memory, after timm's tag where they are its pretrained weights."""

        def tag_and_hash() -> str:
            return " ".join(part for part in (pretrained_tag(self.model), hash_of(self.model)) if part)

        return self.name_weights(tag_and_hash)

    def preprocessing(self) -> Message:
        """Describe what happens to an image."""
        if not self._own_processor:
            return super().preprocessing()
        c = self._config
        return msg(
            "models.preprocessing.timm",
            "timm's own: {crop_mode} crop {crop}, {interpolation}, {size}",
            crop_mode=c["crop_mode"],
            crop=c["crop_pct"],
            interpolation=c["interpolation"],
            size=" x ".join(str(v) for v in c["input_size"][1:]),
        )

    def describe(self) -> Mapping[str, str]:
        """Return architecture and sizes."""
        pool = getattr(self.model, "global_pool", None)
        return {**super().describe(), **({"global_pool": str(pool)} if isinstance(pool, str) else {})}


def _made_for(model: nn.Module) -> tuple[int, int] | None:
    """Return the input size that a model was built for, which need not be that of its configuration; None if unstated.

    It is that of the model or its first patch embedding; MViT keeps the grids of its stages instead.
    """
    for module in model.modules():
        size = getattr(module, "img_size", None)
        if isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(n, int) for n in size):
            return size[0], size[1]
    stages, facts = getattr(model, "stages", None), getattr(model, "feature_info", None)
    grid = getattr(stages[-1], "feat_size", None) if isinstance(stages, nn.ModuleList) and len(stages) else None
    if isinstance(grid, (tuple, list)) and len(grid) == 2 and isinstance(facts, list) and facts:
        reduction = facts[-1]["reduction"]
        return grid[0] * reduction, grid[1] * reduction
    return None


def _require_name(name: str) -> None:
    import timm

    if name not in timm.list_models():
        raise UnknownNameError(msg("models.timm-model", "timm model"), name, timm.list_models())


ADAPTERS.add(TimmAdapter.name, TimmAdapter)
