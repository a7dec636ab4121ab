"""Verdicts as sentences: how a map compares with random maps, by which measures, and how often chance does as well."""

from collections.abc import Mapping, Sequence

from vitscope._messages import join_messages, msg

_SANITY: Mapping[str, str] = {
    "more alike than chance": msg("metrics.more-alike", "more alike than chance"),
    "as unlike as chance": msg("metrics.as-unlike", "as unlike as chance"),
    "more opposite than chance": msg("metrics.more-opposite", "more opposite than chance"),
}


def faithfulness_text(names: Mapping[str, Sequence[str]], details: Sequence[str], outside: float) -> str:
    """Sum up the verdicts of all measures of faithfulness.

    Args:
        names: the measures with each verdict.
        details: added in brackets.
        outside: the share of random maps outside their interval, of which half lie beyond one end.
    """
    better, worse, same = (names[f"{how} than random"] for how in ("better", "worse", "no better"))
    undecided, count = names["undecided"], sum(map(len, names.values()))
    if not better and not worse:
        reached = [_reached(undecided)] if undecided else []
        return _with_details(none_of(count), [*details, *reached])
    parts = [
        _with_chance(say(found, count), outside / 2 * count / len(found), outside)
        for say, found in ((better_by, better), (worse_by, worse))
        if found
    ]
    if better and same:
        parts.append(
            msg("metrics.no-better-by", "no better by {number} ({names})", number=len(same), names=", ".join(same))
        )
    if undecided:
        parts.append(
            msg(
                "metrics.undecided-by",
                "undecided by {number} ({names}: random maps reach the best possible value)",
                number=len(undecided),
                names=", ".join(undecided),
            )
        )
    return _with_details(join_messages(", ", parts), details)


def sanity_text(verdict: str, correlation: float) -> str:
    """Say how the map changes when all weights are randomised."""
    return msg(
        "metrics.randomised",
        "with all weights drawn anew its map is {verdict} (rank correlation {value})",
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
    return msg("metrics.none-of", "no measure of {count} tells the map from random maps", count=count)


def _reached(names: Sequence[str]) -> str:
    return msg(
        "metrics.reached-by-random", "for {names} random maps reach the best possible value", names=", ".join(names)
    )


def _with_chance(finding: str, chance: float, outside: float) -> str:
    """Add how often chance alone finds as much, where that is more than the share of random maps outside."""
    if chance <= outside:
        return finding
    return msg(
        "metrics.by-chance",
        "{finding}, which chance alone gives to up to {share} of random maps",
        finding=finding,
        share=f"{min(1.0, chance):.0%}",
    )


def _with_details(finding: str, details: Sequence[str]) -> str:
    if not details:
        return finding
    return msg("metrics.details", "{finding} ({details})", finding=finding, details=join_messages("; ", details))
