"""`vitscope measure`: how far the map of each photo can be believed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._version import __version__
from vitscope.cli import console, report_text
from vitscope.cli.commands._masks import Masks
from vitscope.cli.commands._options import (
    DEFAULT_MODEL,
    AnyOption,
    AsJson,
    Device,
    DiscardRatio,
    Dtype,
    Force,
    GradientRule,
    Head,
    HeadFusion,
    Images,
    Layer,
    Layers,
    MaybeOut,
    Method,
    Model,
    Refine,
    ResidualWeight,
    Revision,
    Size,
    StartLayer,
    already_there,
    folders,
    load,
    method_options_of,
    target_of,
    write,
)
from vitscope.errors import ImageError, MissingDependencyError, UsageError, VitscopeError

if TYPE_CHECKING:
    from vitscope.explanation import Explanation
    from vitscope.metrics.attention_statistics import Statistics
    from vitscope.metrics.ground_truth import Known
    from vitscope.metrics.measurement import Measurement, Number
    from vitscope.scope import Scope

__all__ = ["measure"]

_FILES = ("measure.json", "measure.parquet", "curves.png", "statistics.json", "by-depth.png", "localisation.json")
_SHARE_OF_CHANCE = 0.025
_WORTH_SAYING = 0.0005  # else it reads 0.0%


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is measured, and how."""

    explain: dict[str, Any]
    measure: dict[str, Any]
    target: Any
    masks: "Masks | None"


@dataclass(frozen=True, eq=False)
class _Result:
    """One photo, measured."""

    explanation: "Explanation"
    attention: "Statistics"
    measurement: "Measurement"
    known: "Known | None" = None
    files: list[str] = field(default_factory=list)


def measure(
    images: Images,
    model: Model = DEFAULT_MODEL,
    method: Method = "auto",
    target: Annotated[
        str | None, typer.Option(help="What is scored: class (number, name, 'a - b'), text:WORDS or image:IMAGE.")
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="default, all (also stability and sanity: the map is made again), or names: a,b.")
    ] = "default",
    baseline: Annotated[str, typer.Option(help="What replaces a patch: mean, blur, black, zero or removal.")] = "mean",
    score: Annotated[str, typer.Option(help="Of a class: probability or logit.")] = "probability",
    n_random_maps: Annotated[int, typer.Option(help="Random maps that the model is run for.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of the deletion and insertion curves.")] = 20,
    seed: Annotated[int, typer.Option(help="Draws random maps and sets of patches.")] = 0,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of object masks named like the photos: also how well maps find them.")
    ] = None,
    gradient_rule: GradientRule = "plain",
    refine: Refine = "none",
    layers: Layers = None,
    start_layer: StartLayer = None,
    layer: Layer = None,
    head: Head = None,
    residual_weight: ResidualWeight = None,
    head_fusion: HeadFusion = None,
    discard_ratio: DiscardRatio = None,
    option: AnyOption = None,
    size: Size = None,
    batch_size: Annotated[int, typer.Option(help="Pictures that go through the model together.")] = 8,
    out: MaybeOut = None,
    force: Force = False,
    as_json: AsJson = False,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
) -> int:
    """How far to believe the map of each photo: its numbers, random maps' beside them, one sentence.

    Patches are replaced and the model is run again, some 400 times: with --size 224 it takes a fifth of the time.
    """
    from vitscope.evaluation.evaluate import asked

    names = asked(metrics if "," not in metrics else [name.strip() for name in metrics.split(",")], baseline, score)
    named = {
        "layers": layers,
        "start_layer": start_layer,
        "layer": layer,
        "residual_weight": residual_weight,
        "discard_ratio": discard_ratio,
    }
    method_options = method_options_of(option, **named, head=head, head_fusion=head_fusion)
    made = {"method": method, "gradient_rule": gradient_rule, "refine": refine, "size": size, "batch_size": batch_size}
    wanted = {"metrics": names, "baseline": baseline, "score": score, "n_random_maps": n_random_maps, "steps": steps}
    wanted |= {"seed": seed, "batch_size": batch_size}
    goal, objects = target_of(target) if target else None, Masks(masks) if masks else None
    scope = load(model, revision, device, dtype)
    what = _Asked(made | {"seed": seed, "method_options": method_options}, wanted, goal, objects)
    places = folders(images, out) if out else [None] * len(images)
    found: dict[str, Any] = {"results": [], "failures": []}
    verdicts: list[list[Number]] = []
    with console.explaining(len(images), "measuring") as advance:
        for image, place in zip(images, places, strict=True):
            try:
                if place is not None:
                    _free(place, force)
                result = _measured(scope, image, what, advance.forwards)
                if place is not None:
                    _write(result, place, force)
            except UsageError:
                raise
            except VitscopeError as error:
                console.trouble(error, image)
                found["failures"].append({"source": image, "error": error.message, "hint": error.hint})
            else:
                verdicts.append(_numbers(result))
                if as_json:
                    found["results"].append(_document(result))
                else:
                    with advance.aside():
                        _screen(result, more=len(verdicts) > 1)
            advance()
    if as_json:
        console.print_json({"vitscope": __version__, **found, "summary": _counts(verdicts)})
    elif len(verdicts) > 1:
        console.out.print()
        report_text.prose("", _summary(verdicts))
    return 1 if found["failures"] else 0


def _measured(scope: "Scope", image: str, what: _Asked, tick: Any) -> _Result:
    """The map of one photo, its attention in numbers, and what the score says to it."""
    from vitscope.images import load_image
    from vitscope.methods.base import METHODS
    from vitscope.metrics.ground_truth import against_mask

    picture = load_image(image)
    mask = what.masks.of(image, picture.size) if what.masks else None
    name = what.explain["method"]
    of = METHODS.get(scope.recommend(target=what.target, **what.explain).method if name == "auto" else name)
    target = what.target if "target" in of.requires else None  # else the map is of no target; the score is
    e = scope.explain(picture, target=target, progress=tick, **what.explain)
    measurement = scope.measure(e, target=what.target, progress=tick, **what.measure)
    known = None
    if mask is not None:
        try:
            known = against_mask(e, mask, what.measure["seed"])
        except UsageError as error:  # the object is outside what the model saw
            raise ImageError(error.message, error.hint) from None
    return _Result(e, scope.statistics(picture, size=what.explain["size"]), measurement, known)


def _numbers(result: _Result) -> "list[Number]":
    return [*result.measurement.numbers, *(result.known.numbers if result.known else ())]


def _free(place: Path, force: bool) -> None:
    """Nothing that would be written is there yet, or it may be replaced."""
    from vitscope._files import path_exists

    for name in _FILES:
        if path_exists(place / name) and not force:
            raise already_there(place / name)


def _write(result: _Result, place: Path, force: bool) -> None:
    """Numbers and plots; files of other commands in the folder stay as they are."""
    from vitscope.metrics.table_files import write_table

    numbers = {n.name for n in result.measurement.numbers}
    try:
        result.files.append(str(result.measurement.save(place / "measure.json", force=force)))
        result.files.append(str(result.measurement.save(place / "measure.parquet", force=force)))
    except MissingDependencyError as error:
        console.trouble(error, str(place / "measure.parquet"))
    result.files.append(str(result.attention.save(place / "statistics.json", force=force)))
    if result.known is not None:
        path = place / "localisation.json"
        result.files.append(str(write_table(path, "numbers", result.known.to_dict(), (), force=force)))
    pictures = [("by-depth.png", result.attention.plot())]
    if numbers & {"deletion", "insertion"}:
        pictures.append(("curves.png", result.measurement.plot()))
    for name, picture in pictures:
        write(picture, place / name)
        result.files.append(str(place / name))


def _screen(result: _Result, more: bool) -> None:
    """Everything about one photo; with the default metrics some 25 lines of 80 letters."""
    from vitscope.metrics.concentration import concentration

    e, m, told = result.explanation, result.measurement, concentration(result.explanation)
    rows, columns = e.layout.grid
    if more:
        console.out.print()
    of = f" of {e.target}" if e.target else ""
    seen = " x ".join(map(str, reversed(e.region.input)))
    report_text.heading(f"{_name(e)}: {e.method}{of}{_options(e)}, {seen} pixels, {m.model}")
    spread = f"as broad as {told['effective_patches']:.0f} even ones of {rows * columns} patches"
    prefix = f", prefix tokens {told['prefix_share']:.1%}" if told["prefix_share"] >= _WORTH_SAYING else ""
    report_text.prose("map", f"{spread}; the largest holds {told['largest_share']:.1%}{prefix}")
    report_text.attention_lines(result.attention)
    empty = "" if m.empty is None else f", {report_text.figure(m.empty)} with every patch replaced ({m.baseline})"
    report_text.prose("score", f"{m.score}: {report_text.figure(m.whole)} for the whole picture{empty}")
    draws = sorted({n.draws for n in m.numbers if n.group == "faithfulness"})
    if draws:
        often = " or ".join(map(str, dict.fromkeys((draws[0], draws[-1]))))
        report_text.prose("random", f"the map's values in other places, drawn {often} times (seed {m.options['seed']})")
    report_text.measured(m)
    if result.known is not None:
        report_text.known(result.known)
    for note in [e.caveat, *m.notes]:
        if note:
            report_text.prose("note", note)
    if result.files:
        report_text.prose(
            "written", ", ".join(Path(name).name for name in result.files) + f" in {Path(result.files[0]).parent}"
        )


def _name(e: "Explanation") -> str:
    assert e.picture is not None
    return e.picture.name


def _options(e: "Explanation") -> str:
    """Of the method's options those that are not its defaults."""
    from vitscope.methods.base import METHODS

    usual = {name: option.default for name, option in METHODS.get(e.method).options.items()}
    given = e.provenance["options"].items()
    options = ", ".join(f"{k} {v}" for k, v in given if v is not None and v != usual.get(k))
    return f" ({options})" if options else ""


def _document(result: _Result) -> dict[str, Any]:
    from vitscope.metrics.concentration import concentration

    e = result.explanation
    return {
        **e.manifest(),
        "statistics": concentration(e),
        "attention": report_text.attention_facts(result.attention),
        "measurement": result.measurement.to_dict(),
        "localisation": result.known.to_dict() if result.known else None,
        "files": result.files,
    }


def _counts(measurements: "list[list[Number]]") -> dict[str, Any]:
    """For each number, how many photos had which verdict."""
    counts: dict[str, dict[str, int]] = {}
    for number in (n for numbers in measurements for n in numbers):
        of = counts.setdefault(number.name, {})
        of[number.verdict] = of.get(number.verdict, 0) + 1
    return {"photos": len(measurements), "verdicts": counts}


def _summary(measurements: "list[list[Number]]") -> str:
    """How many photos are better than random by which number, and no more than that."""
    photos, counts = len(measurements), _counts(measurements)["verdicts"]
    of = {n.name for numbers in measurements for n in numbers if n.group != "sanity"}
    parts = []
    for words in ("better than random", "worse than random", "undecided"):
        told = [f"{name} {c[words]}" for name, c in counts.items() if words in c and name in of]
        parts += [f"{words}: {', '.join(told)}"] if told else []
    said = "; ".join(parts) or "no number tells a map from random maps"
    return (
        f"Of {photos} photos {said}. By chance each number is better for {_SHARE_OF_CHANCE * photos:.2g} of {photos}."
    )
