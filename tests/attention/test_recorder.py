"""The record of attention calls: what is kept of large tensors."""

from pathlib import Path

import pytest
import torch
from torch import nn

from vitscope.attention.recorder import AttentionRecorder

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never" by default
HAS_LARGE_PAGES = SETTING.exists() and "[never]" not in SETTING.read_text()


class TestKeptTensors:
    def test_a_large_view_is_copied_and_holds_nothing_else(self, monkeypatch):
        monkeypatch.setattr("vitscope.attention.recorder._LARGE", 64)
        joined = torch.arange(3 * 2 * 5 * 4, dtype=torch.float32).view(3, 1, 2, 5, 4)
        recorder = AttentionRecorder(nn.Identity())
        q, k = recorder.keep(joined[0]), recorder.keep(joined[1])
        assert torch.equal(q, joined[0])
        assert torch.equal(k, joined[1])
        assert joined.untyped_storage().data_ptr() not in {one.untyped_storage().data_ptr() for one in (q, k)}
        joined.zero_()
        assert float(q.max()) == 39
        assert k.data_ptr() == q.data_ptr() + q.nbytes

    @pytest.mark.skipif(not HAS_LARGE_PAGES, reason="needs a Linux that gives large pages")
    def test_memory_comes_in_large_pages(self):
        import resource

        given, recorder = torch.zeros(1, 4, 2**10, 2**10), AttentionRecorder(nn.Identity())  # 16 MB
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [recorder.keep(given) for _ in range(4)]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 4 * given.nbytes // 4096 / 2
        assert all(torch.equal(one, given) for one in kept)

    def test_more_than_was_reserved_is_kept_too(self, monkeypatch):
        monkeypatch.setattr("vitscope.attention.recorder._LARGE", 4)
        monkeypatch.setattr("vitscope.attention.recorder._FROM_HEAP", 40)
        given = [torch.full((1, 1, n, 2), float(n)) for n in (2, 3, 9, 1)] + [torch.ones(1, 1, 2, 2).double()]
        recorder = AttentionRecorder(nn.Identity())
        kept = [recorder.keep(one) for one in given]
        assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(kept, given, strict=True))

    def test_small_ones_and_those_of_a_graph_stay_as_they_are(self, monkeypatch):
        small = torch.ones(1, 1, 4, 4)
        assert AttentionRecorder(nn.Identity()).keep(small) is small
        monkeypatch.setattr("vitscope.attention.recorder._LARGE", 4)
        assert AttentionRecorder(nn.Identity()).keep(small) is not small
        assert AttentionRecorder(nn.Identity(), gradients=True).keep(small) is small
