"""What the tests of model loading start from."""

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from tests.helpers.fake_wheel import TINY, Fake, encode


@pytest.fixture(scope="module")
def state():
    """Every tensor of a tiny DINOv2, all different; names and shapes are transformers' own."""
    rng = np.random.default_rng(0)
    shapes = {name: value.shape for name, value in Dinov2Model(Dinov2Config(**TINY)).state_dict().items()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def fake(state, tmp_path, monkeypatch):
    made = Fake(tmp_path, monkeypatch, tmp_path / "cache").install(encode(state))
    monkeypatch.setenv("VITSCOPE_CACHE", str(made.cache))
    monkeypatch.setenv("VITSCOPE_WHEEL", str(made.wheel))
    monkeypatch.delenv("VITSCOPE_OFFLINE", raising=False)
    return made


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
