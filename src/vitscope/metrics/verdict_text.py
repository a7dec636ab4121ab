"""Verdicts as sentences for readers without statistics: they say what the numbers say, and no more."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from vitscope._messages import msg

Number: TypeAlias = Any  # of `metrics.measurement`, which imports this file

MARKS: Mapping[str, str] = {
    "better than random": "▲",
    "worse than random": "▼",
    "no better than random": "=",
    "undecided": "?",
    "as unlike as chance": "=",
    "more alike than chance": "!",
    "more opposite than chance": "!",
}
_SANITY: Mapping[str, str] = {
    "more alike than chance": msg("metrics.more-alike", "more alike than chance"),
    "as unlike as chance": msg("metrics.as-unlike", "as unlike as chance"),
    "more opposite than chance": msg("metrics.more-opposite", "more opposite than chance"),
}
_KINDS = (("deletion", "aopc", "positive"), ("insertion", "negative"), ("infidelity", "sensitivity-n", "saco"))
_HIDE, _SHOW, _PREDICT = range(3)
_SENTENCES: Mapping[tuple[int, str], Callable[[str, str], str]] = {
    (_HIDE, "better than random"): lambda how, count: msg(
        "metrics.hide-better",
        "Hiding what this map marks changes the model's answer {how} than hiding random patches ({count}).",
        how=how,
        count=count,
    ),
    (_HIDE, "worse than random"): lambda how, count: msg(
        "metrics.hide-worse",
        "Hiding what this map marks changes the model's answer {how} than hiding random patches ({count}).",
        how=how,
        count=count,
    ),
    (_HIDE, "no better than random"): lambda _how, count: msg(
        "metrics.hide-same",
        "Hiding what this map marks does not clearly change the model's answer more than hiding random patches "
        "({count}).",
        count=count,
    ),
    (_HIDE, "undecided"): lambda _how, count: msg(
        "metrics.hide-undecided",
        "Whether hiding what this map marks changes the model's answer more than hiding random patches: {count}.",
        count=count,
    ),
    (_SHOW, "better than random"): lambda how, count: msg(
        "metrics.show-better",
        "Shown alone, what this map marks keeps {how} of the model's answer than random patches ({count}).",
        how=how,
        count=count,
    ),
    (_SHOW, "worse than random"): lambda how, count: msg(
        "metrics.show-worse",
        "Shown alone, what this map marks keeps {how} of the model's answer than random patches ({count}).",
        how=how,
        count=count,
    ),
    (_SHOW, "no better than random"): lambda _how, count: msg(
        "metrics.show-same",
        "Shown alone, what this map marks does not clearly keep more of the model's answer than random patches "
        "({count}).",
        count=count,
    ),
    (_SHOW, "undecided"): lambda _how, count: msg(
        "metrics.show-undecided",
        "Whether what this map marks, shown alone, keeps more of the model's answer than random patches: {count}.",
        count=count,
    ),
    (_PREDICT, "better than random"): lambda how, count: msg(
        "metrics.predict-better",
        "This map's values are {how} than those of random maps at predicting how much hiding parts of the image "
        "changes the model's answer ({count}).",
        how=how,
        count=count,
    ),
    (_PREDICT, "worse than random"): lambda how, count: msg(
        "metrics.predict-worse",
        "This map's values are {how} than those of random maps at predicting how much hiding parts of the image "
        "changes the model's answer ({count}).",
        how=how,
        count=count,
    ),
    (_PREDICT, "no better than random"): lambda _how, count: msg(
        "metrics.predict-same",
        "This map's values are not clearly better than those of random maps at predicting how much hiding parts of the "
        "image changes the model's answer ({count}).",
        count=count,
    ),
    (_PREDICT, "undecided"): lambda _how, count: msg(
        "metrics.predict-undecided",
        "Whether this map's values are better than those of random maps at predicting how much hiding parts of the "
        "image changes the model's answer: {count}.",
        count=count,
    ),
}


def leading(numbers: Sequence[Number]) -> list[Number]:
    """Return the best number of each kind: what hiding does, what showing alone does, what the values predict."""
    by_name = {number.name: number for number in numbers}
    found = [[by_name[name] for name in names if name in by_name] for names in _KINDS]
    return [those[0] for those in found if those]


def number_text(number: Number) -> str:
    """Say in one sentence what a number of faithfulness means; empty for numbers of another group."""
    kind = next((kind for kind, names in enumerate(_KINDS) if number.name in names), None)
    if kind is None:
        return ""
    worse = number.verdict == "worse than random"
    if kind == _PREDICT and worse:
        how = msg("metrics.far-worse", "far worse") if number.far else msg("metrics.worse", "worse")
    elif kind == _PREDICT:
        how = msg("metrics.far-better", "far better") if number.far else msg("metrics.better", "better")
    elif worse:
        how = msg("metrics.far-less", "far less") if number.far else msg("metrics.less", "less")
    else:
        how = msg("metrics.far-more", "far more") if number.far else msg("metrics.more", "more")
    return _SENTENCES[kind, number.verdict](how, _count(number))


def _count(number: Number) -> str:
    """Say how many random maps the map is better or worse than, and what keeps a verdict from being given."""
    of = {"name": number.name, "draws": number.draws}
    if number.verdict == "worse than random":
        return msg("metrics.loses", "{name}: worse than {lost} of {draws} random maps", lost=number.lost, **of)
    if number.verdict != "undecided":
        return msg("metrics.beats", "{name}: better than {beaten} of {draws} random maps", beaten=number.beaten, **of)
    if not number.needed:
        return msg(
            "metrics.reached", "{name} cannot tell, as random maps reach the best possible value", name=number.name
        )
    return msg(
        "metrics.too-few-maps",
        "not enough random maps to tell ({name}: better than {beaten} of {draws}; it takes {needed} more at most)",
        beaten=number.beaten,
        needed=number.needed,
        **of,
    )


def sanity_text(verdict: str, correlation: float) -> str:
    """Say how the map changes when all weights are randomised."""
    return msg(
        "metrics.randomised",
        "With all weights drawn anew its map is {verdict} (rank correlation {value}).",
        verdict=_SANITY[verdict],
        value=f"{correlation:.2f}",
    )


def better_by(names: Sequence[str], count: int) -> str:
    """Say that a map is better than random maps by the named ones of `count` measures."""
    return msg(
        "metrics.better-by",
        "better than random maps by {number} of {count} measures ({names})",
        number=len(names),
        count=count,
        names=", ".join(names),
    )


def worse_by(names: Sequence[str], count: int) -> str:
    """Say that a map is worse than random maps by the named ones of `count` measures."""
    return msg(
        "metrics.worse-by",
        "worse than random maps by {number} of {count} measures ({names})",
        number=len(names),
        count=count,
        names=", ".join(names),
    )


def none_of(count: int) -> str:
    """Say that no measure tells a map from random maps."""
    return msg("metrics.none-of", "told from random maps by none of {count} measures", count=count)
