"""The chain of operators from layer to layer, against plain products and dense matrices."""

import numpy as np
import pytest
import torch

import vitscope
from tests.models.traced_row import picture
from tests.models.traced_zoo import BY_NAME, Recorded, pixels_of, rows, scope_of
from vitscope.attention import vecmat
from vitscope.tracing.chain import operator_chain


@pytest.mark.spread
@pytest.mark.parametrize("row", rows(lambda row: row.isotropic))
def test_the_chain_of_operators_is_the_plain_product_where_both_exist(row):
    scope, seeds = scope_of(row.name), (0, 1)
    pixels = pixels_of(row, seeds)
    adapter = scope.adapter
    with torch.no_grad(), vitscope.capture(adapter.model) as seen_of:
        answer = adapter.answer(pixels)
    store = adapter.attention(seen_of, row.size, answer)
    assert store.chain is None
    chain = operator_chain(
        adapter.answer, adapter.model, (len(seeds), 3, *row.size), adapter.trace(row.size), seen_of.recorded_calls
    )
    for layers, keep in ([0, 1], 0.5), ([0, 1], 0.2), ([1], 0.0), ([0], 0.5):
        plain = store.rollout_from_readout(layers, vecmat, keep, 1 - keep)
        torch.testing.assert_close(chain.vecmat(layers, vecmat, keep, 1 - keep), plain, rtol=0, atol=1e-6)


class Dense:
    """Rollout as whole float64 matrices on the finest tokens, written from the papers."""

    def __init__(self, tokens):
        self.product = np.eye(tokens)

    def mix(self, attention):
        """A layer: half residual, half attention."""
        self.product = (np.eye(len(attention)) + attention) / 2 @ self.product

    def then(self, matrix):
        self.product = matrix @ self.product

    def read_by_mean(self):
        return self.product.mean(0)


def mean_of_cells(height, width, k):
    """Each k x k cell becomes one token, the mean: `(height width / k^2, height width)`."""
    matrix = np.zeros((height // k, width // k, height, width))
    for y in range(height):
        for x in range(width):
            matrix[y // k, x // k, y, x] = 1 / k**2
    return matrix.reshape(-1, height * width)


def mean_of_overlapping(side):
    """Each token is the mean over 3 x 3 in steps of 2, those beyond the edge left out: `((side / 2)^2, side^2)`."""
    near = np.abs(2 * np.arange(side // 2)[:, None] - np.arange(side)) <= 1
    near = near / near.sum(1, keepdims=True)
    return np.kron(near, near)


def in_windows(matrices, height, width, window, shift):
    """Attention inside windows of a shifted and then padded map: `(height width, height width)`, and 0 for padding."""
    down, right = -(-height // window), -(-width // window)
    matrices = matrices.mean(1).numpy()
    assert len(matrices) == down * right
    dense = np.zeros((height * width, height * width))
    for number, matrix in enumerate(matrices):
        top, left = number // right * window, number % right * window
        places = []
        for y in range(top, top + window):
            for x in range(left, left + window):
                inside = y < height and x < width
                places.append((y + shift) % height * width + (x + shift) % width if inside else None)
        for i, query in enumerate(places):
            for j, key in enumerate(places):
                if query is not None and key is not None:
                    dense[query, key] += matrix[i, j]
    return dense


def matrices_of(row, monkeypatch):
    model, pixels = row.model(), pixels_of(row)
    recorded = Recorded(monkeypatch)
    model(pixels)
    monkeypatch.undo()
    return recorded.matrices


@pytest.mark.parametrize(("name", "side"), [("timm-swin", 8), ("timm-swin-padded", 10)])
def test_rollout_of_shifted_windows_is_a_product_of_dense_matrices(name, side, monkeypatch):
    first, shifted, third, fourth = matrices_of(BY_NAME[name], monkeypatch)
    dense, half = Dense(side**2), side // 2
    dense.mix(in_windows(first, side, side, 4, 0))
    dense.mix(in_windows(shifted, side, side, 4, 2))
    dense.then(mean_of_cells(side, side, 2))
    dense.mix(in_windows(third, half, half, 4, 0))
    dense.mix(in_windows(fourth, half, half, 4, 2 if half > 4 else 0))  # one window is never shifted
    e = scope_of(name).explain(picture(BY_NAME[name].size), method="rollout")
    np.testing.assert_allclose(e.map.ravel(), dense.read_by_mean(), rtol=0, atol=1e-6)
    assert np.abs(e.map - e.map.mean()).max() > 1e-3
    if name == "timm-swin-padded":
        assert dense.read_by_mean().sum() < 0.95


@pytest.mark.parametrize("name", ["timm-twins-pcpvt", "timm-pvt-v2"])
def test_rollout_with_reduced_keys_is_a_product_of_dense_matrices(name, monkeypatch):
    """A pyramid: 16 x 16 tokens with 2 x 2 keys, then half as many a side, four times; PVTv2's merges overlap."""
    side = 16
    dense = Dense(side**2)
    for layer, matrix in enumerate(matrices_of(BY_NAME[name], monkeypatch)):
        if layer:
            merge = mean_of_cells(2 * side, 2 * side, 2)
            dense.then(merge if name == "timm-twins-pcpvt" else mean_of_overlapping(2 * side))
        assert matrix.shape[-2:] == (side**2, 4)
        dense.mix(matrix[0].mean(0).numpy() @ mean_of_cells(side, side, side // 2))
        side //= 2
    e = scope_of(name).explain(picture(BY_NAME[name].size), method="rollout")
    np.testing.assert_allclose(e.map.ravel(), dense.read_by_mean(), rtol=0, atol=1e-6)
    assert e.map.max() > 1.2 * e.map.min()
