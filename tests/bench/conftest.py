"""What the benchmark's tests start from."""

import pytest

from vitscope.bench.benchmark import make_benchmark


@pytest.fixture
def benchmark(tiny_scope):
    return make_benchmark(tiny_scope, "planted", count=3, size=64, seed=1)
