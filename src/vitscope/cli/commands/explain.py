"""`vitscope explain`: overlay, heat map, arrays and manifest of each image."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vitscope._files import FILE_KINDS, already_there, is_file_name, path_exists
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._places import folder_or
from vitscope.cli.tables import TableFormat, print_table_as
from vitscope.errors import UsageError, VitscopeError

if TYPE_CHECKING:
    from vitscope.engine.options import Failure
    from vitscope.explanation import Activation, Explanation
    from vitscope.render.raster import StyleOptions
    from vitscope.scope import Scope

_HIDING = 30  # a patch this many times the mean hides the others of an overlay


@dataclass(frozen=True)
class OverlayStyle(opt.SheetStyle):
    """How the overlay of an image is drawn."""

    style_name: Annotated[
        str,
        typer.Option(
            "--style",
            metavar="color|grey|notebook",
            help="Kind of overlay; notebook: that of the widely copied recipe.",
        ),
    ] = "color"
    opacity: Annotated[float, typer.Option(metavar="0..1", help="Opacity of the hottest colour over the image.")] = 0.65
    blur: Annotated[
        float, typer.Option(metavar="PIXELS", help="Standard deviation of a Gaussian blur, in pixels of the image.")
    ] = 0.0
    blocks: Annotated[bool, typer.Option("--blocks", help="Draw flat patches instead of a smooth map.")] = False
    colorbar: Annotated[bool, typer.Option("--colorbar", help="Draw the colour scale beside the image.")] = False

    def style(self) -> "StyleOptions":
        """Return the drawing options, checked."""
        options = vars(self).copy()
        return opt.checked_style(style=options.pop("style_name"), smooth=not options.pop("blocks"), **options)


def explain(
    images: opt.Images,
    options: opt.MethodOptions,
    drawing: OverlayStyle,
    model: opt.ModelChoice,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            callback=checks.check_plain_methods,
            help="Methods, with commas (`vitscope methods` lists them). By default auto, which chooses one for the "
            "model, and for a classifier also a map of where it looks.",
        ),
    ] = "",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS",
            callback=checks.check_target,
            help=f"{opt.TARGET_HELP}; may be repeated, for a map of each.",
        ),
    ] = None,
    size: opt.Size = None,
    batch_size: opt.BatchSize = 8,
    seed: opt.Seed = 0,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|FILE",
            callback=folder_or(*FILE_KINDS),
            help="Folder for the results; or one file: .png, .jpg, .pdf, .svg (the overlay) or .npz (the arrays).",
        ),
    ] = Path("out"),
    force: opt.Force = False,
    format_: TableFormat = "text",
    as_json: opt.AsJson = False,
) -> int:
    """Explain images: write the overlay, heat map, arrays and manifest of each to OUT/NAME/.

    Of a classifier there are two maps of each, in OUT/NAME/where-it-looks/ and OUT/NAME/why-this-class/, where neither
    method nor target is given. With --method, results lie in OUT/NAME-METHOD/; with several targets, in a folder of
    each below it.
    """
    names = checks.split_names(method) or ("auto",)
    options.check(*names)
    keywords = {"size": size, "batch_size": batch_size, "seed": seed, **options.keywords()}
    found = _Found(force, None if drawing == OverlayStyle() else drawing.style())
    usable = [image for image in images if found.accepts(image, results.unusable(image))]
    several = len(names) * len(images) > 1 or len(target or []) > 1
    work = [
        (name, image, place)
        for name in names
        for image, place in zip(usable, _places(usable, out, name, several=several), strict=True)
        if found.accepts(
            image,
            results.swallows(place, usable) or (already_there(place) if path_exists(place) and not force else None),
        )
    ]
    if work:
        targets = [opt.parse_target(text) for text in target or []]
        keywords |= {"targets": targets} if len(targets) > 1 else {"target": next(iter(targets), None)}
        scope = model.load()
        if not (method or target or options.keywords()["method_options"] or is_file_name(out)):
            work = _both_questions(scope, work)
        with console.image_progress(len(work)) as progress:
            for name in dict.fromkeys(one for one, _, _ in work):
                part = [(image, place) for one, image, place in work if one == name]
                keywords |= {"method": name, "method_options": options.of(name, alone=len(names) == 1)}
                pictures = [image for image, _ in part]
                outcomes = scope.explain_many(pictures, progress=progress.update_forwards, **keywords)
                for (image, place), outcome in zip(part, outcomes, strict=True):
                    found.save(image, outcome, place)
                    progress.advance()
    for image, failure in found.failures:
        console.print_error(failure, image)
    if as_json:
        failed = [console.failure_document(image, failure) for image, failure in found.failures]
        console.print_json({"vitscope": __version__, "results": found.documents, "failures": failed})
    elif format_ != "text":
        names_of = ("image", "method", "target", "score", "out")
        rows = [[one[name] for name in names_of] + [*one["statistics"].values()] for one in found.documents]
        print_table_as(format_, [*names_of, *(found.documents[0]["statistics"] if found.documents else ())], rows)
    elif found.documents:
        _print(found.documents)
    return 1 if found.failures else 0


@dataclass
class _Found:
    """What became of each image: the documents of its results, or what went wrong."""

    force: bool
    style: "StyleOptions | None" = None
    documents: list[dict[str, Any]] = field(default_factory=list)
    failures: list[tuple[str, VitscopeError]] = field(default_factory=list)

    def accepts(self, image: str, problem: VitscopeError | None) -> bool:
        """Note a problem of an image; return whether there is none."""
        if problem is not None:
            self.failures.append((image, problem))
        return problem is None

    def save(self, image: str, outcome: "Explanation | list[Explanation] | Failure", place: Path) -> None:
        """Save the results of one image."""
        from vitscope.engine.options import Failure
        from vitscope.metrics.concentration import concentration

        try:
            if isinstance(outcome, Failure):
                raise outcome.error
            for one, to in _each(outcome, place):
                one.save(to, force=self.force, **(self.style or {}))
                document = one.manifest() | {"image": image, "out": str(to), "statistics": concentration(one)}
                document["norm"] = one.style(**(self.style or {})).norm
                self.documents.append(document)
        except VitscopeError as error:
            if (image, error.code) not in [(of, known.code) for of, known in self.failures]:  # told once for both maps
                self.failures.append((image, error))


def _both_questions(scope: "Scope", work: list[tuple[str, str, Path]]) -> list[tuple[str, str, Path]]:
    """Return the work on a classifier as two maps of each image: why this class, and where it looks."""
    from vitscope.engine.auto import looking_method, question_of
    from vitscope.engine.options import Options

    if question_of(scope.adapter, Options()) == "objects" or scope.adapter.auto_options:
        return work
    questions = {"why-this-class": "auto", "where-it-looks": looking_method(scope.engine.capabilities.method)}
    return [(method, image, place / name) for name, method in questions.items() for _, image, place in work]


def _places(images: list[str], out: Path, method: str, *, several: bool) -> list[Path]:
    """Return where the results of each image go: a folder of its own, or the one file that `--out` names."""
    if not is_file_name(out):
        return results.result_folders(images, out, "" if method == "auto" else f"-{method}")
    if several:
        raise _several(out)
    return [out for _ in images]


def _several(out: Path) -> UsageError:
    return UsageError(
        msg("cli.out-one-file", "{path} is one file, and there are several results", path=out),
        msg("cli.out-one-file.hint", "name a folder, such as -o {stem}", stem=out.stem),
    )


def _each(outcome: "Explanation | list[Explanation]", folder: Path) -> "list[tuple[Explanation, Path]]":
    """Return the results and their folders: FOLDER, or FOLDER/TARGET for each of several targets."""
    if not isinstance(outcome, list):
        return [(outcome, folder)]
    names = [re.sub(r"\W+", "-", e.target or "target").strip("-")[:60] or "target" for e in outcome]
    return [
        (e, folder / (name if names.count(name) == 1 else f"{name}-{i}"))
        for i, (e, name) in enumerate(zip(outcome, names, strict=True))
    ]


def _print(documents: list[dict[str, Any]]) -> None:
    """Print the table, and below it the remarks: those common to all results once, without a name."""
    headings = ["image", "method", "effective patches", "largest share", "prefix share", "out"]
    files = {document["image"]: document["name"] for document in documents}
    if len(set(files.values())) < len(files):  # cat.gif and cat.webp
        files = {image: Path(image).name for image in files}
    console.print_table(headings, [_row(document, files[document["image"]]) for document in documents])
    maps = Counter(document["image"] for document in documents)
    remarks = [_remarks(document, maps[document["image"]] > 1) for document in documents]
    common = [line for line in remarks[0] if len(files) > 1 and all(line in one for one in remarks)]
    lines = [
        f"{files[d['image']]}: {line}"
        for d, one in zip(documents, remarks, strict=True)
        for line in one
        if line not in common
    ]
    for line in dict.fromkeys([*lines, *(f"all: {line}" for line in common)]):
        console.print_line(line)


def _row(document: dict[str, Any], name: str) -> list[str]:
    """Return one row of the table."""
    numbers, (rows, columns) = document["statistics"], document["layout"]["grid"]
    return [
        name,
        opt.describe_map(document["method"], document["target"], document["provenance"]["options"]),
        f"{numbers['effective_patches']:.0f} of {rows * columns}",
        f"{numbers['largest_share']:.1%}",
        f"{numbers['prefix_share']:.1%}" if numbers["prefix_share"] else "-",  # a map of patches alone
        _shown_file(Path(document["out"])),
    ]


def _remarks(document: dict[str, Any], several: bool) -> list[str]:
    """Return the predictions, notes and caveat of one result, for below the table.

    Where it is one of several of an image, what is said of the map itself begins with its method.
    """
    from vitscope.explanation import prediction_text

    activation = cast("Activation | None", document["provenance"].get("activation"))
    shown = [(p["label"], p.get("probability", p.get("value"))) for p in document["predictions"]]
    predictions = [prediction_text(label, number, activation) for label, number in shown]
    kind = "values" if activation == "value" else f"top {len(predictions)}"
    kind += ", each by itself" if activation == "sigmoid" else ""
    remarks = [f"{kind}: {', '.join(predictions)}"] if predictions else []
    of = f"{document['method']}: " if several else ""
    notes = document["provenance"]["notes"]
    remarks += [f"{of}{note}" if getattr(note, "code", "").startswith("render.") else note for note in notes]
    if caveat := document["provenance"].get("caveat"):
        remarks.append(caveat)
    rows, columns = document["layout"]["grid"]
    times = document["statistics"]["largest_share"] * rows * columns
    if times > _HIDING and document["norm"] == "minmax":  # the other scales clip it
        remarks.append(f"{of}one patch holds {times:.0f} times the average and hides the others: try --norm robust")
    return [console.in_flags(remark) for remark in remarks]


def _shown_file(place: Path) -> str:
    """Return the file to look at: the overlay in a folder; of another medium the folder, which holds several."""
    overlay = place / "overlay.png"
    return str(overlay if overlay.exists() else place)
