"""Attention as an operator: rows, folding, pulling and pushing, layer numbers."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.helpers.errors import raises
from vitscope.attention import (
    AttentionStore,
    Dense,
    Factored,
    matvec,
    pooled_matrix,
    positive_relevance_sums,
    vecmat,
    vecmat_heads,
    vecmat_positive_relevance,
    vecmat_positive_relevance_normalised,
)
from vitscope.errors import LayoutError, UsageError
from vitscope.geometry import TokenLayout


def factored(b=2, h=3, n=40, m=40, d=8, seed=0, dtype=torch.float64, bias=None, lse=True, chunk=None):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(b, h, n, d, generator=generator, dtype=torch.float64).to(dtype) * 3
    k = torch.randn(b, h, m, d, generator=generator, dtype=torch.float64).to(dtype)
    scores = q.double() @ k.double().transpose(-1, -2) * d**-0.5
    scores = scores if bias is None else scores + bias
    known = (
        scores.logsumexp(-1).to(torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype) if lse else None
    )
    return Factored("block", q, k, d**-0.5, bias, known, chunk), scores.softmax(-1)


@pytest.mark.parametrize("selection", [slice(None), slice(3, 9), 5, -1, [0, 7, -2], torch.tensor([4, 4])])
def test_rows_are_the_softmax(selection):
    block, dense = factored()
    wanted = dense[:, :, [selection] if isinstance(selection, int) else selection]
    torch.testing.assert_close(block.rows(selection), wanted)
    torch.testing.assert_close(Dense("block", dense).rows(selection), wanted)


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (1, 3, 40, 40), (2, 3, 40, 40), (2, 1, 1, 40)])
def test_a_bias_is_added_to_the_scores(shape):
    bias = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bias = bias if shape != (1, 1, 1, 4) else bias.repeat(1, 1, 1, 10)
    bias[..., 3] = float("-inf")
    block, dense = factored(bias=bias)
    torch.testing.assert_close(block.rows([0, 9]), dense[:, :, [0, 9]])
    assert (block.rows()[..., 3] == 0).all()
    r = torch.rand(2, 40, dtype=torch.float64)
    torch.testing.assert_close(vecmat(block, r), torch.einsum("bn,bhnm->bm", r, dense) / 3)


@pytest.mark.parametrize("step", [1, 7, 700])
@pytest.mark.parametrize(("n", "m"), [(700, 700), (40, 65)])
@pytest.mark.parametrize("kind", ["lse", "no lse", "bias", "matrix"])
def test_logarithms_of_all_rows_a_few_queries_at_a_time(kind, n, m, step):
    bias = torch.zeros(1, 1, 1, m, dtype=torch.float64)
    bias[..., 3] = float("-inf")
    block, dense = factored(n=n, m=m, bias=bias if kind == "bias" else None, lse=kind == "lse")
    block = Dense("block", dense) if kind == "matrix" else block
    seen = 0
    for queries, logarithms in block.log2_rows(step):
        assert queries == slice(seen, min(seen + step, n))
        seen = queries.stop
        assert logarithms.min() >= -126
        torch.testing.assert_close(logarithms.exp2(), dense[:, :, queries], rtol=1e-9, atol=2.0**-80)
    assert seen == n


@pytest.mark.parametrize("bad", [40, -41, [0, 99]])
def test_a_query_that_is_not_there_is_named(bad):
    with raises(UsageError, "attention.no-such-query"):
        factored()[0].rows(bad)


@pytest.mark.covering
@pytest.mark.parametrize("chunk", [None, 1, 7, 700])
@pytest.mark.parametrize("lse", [True, False])
@pytest.mark.parametrize(("n", "m"), [(700, 700), (300, 65), (70, 600)])
def test_pull_is_a_vector_matrix_product(n, m, lse, chunk):
    block, dense = factored(n=n, m=m, lse=lse, chunk=chunk)
    r = torch.randn(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = torch.einsum("bn,bhnm->bhm", r, dense)
    assert (block.mean_vecmat(r) is not None) == lse
    torch.testing.assert_close(vecmat(block, r), wanted.mean(1))
    torch.testing.assert_close(vecmat_heads(block, r), wanted)
    torch.testing.assert_close(vecmat(block, r, lambda rows: rows[:, 1]), wanted[:, 1])
    torch.testing.assert_close(vecmat(Dense("block", dense, chunk), r), wanted.mean(1))


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("lse", [True, False])
@pytest.mark.parametrize(("n", "m"), [(700, 700), (300, 65), (40, 600)])
def test_several_rows_of_one_image_are_pulled_alike_by_tiles_and_by_rows(n, m, lse, chunk):
    block, dense = factored(n=n, m=m, lse=lse, chunk=chunk)
    one, mean = replace(block, q=block.q[1:], k=block.k[1:], lse=block.lse[1:] if lse else None), dense.mean(1)
    r = torch.randn(5, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(vecmat(one, r), r @ mean[1])
    torch.testing.assert_close(vecmat(one, r.float()), r.float().double() @ mean[1])
    torch.testing.assert_close(vecmat(Dense("block", dense[1:], chunk), r), r @ mean[1])
    single = torch.diag(r[0])[torch.randperm(n, generator=torch.Generator().manual_seed(3))]  # as in the last layer
    single[n // 2] = 0
    torch.testing.assert_close(vecmat(one, single), single @ mean[1])
    single[-1] = r[1]
    torch.testing.assert_close(vecmat(one, single), single @ mean[1])
    assert (block.mean_rows() is not None) == lse
    for images, queries, rows in block.mean_rows() or ():
        torch.testing.assert_close(rows, mean[images, queries])


@pytest.mark.covering
@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize("lse", [True, False])
@pytest.mark.parametrize(("n", "m"), [(700, 700), (300, 65), (40, 600)])
def test_attention_that_raises_the_score_is_pulled_alike_by_tiles_and_by_rows(n, m, lse, chunk):
    block, dense = factored(n=n, m=m, lse=lse, chunk=chunk)
    draw = torch.Generator().manual_seed(3)
    v, grad = (torch.randn(2, 3, length, 5, dtype=torch.float64, generator=draw) for length in (m, n))
    block = replace(block, v=v, grad_out=grad)
    r = torch.randn(2, n, dtype=torch.float64, generator=draw)
    raises = (dense * torch.einsum("bhne,bhme->bhnm", grad, v)).relu().mean(1)
    assert (block.positive_relevance() is not None) == lse
    torch.testing.assert_close(vecmat_positive_relevance(block, r), torch.einsum("bn,bnm->bm", r, raises))
    torch.testing.assert_close(positive_relevance_sums(block), raises.sum(-1))
    pulled, shares = vecmat_positive_relevance_normalised(block, r)
    torch.testing.assert_close(shares, 1 / (1 + raises.sum(-1)))
    torch.testing.assert_close(pulled, torch.einsum("bn,bnm->bm", r * shares, raises))
    one = torch.zeros_like(r).index_fill_(1, torch.tensor([5]), 2.0)
    pulled, shares = vecmat_positive_relevance_normalised(block, one)
    torch.testing.assert_close(pulled, 2 * raises[:, 5] / (1 + raises[:, 5].sum(-1, keepdim=True)))
    assert (shares[:, :5] == 1).all()


@pytest.mark.parametrize("chunk", [None, 1, 7, 700])
def test_push_is_a_matrix_vector_product(chunk):
    block, dense = factored(n=300, m=65, chunk=chunk)
    v = torch.randn(2, 65, dtype=torch.float64)
    torch.testing.assert_close(matvec(block, v), torch.einsum("bhnm,bm->bn", dense, v) / 3)
    torch.testing.assert_close(
        matvec(block, v, lambda rows: rows.amax(1)), torch.einsum("bnm,bm->bn", dense.amax(1), v)
    )


def test_queries_that_weigh_nothing_are_not_computed():
    class Counting(Dense):
        asked = 0

        def rows(self, sel):
            Counting.asked += len(sel)
            return super().rows(sel)

    _, dense = factored()
    r = torch.zeros(2, 40, dtype=torch.float64)
    r[0, 3] = r[1, 5] = 1
    vecmat(Counting("block", dense), r)
    assert Counting.asked == 2


def test_the_kernels_own_log_sum_exp_is_the_right_one():
    block, dense = factored(dtype=torch.float32, lse=False)
    v = torch.randn(2, 3, 40, 8)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(block.q, block.k, v)
    assert torch.equal(out, scaled_dot_product_attention(block.q, block.k, v))
    torch.testing.assert_close(
        (block.q @ block.k.mT * block.scale - lse[..., None]).exp().double(), dense, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    block, _ = factored(n=100, m=100, dtype=dtype)
    rows = block.rows()
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 3, 100))
    r = torch.full((2, 100), 0.01)
    torch.testing.assert_close(vecmat(block, r), (rows.mean(1) * 0.01).sum(1), atol=1e-5, rtol=1e-4)


def test_memory_of_a_pull_is_linear():
    """No tensor that grows with N x M is made: each one made during a vecmat of 4,000 tokens is small."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class CrashLog(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                largest = max(largest, one.numel() if isinstance(one, torch.Tensor) else 0)
            return out

    n = 4000
    block, _ = (
        Factored("b", torch.randn(1, 2, n, 8), torch.randn(1, 2, n, 8), 0.3, None, torch.full((1, 2, n), 9.0)),
        None,
    )
    with CrashLog():
        vecmat(block, torch.rand(1, n))
        vecmat(block, torch.rand(1, n), lambda rows: rows.amax(1))
        matvec(block, torch.rand(1, n))
    assert 0 < largest <= 2**20 + n


class TestLayers:
    store = AttentionStore(tuple(Dense(str(i), torch.eye(2).expand(1, 1, 2, 2)) for i in range(12)))

    @pytest.mark.parametrize(
        ("spec", "numbers"),
        [
            (None, range(12)),
            ("all", range(12)),
            (3, [3]),
            (-1, [11]),
            ("0-11", range(12)),
            ("-3--1", [9, 10, 11]),
            ("9--1", [9, 10, 11]),
            ("4, 7,9", [4, 7, 9]),
            ("last3", [9, 10, 11]),
            ("last99", range(12)),
            (slice(2, 5), [2, 3, 4]),
            ([5, 1, 5], [1, 5]),
            ("2-4,8", [2, 3, 4, 8]),
        ],
    )
    def test_are_read(self, spec, numbers):
        assert self.store.select(spec) == list(numbers)

    @pytest.mark.parametrize(
        "spec", [12, -13, "0-12", "5-2", "4,5-2", "x", "1..3", "", slice(5, 5), [], 2.5, True, "²", "9" * 5000]
    )
    def test_that_are_not_there_are_refused(self, spec):
        with pytest.raises(UsageError, match="layer"):
            self.store.select(spec)

    def test_are_blocks_by_number(self):
        assert self.store[-1].name == "11"
        assert self.store[4].name == "4"
        assert [block.name for block in self.store] == [str(i) for i in range(12)]
        with raises(UsageError, "attention.no-such-layer"):
            self.store[12]


def test_the_seed_is_the_readout_row_for_each_picture():
    blocks = (Dense("0", torch.eye(3).expand(2, 1, 3, 3)),)
    assert AttentionStore(blocks, TokenLayout(("cls",), (1, 2))).readout_weights().tolist() == [[1, 0, 0]] * 2
    pool = Dense("pool", torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5]]).reshape(1, 1, 2, 3).expand(2, 1, 2, 3))
    pooled = AttentionStore(blocks, TokenLayout((), (1, 3), "map"), pool=pool)
    assert pooled.readout_weights().tolist() == [[0.25, 0.375, 0.375]] * 2
    with pytest.raises(LayoutError):
        AttentionStore(blocks).readout_weights()


def test_the_matrix_for_looking_at_is_whole_or_pooled():
    block, dense = factored(n=40, m=40)
    whole, k = pooled_matrix(block)
    assert k == 1
    torch.testing.assert_close(whole, dense)
    pooled, k = pooled_matrix(block, max_side=16)
    assert k == 3
    assert pooled.shape == (2, 3, 14, 14)
    torch.testing.assert_close(pooled[1, 2, 3, 4], dense[1, 2, 9:12, 12:15].mean())
    torch.testing.assert_close(pooled[1, 2, 13, 13], dense[1, 2, 39, 39])


def test_stores_and_blocks_are_one_line():
    blocks = Factored("a.b", *torch.zeros(2, 2, 3, 5, 4), 1.0), Dense("<c>", torch.eye(7).expand(2, 3, 7, 7))
    store = AttentionStore(blocks, TokenLayout(("cls",), (2, 2)))
    assert repr(blocks[0]) == "Factored('a.b', shape=(2, 3, 5, 5), dtype=float32, device='cpu')"
    assert repr(blocks[1]) == "Dense('<c>', shape=(2, 3, 7, 7), dtype=float32, device='cpu')"
    expected = "AttentionStore(layers=2, images=2, heads=3, queries=5..7, keys=5..7, layout='1 prefix + 2 x 2 patches')"
    assert repr(store) == expected
    assert repr(AttentionStore(())) == "AttentionStore(layers=0, layout=None)"


def test_a_notebook_shows_the_layers_of_a_store():
    blocks = Factored("a.b", *torch.zeros(2, 2, 3, 5, 4), 1.0), Dense("<c>", torch.eye(7).expand(2, 3, 7, 7))
    page = AttentionStore(blocks)._repr_html_()
    assert "<tr><td>0</td><td>a.b</td><td>3</td><td>5</td><td>5</td></tr>" in page
    assert "<tr><td>1</td><td>&lt;c&gt;</td><td>3</td><td>7</td><td>7</td></tr>" in page
