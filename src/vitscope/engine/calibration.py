"""The calibration of a model: which method told the truth about it, as measured, and where that is kept.

`bench.calibrate` measures it. A calibration belongs to one model by the hash of its weights; it lies in the cache, or
in a file that the caller names, and `auto` takes its choice. It only names a model: nothing is loaded because of it.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from vitscope._documents import Count, Seconds, Share, damaged, document_bytes, json_bytes, parse_document, read_bytes
from vitscope._files import atomic_write
from vitscope._messages import Message, join_messages, msg
from vitscope.attention.gradient_rules import GradientRuleName
from vitscope.engine.auto import MethodChoice, Question
from vitscope.engine.options import OPTION_NAMES, Refinement
from vitscope.errors import UsageError
from vitscope.methods.base import METHODS
from vitscope.metrics.resampling import Difference, Estimate
from vitscope.models.base import ModelAdapter
from vitscope.models.bundled.wheel import cache_dir

SCHEMA = 1
_MOST_BYTES = 1 << 20
_IDENTIFYING = ("output", "processor", "multi_label", "region")  # options of `load` that a map depends on
Text = Annotated[str, Meta(max_length=4096)]
Plain: TypeAlias = bool | int | float | Text | None
Cases = Literal["planted", "images", "photos", "patterns", "digits"]
Outcome = Literal["better", "kept", "unfaithful", "unnamed", "ignored", "dense", "failed"]


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    """A part of a calibration, which has no other fields than these."""


class Setting(_Struct):
    """A method with all that is not at its default."""

    method: Text
    method_options: dict[Text, Plain] = {}
    gradient_rule: GradientRuleName = "plain"
    refine: Refinement = "none"

    def __str__(self) -> str:
        return str(self.choice())

    def choice(self, **more: Any) -> MethodChoice:
        """Return it as a choice of `auto`, with more of its fields."""
        return MethodChoice(self.method, self.method_options, self.gradient_rule, refine=self.refine, **more)


class Row(_Struct):
    """The numbers of one method over the cases of the report.

    Attributes:
        label: the method with its options, or the name of a baseline.
        numbers: each with its 95 % interval; `score` is what the choice follows.
        difference: its score less the default's on the same cases; None for the default.
        p: of that difference, corrected for the number of methods.
        faithfulness: its faithfulness less the default's on the same cases.
    """

    label: Text
    numbers: dict[Text, Estimate]
    difference: Difference | None = None
    p: Share | None = None
    faithfulness: Difference | None = None

    @property
    def intervals(self) -> list[Estimate | Difference]:
        """All numbers that have one."""
        found = [*self.numbers.values(), self.difference, self.faithfulness]
        return [number for number in found if number is not None]


class Answer(_Struct):
    """What was measured for one question.

    Attributes:
        outcome: `better`: `choice` was demonstrably better than the default. `kept`: nothing was. `unfaithful`: what
            was better was demonstrably less faithful, so that the default stays. Not answered: `unnamed` (no images
            that the model names with confidence), `ignored` (it hardly rests on the images that it names), `dense` (its
            scores are at many places), `failed` (no numbers).
        cases: what was asked: scenes with a planted object, grids of the caller's or the bundled photos or of patterns,
            scenes and grids of digits.
        images: of grids, the number of images that the model names with confidence.
        searched: the number of settings that were tried.
        tune: the number of cases of the search.
        report: the number of other cases, on which the rows were measured.
        default: what `auto` takes without a calibration.
        choice: what it takes with this one.
        rows: the finalists, the default and the baselines.
    """

    outcome: Outcome
    cases: Cases = "planted"
    images: Count = 0
    searched: Count = 0
    tune: Count = 0
    report: Count = 0
    default: Setting | None = None
    choice: Setting | None = None
    rows: Annotated[list[Row], Meta(max_length=1000)] = []

    @property
    def cases_text(self) -> Message:
        """What was asked, and how often."""
        counts = {"count": self.report, "images": self.images}
        return {
            "planted": msg("engine.calibration.planted", "{count} scenes with a planted object", **counts),
            "images": msg("engine.calibration.images", "{count} grids of {images} photos of yours", **counts),
            "photos": msg("engine.calibration.photos", "{count} grids of {images} sample photos", **counts),
            "patterns": msg("engine.calibration.patterns", "{count} grids of {images} digits and patterns", **counts),
            "digits": msg("engine.calibration.digits", "{count} questions about digits in scenes and grids", **counts),
        }[self.cases]

    @property
    def reason(self) -> Message:
        """Why this is the choice, or why there is none."""
        if self.outcome == "better":
            return msg(
                "engine.calibration.better",
                "its score is {score} on {cases}, {difference} more than that of {default}",
                score=_interval(self._row(self.choice).numbers["score"]),
                cases=self.cases_text,
                difference=_interval(self._row(self.choice).difference),
                default=str(self.default),
            )
        if self.outcome == "kept":
            return msg(
                "engine.calibration.kept",
                "the best of {count} settings were not demonstrably better than {default} on {cases}",
                count=self.searched,
                default=str(self.default),
                cases=self.cases_text,
            )
        return {
            "unfaithful": msg(
                "engine.calibration.unfaithful",
                "what pointed better than {default} was demonstrably less faithful to the model",
                default=str(self.default),
            ),
            "unnamed": msg(
                "engine.calibration.unnamed",
                "there are no four images, of two classes in each half of them, that it names with confidence",
            ),
            "ignored": msg(
                "engine.calibration.ignored",
                "in too few grids of images does its answer rest on the image that it names",
            ),
            "dense": msg("engine.calibration.dense", "its scores are at many places, and no case asks for one of them"),
            "failed": msg("engine.calibration.failed", "its default has no numbers on these cases"),
        }[self.outcome]

    def _row(self, setting: Setting | None) -> Row:
        return next(row for row in self.rows if row.label == str(setting))


class Calibration(_Struct):
    """What was measured of one model.

    Attributes:
        schema: of the file.
        made: when, in UTC.
        version: of vitscope.
        model: the model's reference, for people.
        weights: what identifies its weights, as in the provenance of a map.
        load: what the caller of `load` said that a map depends on.
        options: all else that the numbers depend on.
        seconds: how long it took.
        answers: for each question that `auto` has to answer.
    """

    schema: int
    made: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    version: Text
    model: Text
    weights: Text
    load: dict[Text, Plain]
    options: dict[Text, Plain]
    seconds: Seconds
    answers: dict[Question, Answer]

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return hashlib.sha256(json_bytes(msgspec.to_builtins(self))).hexdigest()[:16]


def identity(adapter: ModelAdapter) -> dict[str, Any]:
    """Return what a calibration belongs to: the weights, and what a caller said of the model's output and pixels."""
    said = {name: adapter.options.said[name] for name in _IDENTIFYING if name in adapter.options.said}
    no_classes = {"labels": "none"} if adapter.options.labels == {} else {}
    return {"weights": adapter.weights, "load": {**said, **no_classes}}


def calibration_path(adapter: ModelAdapter) -> Path:
    """Return where the calibration of a model lies in the cache."""
    digest = hashlib.sha256(json_bytes(identity(adapter))).hexdigest()
    return folder() / f"{_size(adapter)}-{digest[:32]}.json"


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration to a file; raise a ResultError where that is not possible."""
    with atomic_write(path) as part:
        part.write_bytes(document_bytes(msgspec.to_builtins(calibration)))


def read_calibration(path: Path) -> Calibration:
    """Read and check a calibration; its methods and their options must exist.

    Raises:
        DamagedFileError: missing, damaged, changed after it was written, or no calibration.
        ResultError: written by a vitscope with another schema.
    """
    found = parse_document(read_bytes(path, most=_MOST_BYTES), Calibration, path, SCHEMA)
    for name, answer in found.answers.items():
        try:
            for setting in (answer.default, answer.choice):
                if setting is not None:
                    METHODS.get(setting.method).check(setting.method_options, OPTION_NAMES)
            str(answer.reason)
            _require_intervals(answer)
        except (UsageError, StopIteration, KeyError) as error:
            reason = error.message if isinstance(error, UsageError) else _INCOMPLETE
            field = msg("documents.field", "field {field}: {reason}", field=f"answers.{name}", reason=reason)
            raise damaged(path, field) from error
    return found


def _require_intervals(answer: Answer) -> None:
    if not all(number.low <= number.high for row in answer.rows for number in row.intervals):
        raise UsageError(msg("engine.calibration.interval", "an interval ends before it begins"))


_INCOMPLETE = msg("engine.calibration.incomplete", "a number that its outcome needs is missing")


def _interval(number: Estimate | Difference | None) -> str:
    return "" if number is None else f"{number.value:.3f} [{number.low:.3f} {number.high:.3f}]"


def cached_calibration(adapter: ModelAdapter) -> Calibration | None:
    """Return the calibration in the cache; weights are hashed only where one of a model of that size is there."""
    if not any(folder().glob(f"{_size(adapter)}-*.json")):
        return None
    if not (path := calibration_path(adapter)).exists():
        return None
    found = read_calibration(path)
    require_own(found, adapter, str(path))
    return found


def require_own(calibration: Calibration, adapter: ModelAdapter, source: str = "") -> None:
    """Raise a UsageError where a calibration belongs to another model, or to another part of its output."""
    expected = identity(adapter)
    differing = [
        msg(
            "engine.calibration.differs",
            "{name} is {found}, and of {model} it is {expected}",
            name=name,
            found=str(getattr(calibration, name)),
            model=adapter.reference,
            expected=str(value),
        )
        for name, value in expected.items()
        if getattr(calibration, name) != value
    ]
    if differing:
        raise UsageError.coded(
            "engine.calibration.other-model",
            "the calibration {source} is of another model, {model}: {differing}",
            "calibrate this model, or leave {@calibration} out",
            source=source,
            model=calibration.model,
            differing=join_messages("; ", differing),
        )


def folder() -> Path:
    """Return the folder of all calibrations in the cache."""
    return cache_dir() / "calibrations"


def _size(adapter: ModelAdapter) -> int:
    return sum(parameter.numel() for parameter in adapter.model.parameters())
