"""Class names: a class by its number, its label or one of the names in its label, and never one of two."""

import re
from collections.abc import Callable, Mapping

from vitscope._messages import msg
from vitscope._numbers import whole_number
from vitscope.errors import UnknownNameError, UsageError

CONTRAST = " - "
_UNNAMED = re.compile(r"class (-?[0-9]+)", re.ASCII)
_SHARED = re.compile(r".* \(class ([0-9]+)\)", re.ASCII | re.DOTALL)


def class_number(target: int | str, labels: Mapping[int, str], classes: int) -> int:
    """Return the number of a class.

    Args:
        target: a number; or text, which is, in this order: a label, or one of the names in a label such as "tabby,
            tabby cat", first in the same case and then in any; `class 17` or `crane (class 517)`, as vitscope writes
            classes that no name tells apart; a number. A name that looks like a number is a name: of the folders 1, 10
            and 2, "10" is the second class and "class 2" the last one.
        labels: class names by number; several classes may share a name.
        classes: how many classes there are.

    Raises:
        UsageError: no class has that number, or several have that name.
        UnknownNameError: no class has that name; with the nearest spelling.
    """
    if not isinstance(target, str):
        return _in_range(int(target), classes)
    if found := _named(target, labels):
        return _in_range(_only(target, found, labels), classes)
    if (shared := _SHARED.fullmatch(target)) and class_name(int(shared[1]), labels) == target:
        return int(shared[1])
    unnamed = _UNNAMED.fullmatch(target)
    if (number := whole_number(unnamed[1] if unnamed else target)) is not None:
        return _in_range(number, classes)
    if not labels:
        raise UsageError(
            msg("methods.no-class-names", "the names of this model's {count} classes are not known", count=classes),
            msg("methods.no-class-names.hint", "give a number from 0 to {last}, or {@labels}", last=classes - 1),
        )
    raise UnknownNameError(
        msg("methods.class", "class"),
        target,
        labels.values(),
        [name for label in labels.values() for name in _names(label)],
    )


def contrast_numbers(target: str, labels: Mapping[int, str], classes: int) -> tuple[int, int] | None:
    """Return the two classes of "A - B", each as for `class_number`; None for text that is no contrast.

    Names may hold " - " themselves: the text is a contrast wherever both sides of it are classes.

    Raises:
        UsageError: it can be read in two ways, or a side of it is no class, or the same class as the other.
    """
    if CONTRAST not in target or _named(target, labels):
        return None
    cuts = [found.start() for found in re.finditer(f"(?={CONTRAST})", target)]
    sides = [(target[:cut].strip(), target[cut + len(CONTRAST) :].strip()) for cut in cuts]
    pairs, failure = set(), None
    for first, second in sides:
        try:
            pairs.add((class_number(first, labels, classes), class_number(second, labels, classes)))
        except UsageError as error:
            failure = failure or error
    if not pairs and failure is not None:
        raise failure
    if len(pairs) > 1:
        raise UsageError.coded(
            "methods.two-contrasts",
            "the contrast '{target}' can be read in {count} ways: {pairs}",
            "give the numbers of the two classes",
            target=target,
            count=len(pairs),
            pairs="; ".join(f"{first}{CONTRAST}{second}" for first, second in sorted(pairs)),
        )
    ((first_class, second_class),) = pairs
    if first_class == second_class:
        raise UsageError.coded(
            "methods.contrast-with-itself",
            "the target '{target}' is the contrast of a class with itself, which is 0 everywhere",
            target=target,
        )
    return first_class, second_class


def class_name(number: int, labels: Mapping[int, str]) -> str:
    """Return what a class is called, so that `class_number` finds it again: with its number where names are shared."""
    label = labels.get(number)
    if not label:
        return msg("methods.unnamed-class", "class {number}", number=number)
    if _named(label, labels) == [number]:
        return label
    return msg("methods.shared-name", "{label} (class {number})", label=label, number=number)


def _named(text: str, labels: Mapping[int, str]) -> list[int]:
    """Return the classes of that name: those that have it in the same case, else those that have it in any."""
    for fold in (str, str.casefold):
        if found := _matches(text, labels, fold):
            return found
    return []


def _matches(text: str, labels: Mapping[int, str], fold: Callable[[str], str]) -> list[int]:
    wanted = fold(text).strip()
    return [
        number
        for number, label in labels.items()
        if wanted in (whole := fold(label)) and (wanted == whole.strip() or wanted in _names(whole))
    ]


def _names(label: str) -> list[str]:
    """Return the names in a label such as "tabby, tabby cat"."""
    return [name for part in label.split(",") if (name := part.strip())]


def _only(target: str, found: list[int], labels: Mapping[int, str]) -> int:
    if len(found) == 1:
        return found[0]
    raise UsageError.coded(
        "methods.several-classes",
        "{count} classes are called '{target}': {classes}",
        "give the number of the one that you mean, such as {first}",
        count=len(found),
        target=target,
        classes="; ".join(f"{number} ({labels[number]})" for number in found),
        first=found[0],
    )


def _in_range(number: int, classes: int) -> int:
    if 0 <= number < classes:
        return number
    raise UsageError(
        msg("methods.no-such-class", "class {number} does not exist", number=number),
        msg("methods.no-such-class.hint", "classes are 0 to {last}", last=classes - 1),
    )
