"""A model for which the right map is known, and its scenes: only the gradient tells where the red square is."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vitscope.bench import planted

SIDE, PATCH, WIDTH = 64, 8, 16


class Block(nn.Module):
    """Attention of random queries and keys, whose values change almost nothing."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            self.out.weight.mul_(1e-3)
            self.out.bias.zero_()

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, WIDTH // 2)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        return x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Reddish(nn.Module):
    """A Vision Transformer whose answer is how red the patches are, on average, or how red, green and blue.

    Tokens are mostly noise of their places, so that neither their likeness nor attention says anything.
    """

    def __init__(self, classes=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.places = nn.Parameter(20 * torch.randn(1, (SIDE // PATCH) ** 2, WIDTH))
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 3 if classes else 2, bias=False)
        with torch.no_grad():
            self.stem.weight.zero_()
            self.stem.bias.zero_()
            self.head.weight.zero_()
            self.places[..., :3] = 0
            for colour in range(3):  # one channel of the tokens for each
                self.stem.weight[colour] = -0.5 / PATCH**2
                self.stem.weight[colour, colour] = 1 / PATCH**2
                if classes or colour == 0:
                    self.head.weight[colour, colour] = 100.0

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([functional.relu(x[..., :3]), x[..., 3:]], -1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def scenes(count, *, seed=0, size=SIDE, split="report", **_folders):
    """Compose scenes of a red square on grey noise; stands in for `planted.scenes`."""
    made = []
    for index in range(count):
        rng = np.random.default_rng([seed, split == "report", index])
        image = np.repeat(rng.integers(90, 160, (SIDE, SIDE, 1), dtype=np.uint8), 3, 2)
        mask, (top, left) = np.zeros((SIDE, SIDE), bool), PATCH * rng.integers(0, 6, 2)
        mask[top : top + 16, left : left + 16] = True
        image[mask] = (220, 20, 20)
        made.append(planted.Scene(image, mask, "medium", "square", split, index))
    return made
