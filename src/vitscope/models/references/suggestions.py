"""Guess what a user means by a name or a file that is no reference: the reference to write instead."""

import logging
import math
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from vitscope._messages import msg
from vitscope.errors import ModelError, UsageError, VitscopeError
from vitscope.models.references.early_check import bare_name
from vitscope.models.weights.foreign_files import refuse_foreign
from vitscope.models.weights.weights_file import read_weights

log = logging.getLogger(__name__)

_WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
_TORCHVISION = {(768, 16): "vit_b_16", (768, 32): "vit_b_32", (1024, 16): "vit_l_16", (1280, 14): "vit_h_14"}
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers?|resblocks|encoder_layer)[._](\d+)\.")


def require_scheme(reference: str) -> None:
    """Raise where a bare name is that of a model of another library: it needs the library's name before it.

    Raises:
        UsageError: with the reference that was probably meant.
    """
    found = _libraries_of(reference)
    if found:
        raise bare_name(reference, *found)


def file_alone(path: Path) -> VitscopeError:
    """Make the error for a file of weights in the place of a model: what it is, and how to name its architecture.

    Returns:
        The error; also for a file that cannot be read.
    """
    try:
        refuse_foreign(path)
        weights = read_weights(path)
    except ModelError as error:
        return error
    kind, reference = _guess(weights.tensors, path)
    return UsageError.coded(
        "models.file-alone",
        "{file} is a file of weights ({count} tensors{kind}), which does not say what computes with them",
        "name the architecture as well: {@model={reference}}, {@weights={file}}",
        file=path,
        count=len(weights.tensors),
        kind=f", {kind}" if kind else "",
        reference=reference,
    )


def _libraries_of(name: str) -> list[str]:
    found = []
    if find_spec("timm"):
        import timm

        if timm.is_model(name.partition(".")[0]):
            found.append(f"timm:{name}")
    if find_spec("torchvision"):
        from torchvision import models

        if name in models.list_models(module=models):
            found.append(f"torchvision:{name}")
    if find_spec("open_clip"):
        import open_clip

        if name in open_clip.list_models():
            tags = open_clip.list_pretrained_tags_by_model(name)
            found.append(f"open_clip:{name}/{tags[0] if tags else 'PRETRAINED'}")
    return found


def _guess(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, str]:
    """Return what weights look like, and a reference to their architecture."""
    for ending, library in (
        ("patch_embed.proj.weight", "timm"),
        ("conv_proj.weight", "torchvision"),
        ("visual.conv1.weight", "open_clip"),
        ("patch_embeddings.projection.weight", "transformers"),
    ):
        name = next((name for name in tensors if name.endswith(ending)), None)
        if name is not None and tensors[name].ndim == 4:
            width, _, _, patch = tensors[name].shape
            numbers = [int(found[1]) for key in tensors if (found := _BLOCK.search(key))]
            depth = max(numbers, default=-1) + 1
            kind = msg(
                "models.file-looks-like",
                "by its names a ViT of {library}: patch {patch}, width {width}, {depth} blocks",
                library=library,
                patch=patch,
                width=width,
                depth=depth,
            )
            return kind, _reference(library, width, patch, tensors)
    log.debug("%s: names of no library that is known", path)
    return "", "timm:NAME"


def _reference(library: str, width: int, patch: int, tensors: Mapping[str, Tensor]) -> str:
    if library == "torchvision":
        return f"torchvision:{_TORCHVISION.get((width, patch), 'NAME')}"
    if library == "open_clip":
        return "open_clip:ARCH"
    if library == "transformers":
        return "FOLDER"
    if width not in _WIDTHS:
        return "timm:NAME"
    position = next((tensor for name, tensor in tensors.items() if name.endswith("pos_embed")), None)
    side = math.isqrt(position.shape[1]) * patch if position is not None and position.ndim == 3 else 224
    names = [f"vit_{_WIDTHS[width]}_patch{patch}_{side}", f"vit_{_WIDTHS[width]}_patch{patch}_224"]
    if not find_spec("timm"):
        return f"timm:{names[0]}"
    import timm

    return next((f"timm:{name}" for name in names if timm.is_model(name)), "timm:NAME")
