"""Weights taken back through the layers within the backward, against matrices and their gradients in float64."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import vitscope
from vitscope.attention import backward as module
from vitscope.attention import positive_relevance_sums, vecmat_positive_relevance
from vitscope.methods.base import METHODS

TOKENS, WIDTH, HEADS, DEPTH = 151, 8, 2, 4
LAYOUT = vitscope.TokenLayout(prefix=("cls",), grid=(10, 15), pooling="mean")
NAMES = ["relevance", "grad-rollout", "grad-sam"]


def close(found, expected, near=1e-6):
    """Assert that numbers differ by so little, in parts of the largest; readout weights are float32."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=near * float(expected.abs().max()))


class Tower(nn.Module):
    """Attention on a residual stream; by matrices, which it keeps, if `dense`."""

    def __init__(self, dense=False, masked=(), frozen=None):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(
            0.5 * torch.randn(4 * WIDTH, WIDTH, generator=draw, dtype=torch.float64) for _ in range(DEPTH)
        )
        self.dense, self.masked, self.frozen, self.matrices = dense, masked, frozen, []

    def forward(self, x):
        for layer, weight in enumerate(self.weights):
            q, k, v, out = ((x @ part.T).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in weight.chunk(4))
            k = k.detach() if self.frozen == "k" else k
            mask = torch.zeros(TOKENS, TOKENS, dtype=x.dtype) if layer in self.masked else None
            if self.dense:
                self.matrices.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1))
                a = self.matrices[-1] @ v
            else:
                a = scaled_dot_product_attention(q, k, v, mask)
            x = x + torch.tanh((a + out).transpose(1, 2).flatten(2))
        return x[:, 1:].mean(1)


def images(count=2):
    return torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def captured(model, x, chunk=None):
    with torch.enable_grad(), vitscope.capture(model, layout=LAYOUT, gradients=True) as found:
        answer = model(x.clone().requires_grad_())
    store = found.store(answer=answer)
    return (store if chunk is None else store.in_chunks(chunk)), answer


def score(answer, number=0):
    return answer[:, number] - answer[:, number + 1].square()


def twin(name, x, layers=range(DEPTH), **options):
    """Return the map of a method from all matrices."""
    model = Tower(dense=True, **options)
    total = score(model(x.clone().requires_grad_())).sum()
    grads = torch.autograd.grad(total, model.matrices)
    rise = [(a * grad).relu().mean(1).detach() for a, grad in zip(model.matrices, grads, strict=True)]
    r = torch.zeros(len(x), 1, TOKENS, dtype=torch.float64)
    r[:, :, 1:] = 1 / (TOKENS - 1)
    if name == "grad-sam":
        return torch.stack([rise[layer].mean(1) for layer in layers]).mean(0)
    for layer in reversed(layers):
        step = torch.eye(TOKENS, dtype=torch.float64) + rise[layer]
        r = r @ (step / step.sum(-1, keepdim=True) if name == "grad-rollout" else step)
    return r[:, 0]


@pytest.fixture
def kernels(monkeypatch):
    """Count the kernel's own backwards."""
    runs = []
    forward, backward = module.flash_kernels()

    def counted(*args, **kwargs):
        runs.append(args)
        return backward(*args, **kwargs)

    monkeypatch.setattr(module, "flash_kernels", lambda: (forward, counted))
    return runs


@pytest.mark.covering
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("chunk", [None, 1, 7, TOKENS])
@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_all_matrices_and_each_layers_attention_is_made_once(name, chunk, count, kernels):
    x = images(count)
    store, answer = captured(Tower(), x, chunk)
    found = METHODS.get(name).run(store.differentiate(score(answer), lazily=True))
    close(found, twin(name, x))
    assert not kernels


@pytest.mark.parametrize("frozen", [None, "k"])
def test_gradients_go_on_as_the_kernels_own_backward_computes_them(frozen, kernels):
    x = images()
    store, answer = captured(Tower(frozen=frozen), x)
    eager = store.differentiate(score(answer), last=False)
    assert len(kernels) == DEPTH - 1
    lazy = store.differentiate(score(answer), lazily=True)
    METHODS.get("relevance").run(lazy)
    assert len(kernels) == DEPTH - 1
    for one, other in zip(lazy, eager, strict=True):
        close(one.grad_out(), other.grad_out, 1e-13)
        close(one.grad_rows(), other.grad_rows(), 1e-13)


@pytest.mark.parametrize("layers", [(3,), (0, 3), (1, 2), (0,)])
@pytest.mark.parametrize("name", NAMES)
def test_layers_that_do_not_count_are_passed(name, layers):
    x = images()
    store, answer = captured(Tower(), x)
    store = store.differentiate(score(answer), lazily=True)
    found = METHODS.get(name).run(store, layers=layers)
    close(found, twin(name, x, layers))
    again = METHODS.get(name).run(store)  # the graph is gone, the gradients are kept
    close(again, twin(name, x))


@pytest.mark.parametrize("masked", [(DEPTH - 1,), (1,), tuple(range(DEPTH))])
@pytest.mark.parametrize("name", NAMES)
def test_layers_of_another_kernel_take_their_turn(name, masked):
    x = images()
    store, answer = captured(Tower(masked=masked), x)
    found = METHODS.get(name).run(store.differentiate(score(answer), lazily=True))
    close(found, twin(name, x))


def test_an_answer_that_no_layer_reaches_any_more_leaves_zeros():
    class Cut(Tower):
        def forward(self, x):
            return super().forward(x).detach() + x.mean(1)

    store, answer = captured(Cut(), images())
    found = METHODS.get("grad-sam").run(store.differentiate(score(answer), lazily=True))
    assert (found == 0).all()


def test_several_scores_of_one_forward(kernels):
    store, answer = captured(Tower(), images())
    run = partial(METHODS.get("relevance").run)
    maps = [run(store.differentiate(score(answer, n), last=n == 2, lazily=True)) for n in range(3)]
    assert not kernels
    for number, found in enumerate(maps):
        other, answer = captured(Tower(), images())
        close(found, run(other.differentiate(score(answer, number))))


def test_an_error_on_the_way_is_the_callers_and_leaves_nothing():
    store, answer = captured(Tower(), images())
    lazy = store.differentiate(score(answer), last=False, lazily=True)

    def fail(block, r):
        raise KeyboardInterrupt(block.name)

    with pytest.raises(KeyboardInterrupt):
        lazy.rollout_from_readout([0, 1, 2, 3], fail, 1.0, 1.0)
    assert all(output.tensors[0].grad_fn.listener is None for output in store.outputs)
    close(METHODS.get("relevance").run(lazy), twin("relevance", images()))


def test_a_step_that_asks_twice_counts_gradients_once():
    x, sums = images(), []

    def twice(block, r):
        sums.append(positive_relevance_sums(block))
        return vecmat_positive_relevance(block, r)

    store, answer = captured(Tower(), x)
    found = store.differentiate(score(answer), lazily=True).rollout_from_readout(range(DEPTH), twice, 1.0, 1.0)
    close(found, twin("relevance", x))
    assert len(sums) == DEPTH


def test_a_pass_that_is_broken_off_leaves_the_backward_to_the_kernel(kernels):
    def peek(block, r):
        next(block.positive_relevance())
        return vecmat_positive_relevance(block, r)

    x = images()
    store, answer = captured(Tower(), x, chunk=7)
    found = store.differentiate(score(answer), lazily=True).rollout_from_readout(range(DEPTH), peek, 1.0, 1.0)
    close(found, twin("relevance", x))
    assert len(kernels) == DEPTH - 1


def test_few_queries_leave_the_backward_to_the_kernel(kernels):
    store, answer = captured(Tower(), images())
    few = store.with_query("0,0").differentiate(score(answer), lazily=True)
    METHODS.get("relevance").run(few, layers=[3])
    assert len(kernels) == DEPTH - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_low_precision_are_summed_in_float32(name, dtype, kernels):
    x = images()
    store, answer = captured(Tower().to(dtype), x.to(dtype))
    found = METHODS.get(name).run(store.differentiate(score(answer), lazily=True))
    assert not kernels
    expected = twin(name, x).float()
    near = 1e-4 if dtype == torch.float32 else 5e-2
    assert found.dtype == torch.float32
    close(found, expected, near)
