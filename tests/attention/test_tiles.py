"""Tiles of attention beside a softmax in float64."""

import pytest
import torch

from vitscope.attention.tiles import attention_tiles


def drawn(n, m, sharpness, dtype):
    """Return queries, keys, the log-sum-exp of each row, and the attention; the third head is the sharpest."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(4, length, 16, dtype=torch.float64, generator=draw) for length in (n, m))
    q = q * torch.tensor([1.0, 2.0, sharpness, 1.0])[:, None, None]
    scores = q @ k.mT * 0.3
    return q.to(dtype), k.to(dtype), scores.logsumexp(-1).to(dtype), scores.softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharpness", [1.0, 60.0])
@pytest.mark.parametrize(("n", "m"), [(40, 60), (530, 600)])
def test_a_tile_is_the_softmax(n, m, sharpness, dtype):
    q, k, lse, attention = drawn(n, m, sharpness, dtype)
    tiles = attention_tiles(q, k, lse, 0.3)
    assert (tiles.shift is None) == (n > 512)
    assert tiles.low == ([2] if n > 512 and sharpness > 1 else [])
    heads, queries, keys = slice(1, 4), slice(7, 33), slice(20, 60)
    into = torch.full((10**4,), float("nan"), dtype=dtype)
    tile = tiles.tile(heads, queries, keys, into)
    wanted = attention[heads, queries, keys]
    tolerance = {"rtol": 2e-5, "atol": 1e-7} if dtype == torch.float32 and sharpness == 1 else {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(
        tile.double(), wanted, **tolerance if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-20}
    )
    assert tile.data_ptr() == into.data_ptr()
    assert tile.stride() == (26 * 48, 48, 1)  # each row begins at a multiple of 64 bytes
    assert tile.min() >= 2.0**-81
    assert (wanted.min() < 2.0**-126) == (sharpness > 1)


@pytest.mark.parametrize("scale", [0.0, 1e-30, -0.3])
def test_any_scale_will_do(scale):
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 600, 8, generator=draw) for _ in range(2))
    scores = q.double() @ k.double().mT * scale
    tiles = attention_tiles(q, k, scores.logsumexp(-1).float(), scale)
    tile = tiles.tile(slice(0, 2), slice(0, 256), slice(0, 600), torch.empty(2 * 256 * 608))
    torch.testing.assert_close(tile.double(), scores.softmax(-1)[:, :256], rtol=2e-5, atol=1e-7)
