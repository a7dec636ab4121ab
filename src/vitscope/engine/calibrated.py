"""What `auto` does with a calibration: its choice where it answers the question, and a note where it does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from vitscope._messages import msg
from vitscope.engine.auto import MethodChoice, choose_method, question_of
from vitscope.engine.calibration import (
    Answer,
    Calibration,
    cached_calibration,
    read_calibration,
    require_own,
)
from vitscope.engine.options import Options
from vitscope.errors import ResultError, Support, UsageError
from vitscope.methods.base import METHODS, Method
from vitscope.models.base import ModelAdapter

Calibrated: TypeAlias = Calibration | Path | str | None
NONE = "none"  # given instead of a file: use no calibration


class CalibrationOfModel:
    """The calibration that `auto` follows for one model: one that was given, or the one in the cache.

    The cache is looked up once, when `auto` is first asked. A calibration is not used any more once the model's weights
    are no longer those that were measured.

    Args:
        adapter: the model.
        given: a file, a calibration, or `none` for not even the one in the cache; None looks into the cache.

    Raises:
        DamagedFileError: a file that is no calibration, or damaged.
        UsageError: a calibration of another model.
    """

    def __init__(self, adapter: ModelAdapter, given: Calibrated = None) -> None:
        self._found: Calibration | None = None
        self._looked, self._why_not = given is not None, ""
        if given is not None and given != NONE:
            self._found = given if isinstance(given, Calibration) else read_calibration(Path(given).expanduser())
            require_own(self._found, adapter, "" if isinstance(given, Calibration) else str(given))

    def of(self, adapter: ModelAdapter) -> Calibration | None:
        """Return the calibration, as long as the model is the one that was measured."""
        if not self._looked:
            self._looked = True
            try:
                self._found = cached_calibration(adapter)
            except (ResultError, UsageError) as error:
                self._why_not = msg(
                    "engine.calibration.damaged", "its calibration is not used: {reason}", reason=error.message
                )
        if self._found is not None and adapter.weights_changed and adapter.weights != self._found.weights:
            self._found = None
            self._why_not = msg(
                "engine.calibration.changed",
                "its calibration is not used: its weights were changed or moved since it was loaded",
            )
        return self._found

    def settle(
        self, adapter: ModelAdapter, options: Options, supports: Callable[[Method], Support], shipped: MethodChoice
    ) -> MethodChoice:
        """Return the choice of the calibration, or the one that vitscope ships with, and a note that says why."""
        if adapter.auto_options:
            return shipped
        found = self.of(adapter)
        if found is None:
            return replace(shipped, note=self._why_not or _NOT_CALIBRATED)
        answer = found.answers.get(question_of(adapter, options))
        if why_not := self._does_not_apply(answer, found, adapter, options, supports):
            note = msg("engine.calibration.not-used", "its calibration does not answer this: {reason}", reason=why_not)
            return replace(shipped, note=note)
        assert answer is not None
        assert answer.choice is not None
        size = found.options.get("size")
        note = msg(
            "engine.calibration.note",
            "calibrated on {date} at {size}: {reason}",
            date=found.made[:10],
            size=msg("engine.calibration.own-size", "its own input size")
            if size is None
            else msg("engine.calibration.size", "{size} px", size=size),
            reason=answer.reason,
        )
        if answer.outcome == "better":
            return answer.choice.choice(reason=note, calibration=_record(found, answer))
        return replace(shipped, note=note, calibration=_record(found, answer))

    def _does_not_apply(
        self,
        answer: Answer | None,
        found: Calibration,
        adapter: ModelAdapter,
        options: Options,
        supports: Callable[[Method], Support],
    ) -> str:
        """Return why the answer says nothing about what is asked now; empty where it does."""
        if answer is None:
            return msg("engine.calibration.not-asked", "it was not measured for a target")
        if answer.choice is None:
            return answer.reason
        if str(answer.default) != str(choose_method(adapter, replace(options, method_options={}), supports)):
            return msg(
                "engine.calibration.other-default",
                "vitscope {version}, which made it, compared with {default}",
                version=found.version,
                default=str(answer.default),
            )
        if answer.outcome != "better":
            return ""
        method = METHODS.get(answer.choice.method)
        why_not = supports(method).reason
        if foreign := [name for name in options.method_options if name not in method.options]:
            why_not = msg("engine.choice.no-option", "it has no option {option}", option=foreign[0])
        refused = {"method": str(answer.choice), "reason": why_not}
        return msg("engine.choice.not", "not {method}: {reason}", **refused) if why_not else ""


_NOT_CALIBRATED = msg("engine.calibration.none", "not calibrated for this model")


def _record(found: Calibration, answer: Answer) -> dict[str, Any]:
    """Return what the provenance of a map says of the calibration behind its method."""
    known = {"made": found.made, "vitscope": found.version, "weights": found.weights, "cases": answer.cases_text}
    return known | {"outcome": answer.outcome, "choice": str(answer.choice), "default": str(answer.default)}
