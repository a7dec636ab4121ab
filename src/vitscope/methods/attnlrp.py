"""Relevance propagated through every part of the model, by gradients whose rules lose none of it."""

from jaxtyping import Float
from torch import Tensor

from vitscope.methods.base import method
from vitscope.methods.context import MethodContext

__all__ = ["attnlrp"]


@method(
    "attnlrp",
    passes="1 forward, 1 backward",
    source="Achtibat et al. 2024, equations 7 to 14; as gradients: their appendix",
    requires={"gradient", "hidden-states"},
    gradient_rule="attnlrp",
)
def attnlrp(context: MethodContext) -> Float[Tensor, "B N"]:
    """How much of the score each token brings into the first block, attention, MLPs and norms included.

    Formula: `m_j = sum_d z_jd d̃y/dz_jd`, z the tokens given to the first block, d̃ the gradient by the rules of
    `gradient_rule="attnlrp"` (`vitscope.attention.gradient_rules`): norms with their deviation held fixed,
    activations as fixed quotients, half the relevance of each product to either factor, softmax by its own derivative.

    Returns:
        `(B, N)`, signed, in units of the score; it sums to the score less what biases and the softmax hold.

    Cost: one forward and one backward, and their memory.
    Limits: relevance that biases and the softmax hold is lost; at the first block a token is its patch and its place
        together. `libra` as `gradient` of `input-x-gradient` goes on to the pixels and holds attention fixed.
        Relevance propagation is covered by patents of others: see the licence terms of its authors.
    """
    first = context.tokens.tokens[0]
    (grad,) = context.gradients([first])
    return context.tokens.arrange((first.detach() * grad).float()).sum(-1)
