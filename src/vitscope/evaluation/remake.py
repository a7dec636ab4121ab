"""What an explanation was made from, made again: its photo, the model's pixels, the target's score and the map."""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from vitscope._messages import msg
from vitscope.engine.engine import Engine
from vitscope.engine.options import Options, explained
from vitscope.engine.prepared import Prepared
from vitscope.engine.ranges import check_size
from vitscope.engine.request import Request
from vitscope.errors import UsageError
from vitscope.explanation import Explanation, require_image
from vitscope.geometry import ImageRegion
from vitscope.images import ImageLike, Picture
from vitscope.methods.base import METHODS
from vitscope.methods.targets import Target
from vitscope.metrics.target_score import Score, ScoreKind, make_score, target_from_text
from vitscope.models.pixels.bands import fitted

_NOTED_CHANGE = 1e-4  # of a logit


def photo_of(engine: Engine, explanation: Explanation, image: ImageLike | None) -> Picture:
    """Return the photo of an explanation: its own, or the one that the caller gives.

    Raises:
        UsageError: there is none, or it has another size.
    """
    picture = explanation.picture if image is None else engine.adapter.load(image)
    if picture is None:
        raise UsageError.coded(
            "evaluation.no-photo", "this explanation came without its photo", "pass the photo: measure(..., image=...)"
        )
    if picture.size != explanation.region.size:
        raise UsageError.coded(
            "evaluation.other-photo",
            "the explanation is of a photo of {expected} pixels, not {given}",
            expected=str(explanation.region.size),
            given=str(picture.size),
        )
    return fitted(picture, engine.adapter.bands)


def pixels_of(
    engine: Engine, explanation: Explanation, picture: Picture, notes: list[str]
) -> tuple[Tensor, ImageRegion]:
    """Return the pixels `(C, Hi, Wi)` that a map was made from, and their region.

    `notes` gets a note where the explanation does not record its model.

    Raises:
        UsageError: another model made the map, or this one at another size.
    """
    record, adapter = explanation.provenance, engine.adapter
    hint = msg("evaluation.other-model.hint", "use the model that made it, at the size it was made at")
    if "weights" not in record:
        notes.append(
            msg("evaluation.unrecorded-model", "the explanation does not record which model made it: not checked")
        )
    elif record["weights"] != adapter.weights:
        problem = msg(
            "evaluation.other-model",
            "this map was made by {maker} ({made}), not by {model} ({weights})",
            maker=record.get("model"),
            made=record["weights"],
            model=adapter.reference,
            weights=adapter.weights,
        )
        raise UsageError(problem, hint)
    pixels, region = engine.prepare_pixels(picture, _size(explanation))
    layout = adapter.layout(region.input)
    made, shown = explanation.region, region.covered(layout)
    same = (shown.size, shown.input, layout.grid) == (made.size, made.input, explanation.layout.grid)
    if not (same and np.allclose(shown.box, made.box, rtol=1e-5, atol=1e-3)):  # batches keep boxes in float32
        problem = msg(
            "evaluation.other-layout",
            "this map has {layout} on an input of {input}; from this photo {model} makes {other} on {region}",
            layout=str(explanation.layout),
            input=str(explanation.region.input),
            model=adapter.reference,
            other=str(layout),
            region=str(region.input),
        )
        raise UsageError(problem, hint)
    return pixels.to(engine.device, engine.dtype), region


def uniform_pixels(engine: Engine, explanation: Explanation, picture: Picture, value: int) -> Tensor:
    """Return the pixels that the model gets of an image of the same size and bands that holds one value of 0..255."""
    pixels, _ = engine.prepare_pixels(picture.flat(value), _size(explanation))
    return pixels.to(engine.device, engine.dtype)


def score_of_map(
    engine: Engine, explanation: Explanation, given: Target, kind: ScoreKind, answer: Tensor, notes: list[str]
) -> Score:
    """Settle the score that a measurement follows: that of the map's own target, or of the one that the caller gives.

    A note is added where the logit differs from the one that the explanation records.
    """
    activation, was = engine.activation(answer), explanation.score if given is None else None
    score = make_score(
        target_from_text(explanation.target, activation is not None) if given is None else given,
        kind,
        answer,
        labels=engine.adapter.labels,
        activation=activation,
        make_scorer=lambda target: engine.scorer(target, answer, [explanation.region]),
        previous=was,
    )
    if None not in (was, score.logit, explanation.target):
        now, then = score.logit or 0.0, was or 0.0
        if abs(now - then) > _NOTED_CHANGE * max(abs(now), 1):
            notes.append(
                msg(
                    "evaluation.logit-changed",
                    "its logit was {then} when the map was made and is {now} now: a saved explanation keeps its photo "
                    "as JPEG ({@image} takes the photo itself)",
                    then=f"{then:.4g}",
                    now=f"{now:.4g}",
                )
            )
    return score


def map_maker(
    engine: Engine, explanation: Explanation, target: Target, picture: Picture, region: ImageRegion
) -> Callable[[Tensor], np.ndarray]:
    """Return a function from other pixels to their map, made as this one was."""
    record, method = explanation.provenance, METHODS.get(explanation.method)
    own = method.check({name: _value(value) for name, value in record.get("options", {}).items()})
    options = Options(
        method.name,
        target if "target" in method.requires else None,
        gradient_rule=record.get("gradient_rule", "plain"),
        refine=record.get("refine", "none"),
        size=record.get("size"),
        batch_size=record.get("batch_size", 8),
        seed=record.get("seed", 0),
    )
    request = Request(options, method, own)

    def make(pixels: Tensor) -> np.ndarray:
        (made,) = engine.explain_batch([Prepared(picture, pixels, region, options.size)], request, options.runs([0]))
        return explained(made)[0].map

    return make


def remade(engine: Engine, explanation: Explanation, image: ImageLike | None = None) -> tuple[np.ndarray, str]:
    """Make the map of an explanation again.

    Args:
        engine: the model that made it.
        explanation: what was saved.
        image: the image; None takes what was kept of it.

    Returns:
        The map, and which versions differ from those that made it, in words.

    Raises:
        UsageError: another model or size, or a target that cannot be made again from its words.
    """
    require_image(explanation)
    picture = photo_of(engine, explanation, image)
    pixels, region = pixels_of(engine, explanation, picture, [])
    target = target_from_text(explanation.target, engine.activation(engine.answer(pixels[None])) is not None)
    made = map_maker(engine, explanation, target, picture, region)(pixels)
    request = Request(Options(explanation.method), METHODS.get(explanation.method), {})
    now = engine.provenance(request, picture)["versions"]
    then = explanation.provenance.get("versions", {})
    return made, ", ".join(f"{name} {then[name]} then" for name in then if then[name] != now.get(name))


def _size(explanation: Explanation) -> int | None:
    """Return the input size that an explanation records; raise a UsageError where it is none, as in a forged file."""
    size: int | None = explanation.provenance.get("size")
    check_size(size)
    return size


def _value(option: Any) -> Any:
    """Return an option as it was given: the provenance keeps lists as text."""
    if isinstance(option, str) and option[:1] in ("[", "("):
        try:
            return ast.literal_eval(option)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return option  # which the method refuses
    return option
