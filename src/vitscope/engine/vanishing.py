"""Scores whose gradient vanishes at the image itself: what is left of it is rounding, and no map is made of that."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from vitscope.attention import AttentionStore
from vitscope.errors import MethodError
from vitscope.methods.targets import SimilarTo, Target, feature_of

VANISHING = ("engine.same-image", "engine.saturated")  # codes of what one image of a batch may have
_STEEP = 1e-4  # of another gradient of the same feature: rounding leaves 1e-7 or, after a norm, its epsilon 1e-5
_NEAR = 1e-4  # cosines that are further from 1 have a gradient
_FULL = 8  # epsilons: of a distance from 1 that is less, rounding is more than a twentieth
_VARYING = WeakKeyDictionary[nn.Module, bool]()  # models of which the norm of the feature was seen to vary


def require_norm_gradient(model: nn.Module, answer: Tensor, score: Tensor, store: AttentionStore) -> None:
    """Raise a MethodError where the norm of a model's feature has no gradient, as where the model normalises it.

    Args:
        model: the module; one that was seen to pass is not looked at again.
        answer: its answer, with its graph, which is kept.
        score: the product of each feature with itself.
        store: the attention of the same forward.

    Cost: twice backwards through what follows the last attention, once for each model.
    """
    if model in _VARYING:
        return
    if _is_flat(score / score.detach(), answer, store):
        raise MethodError.coded(
            "engine.constant-norm",
            "this model normalises its feature: the norm is the same for all images, and its gradient is rounding",
            "choose a target, such as image:PATH (in Python vitscope.similar_to(image)), or a method without "
            "gradients, such as random-walk or token-removal",
        )
    _VARYING[model] = True


def require_other_image(targets: "Sequence[Target]", answer: Tensor, score: Tensor, store: AttentionStore) -> None:
    """Raise a MethodError where an image is compared with itself: the likeness is at its greatest, its gradient 0.

    Args:
        targets: of each image.
        answer: the model's answer, with its graph, which is kept.
        score: of each image, with its graph.
        store: the attention of the same forward.

    Cost: twice backwards through what follows the last attention for each image that is very like its target.
    """
    for number, (target, likeness) in enumerate(zip(targets, score.detach().tolist(), strict=True)):
        if not isinstance(target, SimilarTo) or likeness < 1 - _NEAR:
            continue
        if _is_flat(score[number], answer[number : number + 1], store):
            raise MethodError.coded(
                "engine.same-image",
                "the target has the same feature as the image: their likeness is 1, and its gradient is rounding",
                "choose another image as the target, or a method without gradients, such as token-removal",
            )


def require_unsaturated(score: Tensor, words: Sequence[str], answer: Tensor, *, probabilities: bool) -> None:
    """Raise a MethodError where a model answers with a probability that is 1 or 0 to the precision of its numbers.

    `dp / dz = p (1 - p)`: where `p` is nearly 1, `1 - p` is mostly rounding.

    Args:
        score: of each image.
        words: its target.
        answer: the model's answer.
        probabilities: these are the numbers of the answer. Logits are looked at, too: they may be logarithms of such.
    """
    logarithms = (
        not probabilities and answer.shape[-1] > 1 and bool((answer.detach().logsumexp(-1).abs() < _NEAR).all())
    )
    if not probabilities and not logarithms:
        return
    nearest = 1 - _FULL * torch.finfo(answer.dtype).eps
    for one, name in zip(score.detach(), words, strict=True):
        chance = one.exp() if logarithms else one
        if chance >= nearest or (chance == 0 and not logarithms):
            raise MethodError.coded(
                "engine.saturated",
                "the model's last step makes probabilities, and that of '{target}' is {chance} to the last digit: "
                "its gradient is rounding",
                "load the model without its last softmax or sigmoid, choose another target, or a method without "
                "gradients, such as token-removal",
                target=name,
                chance=f"{float(chance):.0f}",
            )


def _is_flat(score: Tensor, answer: Tensor, store: AttentionStore) -> bool:
    """Return whether scores in the units of a cosine have far less of a gradient than another one.

    The other is each feature's cosine with itself, moved on by one number.
    """
    tensors = store.outputs[-1].tensors if store.outputs else ()
    feature = feature_of(answer)
    own = feature.detach()
    other = (feature * own.roll(1, -1)).sum(-1) / own.square().sum(-1)
    grads = [
        torch.autograd.grad(one.sum(), tensors, retain_graph=True, materialize_grads=True) for one in (score, other)
    ]
    slope, usual = (max((float(grad.double().norm()) for grad in each), default=0.0) for each in grads)
    return slope < _STEEP * usual
