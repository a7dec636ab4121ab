"""Small models whose answers mean different things: written down here, with what each means."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["HEADS", "backbone"]


def backbone(**options: Any) -> nn.Module:
    """Make a small ViT of timm; by default without a classifier: 32 features."""
    import timm

    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **{**small, **options}).eval()


class Around(nn.Module):
    """A user's own class around a backbone, and what it makes of its features."""

    def __init__(self, after: Callable[[Any, torch.Tensor], torch.Tensor] = lambda own, f: f, **parts: Any):
        super().__init__()
        self.vit = parts.pop("vit", None) or backbone()
        for name, part in parts.items():
            setattr(self, name, part)
        self.after = after

    def forward(self, x):
        return self.after(self, self.vit(x))


class Frozen(Around):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Shifted(Around):
    def forward(self, x):
        return super().forward(x.sub_(0.5))


class TokensAndMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.vit = backbone()

    def forward(self, x):
        tokens = self.vit.forward_features(x)
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)


def _bare():
    vit = backbone()
    vit.norm = vit.fc_norm = vit.head = nn.Identity()
    return Around(vit=vit)


def _identity_for_head():
    vit = backbone(num_classes=3)
    vit.head = nn.Identity()
    return Around(vit=vit)


def _torchvision(headless: bool):
    from torchvision.models import VisionTransformer

    made = VisionTransformer(32, 8, 2, 2, 32, 48, num_classes=3).eval()
    if headless:
        made.heads = nn.Identity()
    return Around(vit=made)


def _distilled():
    import timm

    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    return timm.create_model("deit_tiny_distilled_patch16_224", **small).eval()


def _no_gradients(model):
    return model.requires_grad_(False)


def _zeros(count):
    return nn.Parameter(torch.zeros(count))


def _zero_shot(own, features):
    return own.scale.exp() * nn.functional.normalize(features) @ own.texts.T


def _rms(own, features):
    return features * torch.rsqrt(features.pow(2).mean(-1, keepdim=True) + 1e-6) * own.weight


# name -> (how to make it, what its numbers are, how many)
HEADS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "linear": (lambda: Around(lambda own, f: own.head(f), head=nn.Linear(32, 3)), "scores", 3),
    "mlp": (
        lambda: Around(lambda own, f: own.head(f), head=nn.Sequential(nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 3))),
        "scores",
        3,
    ),
    "one energy": (
        lambda: Around(lambda own, f: own.head(f).logsumexp(-1), head=nn.Linear(32, 3)),
        "values",
        1,
    ),
    "as wide as its tokens": (lambda: Around(lambda own, f: own.head(f), head=nn.Linear(32, 32)), "scores", 32),
    "frozen linear": (
        lambda: _no_gradients(Around(lambda own, f: own.head(f), head=nn.Linear(32, 3))),
        "scores",
        3,
    ),
    "linear in no_grad": (lambda: Frozen(lambda own, f: own.head(f), head=nn.Linear(32, 3)), "scores", 3),
    "matrix and bias": (
        lambda: Around(
            lambda own, f: f @ own.matrix + own.bias,
            matrix=nn.Parameter(torch.ones(32, 3)),
            bias=nn.Parameter(torch.zeros(3)),
        ),
        "scores",
        3,
    ),
    "one weighted sum": (
        lambda: Around(lambda own, f: (f * own.w).sum(-1) + own.b, w=nn.Parameter(torch.randn(32)), b=_zeros(1)),
        "scores",
        1,
    ),
    "one weighted sum, frozen": (
        lambda: _no_gradients(Around(lambda own, f: (own.w * f).sum(-1), w=nn.Parameter(torch.randn(32)))),
        "scores",
        1,
    ),
    "a weighted sum for each class": (
        lambda: Around(lambda own, f: (f[:, None] * own.w).mean(2), w=nn.Parameter(torch.randn(5, 32))),
        "scores",
        5,
    ),
    "einsum with a vector": (
        lambda: Around(lambda own, f: torch.einsum("bd,d->b", f, own.w), w=nn.Parameter(torch.randn(32))),
        "scores",
        1,
    ),
    "matrix times vector": (
        lambda: Around(lambda own, f: f @ own.w + own.b, w=nn.Parameter(torch.randn(32)), b=_zeros(1)),
        "scores",
        1,
    ),
    "scaled channels, averaged": (
        lambda: Around(lambda own, f: (f[:, None] * own.w).mean(1), w=nn.Parameter(torch.randn(32))),
        "features",
        32,
    ),
    "zero-shot logits": (
        lambda: Around(_zero_shot, texts=nn.Parameter(torch.eye(5, 32)), scale=nn.Parameter(torch.ones(()))),
        "scores",
        5,
    ),
    "mean of three heads": (
        lambda: Around(
            lambda own, f: (own.a(f) + own.b(f) + own.c(f)) / 3,
            **{name: nn.Linear(32, 3) for name in "abc"},
        ),
        "scores",
        3,
    ),
    "two heads of DeiT": (_distilled, "scores", 3),
    "torchvision": (lambda: _torchvision(headless=False), "scores", 3),
    "log softmax": (lambda: Around(lambda own, f: own.head(f).log_softmax(-1), head=nn.Linear(32, 3)), "scores", 3),
    "softmax": (lambda: Around(lambda own, f: own.head(f).softmax(-1), head=nn.Linear(32, 3)), "probabilities", 3),
    "sigmoid": (lambda: Around(lambda own, f: own.head(f).sigmoid(), head=nn.Linear(32, 3)), "probabilities", 3),
    "one sigmoid": (lambda: Around(lambda own, f: own.head(f).sigmoid(), head=nn.Linear(32, 1)), "probabilities", 1),
    "one column of a softmax": (
        lambda: Around(lambda own, f: own.head(f).softmax(-1)[:, 1], head=nn.Linear(32, 2)),
        "probabilities",
        1,
    ),
    "log-sigmoid": (
        lambda: Around(lambda own, f: nn.functional.logsigmoid(own.head(f)), head=nn.Linear(32, 3)),
        "values",
        3,
    ),
    "a sigmoid times a hundred": (
        lambda: Around(lambda own, f: 100 * own.head(f).sigmoid(), head=nn.Linear(32, 1)),
        "values",
        1,
    ),
    "a tanh, as of an angle": (lambda: Around(lambda own, f: own.head(f).tanh(), head=nn.Linear(32, 1)), "values", 1),
    "cut to 0..9, closed for noise": (
        lambda: Around(lambda own, f: (f[:, 2:3] @ own.one).clamp(0, 9), one=nn.Parameter(torch.ones(1, 1))),
        "values",
        1,
    ),
    "mean of five heads in one": (
        lambda: Around(lambda own, f: own.head(f).view(-1, 5, 3).mean(1), head=nn.Linear(32, 15)),
        "scores",
        3,
    ),
    "features of two scales, weighed": (
        lambda: Around(lambda own, f: own.weigh(torch.stack([f, 2 * f], 1))[:, 0], weigh=nn.Conv1d(2, 1, 1)),
        "features",
        32,
    ),
    "mean of two softmaxes": (
        lambda: Around(
            lambda own, f: (own.a(f).softmax(-1) + own.b(f).softmax(-1)) / 2, a=nn.Linear(32, 3), b=nn.Linear(32, 3)
        ),
        "probabilities",
        3,
    ),
    "p and 1 - p": (
        lambda: Around(lambda own, f: torch.cat([1 - (p := own.head(f).sigmoid()), p], 1), head=nn.Linear(32, 1)),
        "probabilities",
        2,
    ),
    "a product of two sigmoids": (
        lambda: Around(lambda own, f: own.a(f).sigmoid() * own.b(f).sigmoid(), a=nn.Linear(32, 1), b=nn.Linear(32, 3)),
        "probabilities",
        3,
    ),
    "products of sigmoids, one after the other": (
        lambda: Around(lambda own, f: own.head(f).sigmoid().cumprod(1), head=nn.Linear(32, 3)),
        "probabilities",
        3,
    ),
    "clamped sigmoid": (
        lambda: Around(lambda own, f: own.head(f).sigmoid().clamp(1e-6, 1 - 1e-6), head=nn.Linear(32, 1)),
        "probabilities",
        1,
    ),
    "softmax in no_grad": (
        lambda: Frozen(lambda own, f: own.head(f).softmax(-1), head=nn.Linear(32, 3)),
        "probabilities",
        3,
    ),
    "writes into its input": (lambda: Shifted(lambda own, f: own.proj(f), proj=nn.Linear(32, 8)), "features", 8),
    "no head": (Around, "features", 32),
    "no head, frozen": (lambda: _no_gradients(Around()), "features", 32),
    "no head, in no_grad": (Frozen, "features", 32),
    "no norm, no head": (_bare, "features", 32),
    "Identity for a head": (_identity_for_head, "features", 32),
    "torchvision without heads": (lambda: _torchvision(headless=True), "features", 32),
    "CLS and mean": (TokensAndMean, "features", 64),
    "unit length": (
        lambda: Around(lambda own, f: nn.functional.normalize(own.head(f)), head=nn.Linear(32, 8)),
        "features",
        8,
    ),
    "RMS norm": (lambda: Around(_rms, vit=_bare(), weight=nn.Parameter(torch.ones(32))), "features", 32),
    "projection": (lambda: Around(lambda own, f: own.proj(f), proj=nn.Linear(32, 8, bias=False)), "features", 8),
    "tanh pooler": (lambda: Around(lambda own, f: own.pooler(f).tanh(), pooler=nn.Linear(32, 32)), "features", 32),
    "attention pooling": (lambda: Around(vit=backbone(global_pool="map", class_token=False)), "features", 32),
}
