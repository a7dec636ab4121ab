"""One tiny classifier of each family: transformers, timm and a module of no library, with dropout in training mode."""

import numpy as np
import timm
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from tests.helpers.sizes import sizes

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (36, 32, 3), dtype=np.uint8) for seed in range(2)]


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.3), nn.Linear(2 * width, width))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Own(nn.Module):
    """A Vision Transformer written by hand, whose attention is a softmax of its own."""

    def __init__(self, width=16, depth=2):
        super().__init__()
        self.img_size = 32
        self.embed, self.drop = nn.Conv2d(3, width, 8, 8), nn.Dropout(0.3)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = self.drop(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def transformers_model():
    config = ViTConfig(
        **sizes(width=16, heads=2, inner=32),
        num_labels=5,
        hidden_dropout_prob=0.3,
        attention_probs_dropout_prob=0.3,
    )
    return ViTForImageClassification(config)


def timm_model():
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=5,
        drop_path_rate=0.3,
        proj_drop_rate=0.3,
    )


MAKERS = {"transformers": transformers_model, "timm": timm_model, "generic": Own}


def make(family):
    """Return a model in training mode, as a training loop has it, one of whose parts is frozen."""
    torch.manual_seed(0)
    model = MAKERS[family]()
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    return model.train()
