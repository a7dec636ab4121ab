"""`vitscope reproduce`: saved maps, made again and compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope._files import path_exists
from vitscope._messages import msg
from vitscope.cli import console
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.errors import UsageError, VitscopeError

if TYPE_CHECKING:
    from vitscope.explanation import Explanation
    from vitscope.scope import Scope

_ROUNDING = 1e-4  # of the largest value: other sums of the same numbers


def reproduce(
    folders: Annotated[list[str], typer.Argument(metavar="OUT...", help="Folders of results of `vitscope explain`.")],
    flags: opt.LoadFlags,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="MODEL", help="The model to load; needed unless the results name a bundled one."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="The image, where it is no longer where it was.")
    ] = None,
    as_json: opt.AsJson = False,
) -> int:
    """Make saved maps again, with the model and options that made them, and compare.

    What the results name is loaded only when you say so, but for a bundled model. The exit code is 1 where a map
    differs by more than rounding.
    """
    scopes: dict[str, Scope] = {}
    documents, failures = [], []
    for folder in _results(folders):
        try:
            documents.append(_again(folder, image, model, flags, scopes) | {"out": str(folder)})
        except VitscopeError as error:
            failures.append(console.failure_document(str(folder), error))
            console.print_error(error, str(folder))
    if as_json:
        console.print_json({"results": documents, "failures": failures})
    elif documents:
        rows = [
            (one["out"], one["method"], one["verdict"], f"{one['difference']:.1g}", one["versions"] or "the same")
            for one in documents
        ]
        console.print_table(["result", "method", "the map is", "difference", "versions"], rows)
        for one in documents:
            if one["note"]:
                console.print_line(f"{one['out']}: {one['note']}")
    return 1 if failures or any(not one["same"] for one in documents) else 0


def _results(folders: list[str]) -> list[Path]:
    """Return the folders of results, those below each folder included."""
    from vitscope._saved import MANIFEST

    found = [path.parent for folder in folders for path in sorted(Path(folder).rglob(MANIFEST))]
    if not found:
        raise UsageError(
            msg("cli.no-results", "there are no results of vitscope in {folders}", folders=", ".join(folders)),
            msg("cli.no-results.hint", "name a folder that `vitscope explain` wrote, such as out/photo"),
        )
    return found


def _again(
    folder: Path, image: str | None, model: str | None, flags: opt.LoadFlags, scopes: "dict[str, Scope]"
) -> dict[str, Any]:
    """Return how a saved map compares with the same map made now."""
    from vitscope.explanation import Explanation

    saved = Explanation.load(folder)
    record, note = saved.provenance, ""
    if missing := [name for name in ("model", "dtype") if name not in record]:
        raise UsageError(
            msg("cli.not-recorded", "the result does not record the {names} that made it", names=", ".join(missing)),
            msg("cli.not-recorded.hint", "explain the image anew"),
        )
    source = image or record.get("source")
    if source is None or not path_exists(Path(source)):
        note = "the image is not where it was: the map is made of the JPEG that was saved (--image names the image)"
        source = None
    chosen, options = results.recorded_model(record["model"], record.get("load", {}), model, flags)
    options["dtype"] = record["dtype"]
    key = f"{chosen} {options}"
    if key not in scopes:
        scopes[key] = opt.load(chosen, **options)
    return _compared(scopes[key], saved, source) | {"note": note}


def _compared(scope: "Scope", saved: "Explanation", source: str | None) -> dict[str, Any]:
    import numpy as np

    from vitscope.evaluation.remake import remade
    from vitscope.metrics.ranking import spearman

    made, versions = remade(scope.engine, saved, source)
    difference = float(np.abs(made - saved.map).max() / max(float(np.abs(saved.map).max()), np.finfo(np.float32).tiny))
    verdict = "another" if difference > _ROUNDING else "the same but for rounding" if difference else "the same"
    return {
        "method": opt.describe_map(saved.method, saved.target, {}),
        "verdict": verdict,
        "same": difference <= _ROUNDING,
        "difference": difference,
        "rank_correlation": float(spearman(made.astype(np.float64), saved.map.astype(np.float64))),
        "versions": versions,
    }
