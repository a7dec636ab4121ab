"""Models loaded by several threads at once, first of a process: each is whole, and random numbers are as before."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import vitscope
from tests.engine.toys_families import make

LOAD = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import vitscope
photo, begin = np.random.default_rng(0).integers(0, 256, (70, 64, 3), np.uint8), threading.Barrier(8)
def work(_):
    begin.wait()
    return vitscope.load(sys.argv[1]).explain(photo, method="rollout").map.tobytes()
with ThreadPoolExecutor(8) as pool:
    maps = list(pool.map(work, range(8)))
assert len(set(maps)) == 1
"""


@pytest.mark.slow
def test_the_first_models_of_a_process_are_loaded_by_eight_threads(tiny_folder):
    environment = os.environ | {"PYTHONPATH": str(Path(vitscope.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(tiny_folder)], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_random_numbers_are_left_as_they_were_by_loads_that_overlap():
    one, two = make("timm"), make("generic")
    drawn, inside, done = (threading.Event() for _ in range(3))
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def draw(*_):
        torch.rand(3)
        drawn.set()
        inside.wait(20)

    def end_last(*_):
        inside.set()
        done.wait(20)

    one.register_forward_pre_hook(draw)
    two.register_forward_pre_hook(end_last)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(vitscope.load, one)
        assert drawn.wait(20)
        second = pool.submit(vitscope.load, two)
        first.result(timeout=60)
        done.set()
        second.result(timeout=60)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_module_is_loaded_and_explained_by_eight_threads():
    model, photo = make("generic"), np.random.default_rng(0).integers(0, 256, (36, 32, 3), np.uint8)

    def work(_):
        return vitscope.load(model).explain(photo, method="relevance").map.tobytes()

    expected, found = work(0), []
    threads = [threading.Thread(target=lambda: found.append(work(0)), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    assert found == [expected] * 8
