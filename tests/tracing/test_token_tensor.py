"""Tensors whose channels are all one number are kept as one."""

import torch


def test_a_function_run_once_where_tensors_repeat_themselves_is_the_same_function():
    from vitscope.tracing.token_tensor import first_along, run_collapsed

    torch.manual_seed(0)
    thin, other = (torch.randn(2, 5, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(2, 5, 7, dtype=torch.float64)
    sizes, grads = [], []

    def mean(a, b):
        sizes.append(a.numel())
        return (a + b) / 2

    for way in (run_collapsed, lambda run, *tensors: run(*tensors)):
        out = way(mean, thin.expand(2, 5, 7), other.expand(2, 5, 7))
        assert out.shape == (2, 5, 7)
        grads.append(torch.autograd.grad((out * weight).sum(), (thin, other)))
    assert sizes == [10, 70]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted)
    (got,) = torch.autograd.grad((first_along(thin.expand(2, 5, 7), 2) * weight[..., :1]).sum(), thin)
    torch.testing.assert_close(got, weight[..., :1])
    full = torch.randn(2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(run_collapsed(mean, thin.expand(2, 5, 7), full), mean(thin.expand(2, 5, 7), full))
