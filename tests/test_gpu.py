"""The benchmark for accelerators, rehearsed on the CPU: the same code, so that it runs where there is one."""

import json

import pytest
import torch
from benchmarks import gpu

from vitscope.methods.base import METHODS

EXACT = 1e-3  # float32 beside float64, of the largest value


@pytest.mark.slow
def test_every_part_runs_and_its_table_has_every_method(tmp_path):
    out = tmp_path / "gpu.json"
    made = gpu.measured(torch.device("cpu"), True, 9, out)
    assert made == json.loads(out.read_text())
    assert [name for name in gpu.PARTS if "stopped" in made[name]] == []
    values = made["values"]["result"]
    assert set(values) == {name for name, _ in METHODS} - gpu.MANY_FORWARDS
    for way in ("float32", "tf32", "autocast", "compiled"):
        assert {name: row for name, row in values.items() if row[way] > EXACT} == {}
    assert {name for name, row in values.items() if row["bfloat16"] > 10 * EXACT} != set()
    for kernel, used in (("flash, float32", "used"), ("math, float32", "not used")):
        row = made["kernels"]["result"][kernel]
        assert max(row["rollout"], row["relevance"]) < EXACT
        assert row["log-sum-exp"] == used
    (row,) = made["costs"]["result"]
    assert all(row[way]["seconds"] > 0 for way in ("forward", "rollout", "relevance", "eager rollout"))
    table = gpu.table(made)
    assert all(f"| {name} |" in table for name in values)
    assert "tiny, 17 tokens" in table


def test_a_part_that_runs_out_of_time_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PARTS", {"values": lambda device, small, check: check()})
    made = gpu.measured(torch.device("cpu"), True, -1, tmp_path / "gpu.json")
    assert made["values"]["stopped"].startswith("TimeIsUp")
    assert "values: TimeIsUp" in gpu.table(made)
