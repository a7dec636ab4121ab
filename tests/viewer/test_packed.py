"""Arrays packed for a page."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.viewer.packed import Packed, scaled, zigzag


@settings(deadline=None)  # of a busy machine
@given(st.sampled_from(["uint8", "uint16", "uint32", "float16", "float32"]), st.integers(0, 300), st.integers(0, 9))
def test_packed_arrays_come_back_to_the_bit(dtype, count, seed):
    raw = np.random.default_rng(seed).integers(0, 256, count * np.dtype(dtype).itemsize).astype(np.uint8)
    values = raw.view(dtype)
    assert Packed.of(values).array().tobytes() == values.tobytes()


def test_zigzag_is_what_the_page_turns_back():
    values = np.array([0, -1, 1, -2, 32767, -32768, 2**30, -(2**30)])
    coded = zigzag(values).astype(np.int64)
    assert ((coded >> 1) ^ -(coded & 1)).tolist() == values.tolist()


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_scaled_maps_keep_float16s_precision(size):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32) * np.float32(size)
    half, scale = scaled(values)
    assert np.abs(half.astype(np.float64) * scale - values).max() <= size * 2**-11
