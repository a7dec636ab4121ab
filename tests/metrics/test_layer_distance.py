"""The distance of two models' tokens: what it forgets and what it sees, beside a slow twin."""

import numpy as np
import pytest

from vitscope.metrics.layer_distance import layer_distance

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.normal(size=(60, 8))


def hsic(a, b):
    """Of centred Gram matrices, as Kornblith et al. write it."""
    middle = np.eye(len(a)) - 1 / len(a)
    return np.trace(a @ a.T @ middle @ b @ b.T @ middle)


def test_rotation_scale_and_shift_are_no_distance():
    turn = np.linalg.qr(RANDOM.normal(size=(8, 8)))[0]
    found = layer_distance(TOKENS, 3 * TOKENS @ turn + 5)
    assert found.cka == pytest.approx(0, abs=1e-12)
    assert found.relative > 1


@pytest.mark.parametrize("width", [8, 5])
def test_cka_is_that_of_the_paper(width):
    other = RANDOM.normal(size=(60, width)) + TOKENS[:, :width]
    true = hsic(TOKENS, other) / np.sqrt(hsic(TOKENS, TOKENS) * hsic(other, other))
    found = layer_distance(TOKENS, other)
    assert found.cka == pytest.approx(1 - true)
    assert 0.1 < found.cka < 0.9
    assert (found.relative is None) == (width == 5)


def test_the_relative_distance_is_that_of_the_change():
    assert layer_distance(TOKENS, 1.25 * TOKENS).relative == pytest.approx(0.25)
    assert layer_distance(TOKENS, TOKENS).relative == 0


def test_tokens_that_are_all_alike_have_nothing_in_common():
    assert layer_distance(TOKENS, np.ones((60, 8))).cka == 1
    assert layer_distance(0 * TOKENS, TOKENS).relative is None
