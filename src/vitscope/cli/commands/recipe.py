"""`vitscope recipe`: the widely copied recipe, step by step beside rollout."""

from pathlib import Path
from typing import Annotated

import typer

from vitscope.cli import console
from vitscope.cli.commands import _checks as checks
from vitscope.cli.commands import _options as opt
from vitscope.cli.commands import _results as results
from vitscope.cli.commands._places import folder_or


def recipe(
    image: opt.SingleImage,
    model: opt.ModelChoice,
    layer: opt.Layer = -1,
    as_published: Annotated[bool, typer.Option("--as-published", help="The copied recipe alone.")] = False,
    size: opt.Size = None,
    measure: Annotated[bool, typer.Option(help="Measure how far both maps can be believed: up to 90 forwards.")] = True,
    seconds: opt.Seconds = None,
    seed: opt.Seed = 0,
    lang: Annotated[str, checks.one_of("en|zh", "Language of the page.", "language")] = "en",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|FILE",
            callback=folder_or(".html"),
            help="Folder for the page and its arrays; or the page itself: .html.",
        ),
    ] = Path("out"),
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Walk through the widely copied recipe on one page, each step beside attention rollout.

    It shows every head of a layer, the layers multiplied one by one, the numbers on the grid and how they become a
    picture, says where the copied recipe differs and why, and measures both maps. The arrays are in an .npz beside it.
    """
    model.check_image(image)
    named = out.suffix.lower() == ".html" and not out.is_dir()
    page = results.require_free(out if named else out / f"{Path(image).stem}-recipe.html", force)
    arrays = results.require_free(page.with_suffix(".npz"), force)
    scope = model.load()
    with console.image_progress(1) as progress:
        found = scope.recipe(
            image,
            layer=layer,
            size=size,
            as_published=as_published,
            measured=measure,
            seconds=seconds,
            seed=seed,
            progress=progress.update_forwards,
        )
    found.save(page, lang=lang, force=force)
    found.save(arrays, force=force)
    verdicts = {walk.result.method: walk.measurement.sentence(brief=True) for walk in found.walks if walk.measurement}
    document = {
        "arrays": str(arrays),
        "layer": found.layer,
        "rank_correlation": found.rank_correlation,
        "predictions": found.walks[-1].result.predictions,
        "maps": [
            {
                "method": walk.result.method,
                "spread": walk.spread,
                "remarks": walk.result.remarks,
                "measurement": walk.measurement.to_dict() if walk.measurement else None,
            }
            for walk in found.walks
        ],
    }
    results.print_result(page, as_json, document)
    if not as_json:
        for sentence in verdicts.values():
            console.print_line(console.in_flags(sentence))
