"""What an editor and a type checker know of the calls: `make check` checks it, and nothing runs it.

A line that must be refused says with what: one that is not refused is an unused comment, which the checker refuses.
"""

from collections.abc import Iterator
from typing import assert_type

import torch
from torch import nn

import vitscope
from vitscope import Attribution, Explanation, Failure

scope = vitscope.load()
assert_type(scope.explain("a.png"), Explanation)
assert_type(scope.explain("a.png", method="rollout", layers="last3", target=[1]), Explanation)
assert_type(scope.explain("a.png", targets=[1, "cat"]), list[Explanation])
assert_type(scope.explain(["a.png", "b.png"], target=torch.tensor([1, 2])), list[Explanation])
assert_type(scope.explain(["a.png", "b.png"], targets=[1, 2], size=224), list[list[Explanation]])
assert_type(scope.explain_many(iter(["a.png"])), Iterator[Explanation | Failure])
assert_type(scope.explain_many(["a.png"], targets=[1]), Iterator[list[Explanation] | Failure])
assert_type(scope.attribute(torch.zeros(1, 3, 8, 8), target=vitscope.text("a cat")), Attribution)
assert_type(scope.attribute(torch.zeros(1, 3, 8, 8), targets=[1]), list[Attribution])
assert_type(vitscope.attribute(nn.Identity(), torch.zeros(1, 3, 8, 8)), Attribution)

# refused
scope.explain("a.png", metod="rollout")  # type: ignore[call-overload]
scope.explain("a.png", gradient_rule="libre")  # type: ignore[call-overload]
scope.attribute(torch.zeros(1, 3, 8, 8), layer="last")  # type: ignore[call-overload]
scope.validate(targts=[1])  # type: ignore[call-arg]
scope.recommend(sise=224)  # type: ignore[call-arg]
