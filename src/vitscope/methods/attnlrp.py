"""AttnLRP: relevance propagated through every part of the model, by gradients with modified rules."""

from jaxtyping import Float
from torch import Tensor

from vitscope.methods.base import method
from vitscope.methods.context import MethodContext


@method(
    "attnlrp",
    passes="1 forward, 1 backward",
    source="Achtibat et al. 2024, equations 7 to 14; as gradients: their appendix",
    requires={"gradient", "hidden-states"},
    gradient_rule="attnlrp",
)
def attnlrp(context: MethodContext) -> Float[Tensor, "B N"]:
    """Propagate the score back to the input tokens through attention, MLPs and norms.

    Formula: `m_j = sum_d z_jd d̃y/dz_jd`, z the input tokens of the first block, d̃ the gradient by the rules of
    `gradient_rule="attnlrp"` (`vitscope.attention.gradient_rules`): norms with their deviation held fixed,
    activations as fixed quotients, half the relevance of each product for either factor, softmax by its own derivative.

    Returns:
        `(B, N)`, signed, in units of the score; it sums to the score less the relevance of biases and softmax.

    Cost: one forward and one backward, and their memory.
    Limits: the relevance of biases and softmax is lost; at the first block a token is the sum of its patch and its
        position. `input-x-gradient` with `gradient_rule="libra"` continues to the pixels and keeps attention fixed.
        Relevance propagation is covered by patents of others: see the licence terms of its authors.
    """
    first = context.hidden_states.tokens[0]
    (grad,) = context.gradients([first])
    return context.hidden_states.arrange((first.detach() * grad).float()).sum(-1)
