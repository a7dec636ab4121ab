"""What holds for every adapter: over a zoo of tiny models that no table knows.

The oracle of raw attention is independent of capture: it replaces torch's softmax and fused kernel by explicit ones
that keep their matrices, and runs the model by itself.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import vitscope
from tests.models.toys_traced import ROWS
from tests.models.traced_row import picture
from tests.models.traced_zoo import (
    BY_NAME,
    Recorded,
    each_row,
    looked_at,
    pixels_of,
    quick,
    rollout_of,
    rows,
    scope_of,
    state,
    store_of,
)
from vitscope.attention import vecmat
from vitscope.tracing.token_tensor import TokenTensor

pytestmark = pytest.mark.spread


@each_row
def test_the_layout_is_as_written_in_the_zoo(row):
    layout = scope_of(row.name).layout
    assert layout.prefix == row.prefix
    assert layout.grid == row.grid
    assert (layout.pooling, layout.pool_prefix) == row.pooling
    assert scope_of(row.name).adapter.isotropic.ok == row.isotropic


@each_row
def test_each_attention_call_with_a_residual_is_a_layer(row):
    assert len(store_of(row.name)) == row.layers == scope_of(row.name).adapter.depth


@pytest.mark.parametrize("row", [row for row in ROWS if row.other], ids=lambda row: row.name)
def test_other_sizes_have_their_own_grid(row):
    (height, width), grid = row.other
    scope = row.scope(size=row.other[0])
    hub = type(scope.model).__module__.startswith("transformers.")
    size = {"size": round(math.sqrt(height * width))} if hub else {}
    e = scope.explain(picture(row.other[0]), method="rollout", **size)
    assert e.region.input == row.other[0]
    assert e.layout.grid == e.map.shape == grid
    assert e.layout.prefix == row.prefix
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-5)


def at_dropout(model):
    """What goes into each module called attn_drop."""
    matrices = []
    for name, module in model.named_modules():
        if name.endswith("attn_drop"):
            module.register_forward_pre_hook(lambda _module, args: matrices.append(args[0].detach().double()))
    return matrices


def is_same(rows, matrix, order):
    """The same numbers, whichever of the leading axes of `matrix` is the heads'."""
    if order is not None and matrix.shape[-1] == len(order):
        matrix = matrix[..., order, :][..., order]
    if matrix.numel() != rows.numel() or matrix.shape[-2:] != rows.shape[-2:]:
        return False
    for axis in range(max(matrix.ndim - 2, 1)):
        moved = matrix.movedim(axis, -3).reshape(rows.shape) if matrix.ndim > 3 else matrix.reshape(rows.shape)
        if torch.allclose(rows.double(), moved, rtol=0, atol=1e-5):
            return True
    return False


@each_row
def test_raw_attention_is_a_softmax_made_by_hand(row, monkeypatch):
    model = row.model()
    adapter, store, pixels = scope_of(row.name).adapter, store_of(row.name), pixels_of(row)
    adapter = copy.copy(adapter)
    adapter.model, adapter.config = model, getattr(model, "config", None)
    if row.oracle == "dropout":
        matrices = at_dropout(model)
        adapter.run(pixels)
    else:
        recorded = Recorded(monkeypatch)
        adapter.run(pixels)  # with gradients: torch then leaves its fused multi-head layers
        monkeypatch.undo()
        matrices = recorded.matrices
    waiting = iter(matrices)
    for i, block in enumerate(store):
        rows = block.rows()
        assert any(is_same(rows, matrix, row.order) for matrix in waiting), f"layer {i} {block.name} {block.shape}"
    if store.pool is not None:
        columns = None if row.order is None else row.order
        assert any(is_same(store.pool.rows(), matrix, columns) for matrix in waiting)


@each_row
def test_rows_sum_to_one_and_are_far_from_uniform(row):
    store, peaks = store_of(row.name), []
    for block in [*store, *([store.pool] if store.pool else [])]:
        rows = block.rows()
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), rtol=0, atol=1e-5)
        assert rows.min() >= 0
        peaks.append(float(rows.amax(-1).mean()) * block.shape[-1])
    assert max(peaks) > 1.4  # or these tests would not notice a wrong matrix


@each_row
def test_rollout_weights_sum_to_one_but_for_padding(row):
    e = rollout_of(row.name)
    total = float(e.map.sum() + e.prefix.sum())
    assert e.map.min() >= 0
    if row.padding:
        assert 1 - row.padding < total < 0.99
        assert any("padding" in note for note in e.provenance["notes"])
    else:
        assert total == pytest.approx(1, abs=1e-5)
        assert not any("padding" in note for note in e.provenance["notes"])


# geometry


def touched(before, after, alone):
    """How much each key of a layer changed, for queries that themselves did not: `(windows, keys)`.

    Where the input of one key token changes, the scores of the other queries change in that column alone. What the
    median query sees is said, or, where just one query changed, what the second most affected one sees.
    """
    tiny = 1e-30
    ratio = after.rows().clamp_min(tiny).double().log() - before.rows().clamp_min(tiny).double().log()
    moved = (ratio - ratio.median(-1, keepdim=True).values).abs().mean(1)
    return moved.kthvalue(moved.shape[1] - 1, 1).values if alone else moved.median(1).values


def map_of_touched(store, score):
    """The keys' scores, taken to the map as the first layer's attention would be."""
    if store.chain is None:
        return store.layout.patches(score)[0].numpy()

    def attend(block, r):
        return score.float() if block is store[0] else vecmat(block, r)

    return store.layout.patches(store.chain.vecmat([0], attend, 0.0, 1.0))[0].detach().numpy()


@pytest.mark.covering
@pytest.mark.parametrize("row", rows(lambda row: row.stem != "none"))
@pytest.mark.parametrize("where", [(-1, 1), (1, -2)])
@quick
def test_a_token_lies_on_the_pixels_that_it_is_made_of(row, where):
    """Other pixels in one cell of the grid change the key of that token: of it alone, or of it most."""
    scope = scope_of(row.name)
    (gh, gw), (height, width) = row.grid, row.size
    r, c = where[0] % gh, where[1] % gw
    if row.stem == "most":  # away from the edges, where windows of the stem are smaller
        r, c = min(max(r, 1), gh - 2), min(max(c, 1), gw - 2)
    plain = picture(row.size)
    changed = plain.copy()
    cell = slice(r * height // gh, (r + 1) * height // gh), slice(c * width // gw, (c + 1) * width // gw)
    changed[cell] = 255 - changed[cell]
    before, after = store_of(row.name), scope.attention(changed, size=row.ask)
    laid = map_of_touched(before, touched(before[0], after[0], row.stem == "alone"))
    assert laid.max() > 0
    if row.stem == "alone":
        assert np.argwhere(laid > 1e-3 * laid.max()).tolist() == [[r, c]]
    else:
        largest = np.argwhere(laid >= laid.max() * (1 - 1e-4))  # several, where keys are merged
        assert np.abs(largest - (r, c)).max(1).min() <= 1
        assert len(largest) <= row.merged


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("timm-maxvit", "stages.1.blocks.0.attn_grid"),
        ("hf-swin", "swin.encoder.layers.1.blocks.1"),
        ("timm-mvitv2-cls", "stages.1.blocks.0"),
        ("timm-gcvit", "stages.1.blocks.1"),
        ("timm-tnt", "blocks.1"),
        ("timm-volo", "post_network.1"),
        ("timm-xcit", "cls_attn_blocks.1"),
        ("torchvision-swin", "features.3.1"),
    ],
)
def test_the_last_block_is_found(name, block):
    e = scope_of(name).explain(picture(BY_NAME[name].size), method="eigencam")
    said = [
        note for note in e.provenance["notes"] if not note.code.startswith("render.")
    ]  # remarks on the map come last
    assert f"first norm of block {len(store_of(name)) - 1} ({block})" in said[-1]
    assert np.ptp(e.map) > 0


# batches


@each_row
@quick
def test_a_batch_is_its_singles(row):
    scope, pictures = scope_of(row.name), [picture(row.size, seed) for seed in range(3)]
    together = scope.explain(pictures, method="rollout", size=row.ask)
    first, last = rollout_of(row.name), scope.explain(pictures[2], method="rollout", size=row.ask)
    for e, alone in ((together[0], first), (together[2], last)):
        np.testing.assert_allclose(e.map, alone.map, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(e.prefix, alone.prefix, rtol=1e-5, atol=1e-5)
    assert np.abs(first.map - last.map).max() > 1e-4


@each_row
def test_the_answer_is_the_same_with_and_without_capture(row):
    scope, pixels = scope_of(row.name), pixels_of(row, (0, 1))
    with torch.no_grad():
        plain = scope.adapter.answer(pixels)
        with vitscope.capture(scope.model):
            captured = scope.adapter.answer(pixels)
    if row.bits:
        assert torch.equal(plain, captured)
    torch.testing.assert_close(captured, plain, rtol=1e-5, atol=1e-5)


@each_row
def test_a_model_is_left_as_it_was(row):
    """It is looked at in evaluation mode, and put back."""
    _, e, (before, after, numbers, now) = looked_at(row.name)
    assert after == before
    assert torch._C._len_torch_function_stack() == 0
    for name, value in now.items():
        torch.testing.assert_close(value, numbers[name], rtol=0, atol=0, equal_nan=True)
    again = scope_of(row.name).explain(picture(row.size), method="rollout", size=row.ask)  # now in evaluation mode
    np.testing.assert_allclose(e.map, again.map, rtol=1e-5, atol=1e-7)


@pytest.mark.covering
@each_row
@pytest.mark.parametrize("when", ["real", "averaged"])
@quick
def test_a_model_is_left_as_it_was_after_an_exception_inside_its_forward(row, when):
    scope = scope_of(row.name)
    model = scope.model
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]

    def fail(_module, args, *_):
        if isinstance(args[0], TokenTensor) == (when == "averaged"):
            raise RuntimeError("broken on purpose")

    handles = [module.register_forward_pre_hook(fail) for module in last]
    before, kept = state(model), scope.adapter.__dict__.pop("_traces")
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            scope.attention(picture(row.size), size=row.ask)
        assert state(model) == before
        assert torch._C._len_torch_function_stack() == 0
        assert torch.is_grad_enabled()
    finally:
        scope.adapter.__dict__["_traces"] = kept
        for handle in handles:
            handle.remove()


HALVES = ["hf-clip-vision", "hf-dinov3", "hf-swin", "timm-vit", "timm-vit-unfused", "timm-swin", "timm-swinv2"]
HALVES += ["timm-cait", "timm-pvt-v2", "openclip-vit"]


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", HALVES)
def test_half_precision_shows_the_same_map(name, dtype):
    """Weights and activations in 8 or 11 bits: maps differ by rounding alone, in float32 none the less."""
    row = BY_NAME[name]
    wanted = rollout_of(name).map
    e = row.scope(row.model().to(dtype)).explain(picture(row.size), method="rollout")
    tolerance = 0.15 if dtype == torch.bfloat16 else 0.02
    assert e.map.dtype == np.float32
    assert np.abs(e.map - wanted).max() < tolerance * wanted.max()
    assert e.map.sum() + e.prefix.sum() == pytest.approx(1, abs=1e-3)
