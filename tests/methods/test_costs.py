"""What a map may cost, counted and not timed: forwards, attention calls, backwards, and nothing as large as N x N."""

import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ViTConfig, ViTForImageClassification

import vitscope
from vitscope.methods.base import METHODS

SIDE, PATCH, LAYERS, HEADS, WIDTH = 192, 8, 3, 2, 16
PATCHES = (SIDE // PATCH) ** 2
TOKENS = PATCHES + 1
PHOTO = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
ROWS = 20  # rows of a head's attention that fit into the budget
OF_MANY = {  # images that go forward and backward through the model, where it is more than the photo
    "integrated-gradients": ({"steps": 4}, 5, 4),
    "smoothgrad": ({"samples": 3}, 4, 3),
    "rise": ({"masks": 16}, 17, 0),
    "token-removal": ({"samples": 8}, 9, 0),
}
DENSE = {"ncut"}  # the eigenvectors of a matrix with an entry for each pair of patches, as docs/methods.md says
REFUSED = {"flow": "577 tokens are more than 290", "occlusion": "one forward for each place of its square"}
FORWARD = "_scaled_dot_product_flash_attention_for_cpu"
BACKWARD = f"{FORWARD}_backward"
NAMES = [name for name, _ in METHODS if name not in REFUSED]


class Counting(TorchDispatchMode):
    """Count the images in attention calls, and the results that have a number for each pair of tokens."""

    def __init__(self):
        super().__init__()
        self.images, self.pairs = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in (FORWARD, BACKWARD):
            self.images[func.overloadpacket.__name__] += out[0].shape[0]
        for one in out if isinstance(out, (tuple, list)) else (out,):
            shape = one.shape if isinstance(one, torch.Tensor) else ()
            if {TOKENS, PATCHES} & set(shape) and one.numel() >= PATCHES**2:
                self.pairs[func.overloadpacket.__name__, tuple(shape)] += 1
        return out


@pytest.fixture(scope="module")
def scope():
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=SIDE, patch_size=PATCH, num_labels=4)).eval()
    return vitscope.load(model)


@pytest.fixture
def small_budget(monkeypatch):
    """As few rows of attention at a time as for many tokens."""
    for name, module in list(sys.modules.items()):
        if name.startswith("vitscope.") and hasattr(module, "budget") and callable(module.budget):
            monkeypatch.setattr(module, "budget", lambda _device: ROWS * HEADS * TOKENS)
    monkeypatch.setattr("vitscope.methods.random_walk._ENTRIES", ROWS * TOKENS)


@pytest.mark.spread
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("name", NAMES)
def test_a_map_takes_its_forwards_and_memory_linear_in_tokens(name, scope, small_budget):
    options, forwards, backwards = OF_MANY.get(name, ({}, 1, None))
    scope.explain(PHOTO, method=name, **options)  # what is found out about a model once
    with Counting() as counted:
        scope.explain(PHOTO, method=name, **options)
    assert counted.images[FORWARD] == forwards * LAYERS
    if backwards is None:
        assert counted.images[BACKWARD] <= LAYERS
    else:
        assert counted.images[BACKWARD] == backwards * LAYERS
    assert bool(counted.pairs) == (name in DENSE)


def test_a_result_for_each_pair_of_tokens_is_seen(scope):
    """So that the test above can fail."""
    with Counting() as counted:
        scope.queries(PHOTO, layer=-1)
    assert any(shape[-2:] == (TOKENS, TOKENS) for _, shape in counted.pairs)


def test_a_block_keeps_queries_and_keys_and_no_more(scope):
    for block in scope.attention(PHOTO):
        kept = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in (block.q, block.k)}
        assert sum(kept.values()) == 2 * TOKENS * WIDTH * 4


def test_queries_and_keys_of_one_projection_keep_no_values(monkeypatch):
    """Of a fused projection, whose result holds values too; only large tensors are copied out of it."""
    timm = pytest.importorskip("timm")
    monkeypatch.setattr("vitscope.attention.recorder._LARGE", 1024)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2)
    store = vitscope.load(model).attention(PHOTO)
    parts = [part for block in store for part in (block.q, block.k)]
    starts = sorted(part.data_ptr() for part in parts)
    assert all(part.is_contiguous() for part in parts)
    assert [b - a for a, b in pairwise(starts)] == [17 * 192 * 4] * 3  # one after the other
