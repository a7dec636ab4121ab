"""Models and photos whose attention is measured, and attention made by hand."""

import numpy as np
import pytest
import torch

from tests.models import toys as zoo
from tests.models import toys_traced as zoo_traced
from tests.models import traced_row
from vitscope.attention import AttentionStore, Dense
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.metrics.attention_streaming import compute_statistics
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

CHUNKS = (None, 1, 7, 1000)
NAMES = ["vit", "vit-wide", "deit-teacher", "dinov2-registers", "ijepa", "beit"]
UNKNOWN = "nobody watched"
each_chunk = pytest.mark.parametrize("chunk", CHUNKS)


def row_of(name):
    return next(row for row in [*zoo.ROWS, *zoo_traced.ROWS] if row.name == name)


def scope_of(name):
    """A tiny model in float64."""
    row = row_of(name)
    if isinstance(row, traced_row.Row):
        return row.scope(row.model().double())
    return Scope(TransformersAdapter(row.model().double(), weights="none"), torch.device("cpu"), torch.float64)


def photo_of(name, seed=0):
    return traced_row.picture(row_of(name).size, seed)


def close(got, wanted, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=tolerance, atol=tolerance * 0.1)


def measured(store, region=None, **options):
    region = region or ImageRegion((64, 64), (0, 0, 64, 64), (64, 64))
    return compute_statistics(store, region, UNKNOWN, **options)


def dense(*matrices, prefix=("cls",), grid=(2, 2), **fields):
    """A store of hand-made attention `(H, N, N)` a layer."""
    blocks = tuple(Dense(f"layer {i}", torch.as_tensor(m, dtype=torch.float64)[None]) for i, m in enumerate(matrices))
    return AttentionStore(blocks, TokenLayout(prefix, grid, "cls" if prefix else "mean"), **fields)
