"""The softmax found in what a forward computes."""

import pytest
import torch
from torch import nn

import vitscope
from vitscope.attention.softmax_tracking import expand_ellipsis


@pytest.mark.parametrize(
    ("equation", "dims", "wanted"),
    [
        ("...ij,...jd->...id", (4, 4), "ABij,ABjd->ABid"),
        ("...ij, ...jd -> ...id", (4, 3), "ABij,Bjd->ABid"),
        ("b...n,b...d->b...nd", (3, 3), "bAn,bAd->bAnd"),
        ("Aij...,Ajd->Aid...", (4, 3), "AijB,Ajd->AidB"),
        ("bij,bjd->bid", (3, 3), "bij,bjd->bid"),
    ],
)
def test_dots_in_an_equation_are_spelled_out(equation, dims, wanted):
    left, right = (torch.randn(*(2,) * n).double() for n in dims)
    assert expand_ellipsis(equation, dims) == wanted
    torch.testing.assert_close(torch.einsum(wanted, left, right), torch.einsum(equation, left, right))


HOOKS = {
    "one image": lambda kept: lambda _module, _args, out: kept.append(out[0].detach()),
    "one head of one": lambda kept: lambda _module, _args, out: kept.append(out.mean(1).detach()),
    "another dtype": lambda kept: lambda _module, _args, out: kept.append(out.double()),
    "squeezed": lambda kept: lambda _module, _args, out: kept.append(out.squeeze().cpu().numpy()),
    "doubled": lambda kept: lambda _module, _args, out: kept.append(2 * out),
}


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("heads", [1, 2])
def test_what_a_hook_keeps_of_one_image_does_not_hide_its_attention(name, heads):
    """As people record attention by themselves: a hook on the dropout behind the softmax."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.0)

        def forward(self, x):
            self.matrix = (x @ x.mT).softmax(-1)
            return self.dropout(self.matrix) @ x

    torch.manual_seed(0)
    layer, kept = Layer().eval(), []
    layer.dropout.register_forward_hook(HOOKS[name](kept))
    with torch.no_grad(), vitscope.capture(layer) as captured:
        layer(torch.randn(1, heads, 5, 4))
    (block,) = captured.attention.blocks
    torch.testing.assert_close(block.rows(), layer.matrix)
    assert len(kept) == 1
