"""The steps of the copied recipe as data, as arrays and as one self-contained HTML page without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from vitscope._catalogues import catalogue, translated
from vitscope._files import already_there, atomic_write, path_exists
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.errors import UsageError
from vitscope.explanation import Explanation
from vitscope.metrics.measurement import Measurement
from vitscope.metrics.ranking import spearman
from vitscope.render import raster
from vitscope.render.html import data_url, render_template
from vitscope.render.raster import Style
from vitscope.render.sheets import Cell, sheet

_LONGEST, _SMALL = 900, 110  # pixels of images and of the maps of single layers


@dataclass(frozen=True, eq=False)
class Walk:
    """One way to multiply the layers.

    Attributes:
        result: the map after all layers; its method is `rollout` or `notebook-recipe`.
        layers: the maps `(L, gh, gw)` after the first layer, after the first two, and so on.
        measurement: of the result beside random maps, where it was asked for.
    """

    result: Explanation
    layers: Float32[np.ndarray, "L gh gw"]
    measurement: Measurement | None = None

    @property
    def copied(self) -> bool:
        """Whether this is the copied recipe."""
        return self.result.method == "notebook-recipe"

    @property
    def spread(self) -> float:
        """The difference of the largest and the smallest patch, as a part of the largest."""
        values = self.result.map
        return float((values.max() - values.min()) / max(abs(values.max()), np.finfo(np.float32).tiny))

    def drawings(self) -> list[Image.Image]:
        """Draw the last steps: normalised, resized, blurred, laid over.

        The copied recipe works on 8 bits and the model's input; rollout is resized and blurred, by as much of the
        photo, on the photo itself.
        """
        e = self.result
        if self.copied:
            return raster.notebook_steps(e.map, e.region, e.photo.pixels)
        left, _, right, _ = e.region.window()
        blurred = Style.of(style="grey", norm="minmax", blur=raster.NOTEBOOK_BLUR * (right - left) / e.region.input[1])
        return [
            raster.grid(e.map, _grey()),
            raster.heat(e.map, e.region, _grey()),
            raster.heat(e.map, e.region, blurred),
            raster.overlay(e.map, e.region, e.photo.pixels, blurred),
        ]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Every step from one image to its map: as rollout is published, and as the copied recipe has it.

    Attributes:
        layer: the layer whose heads are shown.
        heads: its attention `(heads, N, N)`, from token (row) to token (column).
        pooled: how many tokens were averaged along each side of `heads`; 1 for up to 1024 tokens.
        walks: rollout, then the copied recipe; the latter alone where it was asked for as published.
        facts: about the model, in words.
    """

    layer: int
    heads: Float32[np.ndarray, "heads n m"]
    pooled: int
    walks: tuple[Walk, ...]
    facts: Mapping[str, str]

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation of both maps; None where there is one."""
        one, *more = (walk.result.map for walk in self.walks)
        return float(spearman(one, more[0])) if more else None

    def __repr__(self) -> str:
        methods = ", ".join(walk.result.method for walk in self.walks)
        picture = self.walks[-1].result.photo
        return f"<Recipe of {picture.name}: {methods}, {len(self.walks[-1].layers)} layers>"

    def sheet(self) -> Image.Image:
        """Draw every head of the layer on one sheet, coloured by the square root."""
        cells = [Cell(one, f"head {number}", f"at most {one.max():.2g}") for number, one in enumerate(self.heads)]
        return sheet(cells, f"layer {self.layer}: attention from token (down) to token (across)")

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the pieces by name: `heads`, and for each walk its `map` and the maps of its `layers`."""
        found = {"heads": self.heads}
        for walk in self.walks:
            name = "copied" if walk.copied else "rollout"
            found |= {f"{name}_map": walk.result.map, f"{name}_layers": walk.layers}
        return found

    def page(self, lang: str = "en") -> str:
        """Return the walk as one self-contained page in English (`en`) or Chinese (`zh`), without scripts."""
        result = self.walks[-1].result
        return render_template(
            "vitscope.evaluation",
            "recipe.html",
            t=catalogue(lang, "recipe-page"),
            lang={"zh": "zh-Hans"}.get(lang, lang),
            title=catalogue(lang, "recipe-page")["title_copied" if len(self.walks) == 1 else "title"].format(
                name=result.photo.name
            ),
            image=result.photo.name,
            model=result.provenance["model"],
            facts=self.facts,
            photo=_url(result.photo.pil()),
            predictions=result.prediction_texts(),
            layer=self.layer,
            heads=len(self.heads),
            side=self.heads.shape[1],
            pooled=self.pooled,
            sheet=data_url(self.sheet(), "PNG", optimize=True),
            walks=[_walk(walk, lang) for walk in self.walks],
            grid=result.layout.grid,
            input=result.region.input,
            options=self._options(),
            correlation=None if self.rank_correlation is None else f"{self.rank_correlation:.2f}",
            version=__version__,
        )

    def _options(self) -> dict[str, Any]:
        """Return the keywords of `Scope.recipe` that make these pieces, without defaults."""
        last, size = len(self.walks[-1].layers) - 1, self.walks[-1].result.provenance["size"]
        given = {"layer": self.layer if self.layer != last else None, "size": size}
        given["as_published"] = True if len(self.walks) == 1 else None
        return {name: value for name, value in given.items() if value is not None}

    def save(self, path: str | Path, *, lang: str = "en", force: bool = False) -> Path:
        """Write one file: `.html`, the page; or `.npz`, the arrays.

        Raises:
            UsageError: another ending.
            ResultError: something is already there, or it cannot be written.
        """
        path = Path(path)
        if (ending := path.suffix.lower()) not in (".html", ".npz"):
            raise UsageError(
                msg("evaluation.recipe-ending", "a recipe is saved as .html or .npz, not as '{path}'", path=path)
            )
        if path_exists(path) and not force:
            raise already_there(path)
        with atomic_write(path) as part:
            if ending == ".npz":
                np.savez(part, **self.arrays())  # type: ignore[arg-type]
            else:
                part.write_text(self.page(lang), "utf-8")
        return path


def _walk(walk: Walk, lang: str) -> dict[str, Any]:
    """Return one walk as the template has it."""
    e, m = walk.result, walk.measurement
    return {
        "copied": walk.copied,
        "layers": [data_url(_small(one), "PNG") for one in walk.layers],
        "numbers": _numbers(e.map),
        "spread": f"{walk.spread:.2g}" if walk.spread < 1e-3 else f"{walk.spread:.1%}",
        "drawings": [_url(image) for image in walk.drawings()],
        "remarks": [translated(remark, lang) for remark in e.remarks],
        "verdict": translated(m.sentence(), lang) if m else "",
        "better": bool(m and any(number.verdict == "better than random" for number in m.numbers)),
    }


def _numbers(values: Float[np.ndarray, "gh gw"]) -> Sequence[Sequence[tuple[str, int, bool]]]:
    """Return each value as text, its grey level, and whether its text must be white."""
    low, high = float(values.min()), float(values.max())
    span = (high - low) or 1.0
    rows: Sequence[Sequence[float]] = values.tolist()
    return [[(_digits(v), level := round(255 * (v - low) / span), level < 128) for v in row] for row in rows]


def _digits(value: float) -> str:
    """Return three digits of a number, without the zero before its point: the grid of a ViT-L/32 has twelve columns."""
    text = f"{value:.3g}"
    return text[1:] if text.startswith("0.") else text


@cache
def _grey() -> Style:
    return Style.of(style="grey", norm="minmax")  # asks matplotlib for its colours


def _small(values: Float[np.ndarray, "gh gw"]) -> Image.Image:
    image = raster.grid(values, _grey()).convert("L")
    image.thumbnail((_SMALL, _SMALL), Image.Resampling.NEAREST)
    return image


def _url(image: Image.Image) -> str:
    return data_url(image, longest=_LONGEST, quality=88)
