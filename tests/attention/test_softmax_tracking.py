"""The softmax found in what a forward computes."""

import pytest
import torch

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
