"""The names of metrics, checked without numpy and torch."""

from collections.abc import Sequence
from typing import Any

from vitscope._messages import msg
from vitscope.errors import UnknownNameError, UsageError

FAITHFULNESS = ("deletion", "insertion", "aopc", "positive", "negative", "saco", "sensitivity-n", "infidelity")
REMAKING = ("stability", "sanity")  # they make the map again
SEVERAL = ("default", "all")


def check_metric_names(names: Sequence[Any]) -> None:
    """Check the names of metrics, or of several at once.

    Raises:
        UnknownNameError: a metric that does not exist.
        UsageError: no metric.
    """
    choices = (*SEVERAL, *FAITHFULNESS, *REMAKING)
    for name in names:
        UnknownNameError.check(msg("evaluation.metric", "metric"), name, choices)
    if not names:
        raise UsageError.coded(
            "evaluation.no-metric", "no metric is given", "choices: {choices}", choices=", ".join(choices)
        )
