"""Other packages at their documented settings, on the same model and pixels: how each is called, and from where.

A peer that the tests do not install anyway is fetched with its exact version into a folder of its own, without its
dependencies, and only its own process sees it.
"""

import copy
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.speed.models import PATCH, Shape, pixels, timm_model, torchvision_model, transformers_model
from benchmarks.speed.twins import IG_STEPS, per_patch
from torch import Tensor, nn

FOLDERS = Path(__file__).parents[2] / ".cache" / "peers"
MAKE = {"transformers": transformers_model, "timm": timm_model, "torchvision": torchvision_model}
TARGET = 3

Call = Callable[[], Tensor]  # a map: the values of the patches


@dataclass(frozen=True)
class Peer:
    """One package's method.

    Attributes:
        name: the package, and what of it is called.
        library: whose model it gets.
        claims: the method that it claims to compute, one of `TWINS`.
        ours: vitscope's method and its options for the same, or for the nearest that there is.
        prepare: from model, pixels and side to the call that is measured.
        backward: the floor is a forward and a backward.
        installs: requirements, installed apart; empty for what is there anyway.
        versions: distributions whose versions are told.
        apart: a process of its own, because the package changes classes for the whole process or needs other versions.
        beyond: tokens above which it is not tried, and why.
        beneath: tokens below which it is not tried, because another row says the same.
    """

    name: str
    library: str
    claims: str
    ours: tuple[str, dict[str, Any]]
    prepare: Callable[[nn.Module, Tensor, int], Call]
    backward: bool = False
    installs: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    apart: bool = False
    beyond: tuple[int, str] | None = None
    beneath: int = 0


def dense_rollout(attentions: list[Tensor]) -> Tensor:
    """Return the product over all layers, the last one on the left, by whole matrices: the copied recipe, in order."""
    product = None
    for attention in attentions:
        mixed = (attention.mean(1)[0] + torch.eye(attention.shape[-1])) / 2
        product = mixed if product is None else mixed @ product
    assert product is not None
    return product[0, 1:]


def output_attentions(model: nn.Module, x: Tensor, side: int) -> Call:
    """Let transformers' eager attention return all matrices; the copy of the model shares its weights."""
    eager = copy.deepcopy(model, {id(one): one for one in [*model.parameters(), *model.buffers()]})
    eager.set_attn_implementation("eager")  # type: ignore[operator]

    def call() -> Tensor:
        with torch.no_grad():
            return dense_rollout(list(eager(x, output_attentions=True).attentions))

    return call


def attention_hooks(model: nn.Module, x: Tensor, side: int) -> Call:
    """Unfuse timm's attention for the call, and hook each `attn_drop`."""

    def call() -> Tensor:
        kept: list[Tensor] = []
        blocks = list(model.blocks)  # type: ignore[arg-type]
        hooks = [b.attn.attn_drop.register_forward_hook(lambda _m, _i, out: kept.append(out)) for b in blocks]
        for block in blocks:
            block.attn.fused_attn = False
        try:
            with torch.no_grad():
                model(x)
            return dense_rollout(kept)
        finally:
            for block, hook in zip(blocks, hooks, strict=True):
                block.attn.fused_attn = True
                hook.remove()

    return call


def fast_vit_rollout(model: nn.Module, x: Tensor, side: int, discard: float = 0.0) -> Call:
    """Do as its README says: switch fused attention off; mean over heads."""
    from fast_vit_rollout.vit_rollout import ViTAttentionRollout

    def call() -> Tensor:
        for block in model.blocks:  # type: ignore[union-attr]
            block.attn.fused_attn = False
        try:
            explain = ViTAttentionRollout(model, head_fusion="mean", discard_ratio=discard)
            with torch.no_grad():
                model(x)
            result: Tensor = explain._compute_rollout()[0, 0, 1:]
            return result
        finally:
            for block in model.blocks:  # type: ignore[union-attr]
                block.attn.fused_attn = True
                block.attn.attn_drop._forward_hooks.clear()  # it never removes them

    return call


def torchxai(model: nn.Module, x: Tensor, side: int) -> Call:
    from torchxai.methods.attention_rollout import AttentionRollout

    explain = AttentionRollout(model, head_fusion="mean", discard_ratio=0.0)
    return lambda: torch.from_numpy(np.asarray(explain._compute_cam(x, None))).flatten()


def vit_xray(model: nn.Module, x: Tensor, side: int) -> Call:
    from vit_xray.core import cls_attention

    return lambda: torch.from_numpy(cls_attention(model, x, side // PATCH, side // PATCH, -1)).flatten()


def daam(model: nn.Module, x: Tensor, side: int) -> Call:
    from daam import DAAM

    def call() -> Tensor:
        with DAAM(model) as explain:
            result: Tensor = explain(x, target=TARGET).maps[0, -1].flatten()
        return result

    return call


def torchcam(model: nn.Module, x: Tensor, side: int) -> Call:
    from torchcam.methods import LeGrad

    def call() -> Tensor:
        with LeGrad(model, list(model.encoder.layers)) as explain:  # type: ignore[union-attr, arg-type]
            scores = model(x)
            result: Tensor = explain(TARGET, scores)[0].flatten()
        return result

    return call


def grad_cam(model: nn.Module, x: Tensor, side: int) -> Call:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    grid = side // PATCH

    def call() -> Tensor:
        with (
            GradCAM(
                model=model,
                target_layers=[model.blocks[-1].norm1],  # type: ignore[index]
                reshape_transform=lambda t: t[:, 1:].unflatten(1, (grid, grid)).movedim(-1, 1),
            ) as explain
        ):
            given = x.clone().requires_grad_()
            explain.get_target_width_height = lambda _: (grid, grid)  # the map of the patches, not enlarged
            return torch.from_numpy(explain(input_tensor=given, targets=[ClassifierOutputTarget(TARGET)])).flatten()

    return call


def captum_ig(model: nn.Module, x: Tensor, side: int) -> Call:
    from captum.attr import IntegratedGradients

    explain = IntegratedGradients(model)
    return lambda: per_patch(
        explain.attribute(x, target=TARGET, n_steps=IG_STEPS, method="riemann_middle", internal_batch_size=1).detach()
    )


def captum_ixg(model: nn.Module, x: Tensor, side: int) -> Call:
    from captum.attr import InputXGradient

    explain = InputXGradient(model)
    return lambda: per_patch(explain.attribute(x.clone().requires_grad_(), target=TARGET).detach())


def lxt(model: nn.Module, x: Tensor, side: int) -> Call:
    """Use its rules for torchvision's ViT, without zennit's Gamma rules, which would cost more."""
    from lxt.efficient import monkey_patch
    from lxt.efficient.models.vit_torch import cp_LRP
    from torchvision.models import vision_transformer

    monkey_patch(vision_transformer, cp_LRP)

    def call() -> Tensor:
        given = x.clone().requires_grad_()
        model(given)[0, TARGET].backward()
        assert given.grad is not None
        return per_patch(given.detach() * given.grad)

    return call


LIBRA = {"gradient_rule": "libra"}
OLDER = ("transformers==4.57.1", "huggingface_hub==0.36.0", "tokenizers==0.22.1")  # what lxt 2.1 imports
APART = ("fast-vit-rollout==0.1.1",)
PEERS = {
    "output-attentions": Peer(
        "transformers, eager, `output_attentions=True`",
        "transformers",
        "rollout",
        ("rollout", {"query": "cls"}),
        output_attentions,
        versions=("transformers",),
    ),
    "hooks": Peer("timm, unfused, hooks", "timm", "rollout", ("rollout", {}), attention_hooks, versions=("timm",)),
    "fast-vit-rollout": Peer(
        "fast-vit-rollout, mean, no discarding",
        "timm",
        "rollout",
        ("rollout", {}),
        fast_vit_rollout,
        installs=APART,
        versions=("fast-vit-rollout",),
    ),
    "fast-vit-rollout-default": Peer(
        "fast-vit-rollout, its defaults (discards 90 %)",
        "timm",
        "",
        ("rollout", {"discard_ratio": 0.9}),
        lambda model, x, side: fast_vit_rollout(model, x, side, 0.9),
        beneath=5000,
        installs=APART,
        versions=("fast-vit-rollout",),
    ),
    "torchxai": Peer(
        "torchxai-explain, AttentionRollout, mean, no discarding",
        "timm",
        "rollout",
        ("rollout", {}),
        torchxai,
        installs=("torchxai-explain==0.3.0",),
        versions=("torchxai-explain",),
    ),
    "vit-xray": Peer(
        "vit-xray, `cls_attention`",
        "timm",
        "attention",
        ("attention", {}),
        vit_xray,
        installs=("vit-xray==0.1.0",),
        versions=("vit-xray",),
    ),
    "daam": Peer(
        "daam-timm-vit",
        "timm",
        "DAAM",
        ("relevance", {}),
        daam,
        backward=True,
        installs=("daam-timm-vit==0.2.1",),
        versions=("daam-timm-vit",),
    ),
    "torchcam": Peer(
        "torchcam, LeGrad, all blocks",
        "torchvision",
        "legrad",
        ("legrad", {}),
        torchcam,
        backward=True,
        versions=("torchcam",),
    ),
    "grad-cam": Peer(
        "grad-cam, GradCAM at the last `norm1`",
        "timm",
        "gradcam",
        ("gradcam", {}),
        grad_cam,
        backward=True,
        versions=("grad-cam",),
    ),
    "captum-ixg": Peer(
        "captum, InputXGradient",
        "timm",
        "input-x-gradient",
        ("input-x-gradient", {}),
        captum_ixg,
        backward=True,
        versions=("captum",),
    ),
    "captum-ig": Peer(
        f"captum, IntegratedGradients, {IG_STEPS} steps",
        "timm",
        "integrated-gradients",
        ("integrated-gradients", {"steps": IG_STEPS}),
        captum_ig,
        backward=True,
        versions=("captum",),
        beyond=(1500, f"{IG_STEPS} forwards and backwards: the row above times {IG_STEPS}"),
    ),
    "lxt": Peer(
        "LXT, its rules for torchvision's ViT",
        "torchvision",
        "CP-LRP",
        ("input-x-gradient", LIBRA),
        lxt,
        backward=True,
        installs=("lxt==2.1", "zennit==0.5.1", "tabulate==0.10.0", *OLDER),
        versions=("lxt", "transformers"),
        apart=True,
    ),
}


def install(peer: Peer) -> str:
    """Install what a peer needs into its folder, once; return the folder, or nothing where all is there anyway."""
    if not peer.installs:
        return ""
    folder = FOLDERS / peer.installs[0].replace("==", "-")
    if not (folder / "whole").exists():
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        command += ["--upgrade", "--target", str(folder), *peer.installs]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        (folder / "whole").touch()
    return str(folder)


def versions(peer: Peer) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in peer.versions}


def floor(model: nn.Module, x: Tensor, backward: bool) -> Callable[[], object]:
    """Return the plain forward, or forward and backward to the pixels, of the library's own model."""

    def scores(given: Tensor) -> Tensor:
        out = model(given)
        scores: Tensor = out if isinstance(out, Tensor) else out.logits
        return scores

    def forward() -> object:
        with torch.no_grad():
            return scores(x)

    def both() -> object:
        given = x.clone().requires_grad_()
        return torch.autograd.grad(scores(given)[0, TARGET], given)

    return both if backward else forward


def made(peer: Peer, shape: Shape, side: int) -> tuple[nn.Module, Tensor]:
    """Return the peer's model and its pixels; parameters are frozen, as explaining needs none of their gradients."""
    return MAKE[peer.library](shape, side).requires_grad_(False), pixels(side)
