"""What the interactive viewer shows of one photo: maps, attention, numbers. `Scope.view` is this module's entry."""

import base64
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from vitscope._catalogues import page_messages
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.attention import AttentionStore, vecmat, vecmat_heads
from vitscope.engine.engine import Engine
from vitscope.engine.inspection import compare, statistics
from vitscope.engine.options import Options, Progress
from vitscope.engine.runner import Prepared
from vitscope.errors import MethodError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion
from vitscope.images import ImageLike, Picture, load_image
from vitscope.methods.targets import Target, format_target
from vitscope.viewer.attention_payload import shipped, why_not, without
from vitscope.viewer.live import Live
from vitscope.viewer.map_entries import entry_of, finite
from vitscope.viewer.map_metrics import measured_maps
from vitscope.viewer.packed import Packed, scaled
from vitscope.viewer.page import page
from vitscope.viewer.widget import framed, widget

__all__ = ["CLASSES", "METHODS_SHOWN", "View", "view"]

SCHEMA = 1
METHODS_SHOWN = ("auto", "attention", "rollout", "relevance", "random")
CLASSES = "gradcam"  # the method that tells classes apart best, where it applies
_PHOTO, _SEEN = (1600, 86), (1024, 84)  # longest side in pixels, JPEG quality
MAX_MB, _SURE = 10.0, 0.98  # what fits into this share of a size is not made coarser for it
_ROOM = 190_000  # bytes of a page besides arrays, photos and what is said of maps: the viewer above all


@dataclass(frozen=True)
class View:
    """What the viewer shows.

    Attributes:
        header: plain values, ready for JSON; `docs/viewer.md` describes them.
        arrays: packed arrays by name.
        other: a second photo, to compare: its maps, without rows of attention.
        live: the model that made it, for hosts in this process.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, Packed] = field(repr=False)
    other: "View | None" = None
    live: Live | None = field(default=None, repr=False, compare=False)

    def document(self) -> dict[str, Any]:
        """The whole, ready for JSON."""
        arrays = {name: one.document() for name, one in self.arrays.items()}
        other = {} if self.other is None else {"other": self.other.document()}
        return {"header": dict(self.header), "messages": page_messages(self.header), "arrays": arrays, **other}

    def widget(self) -> Any:
        """The viewer in a notebook, answered by this kernel: hide patches and see the new predictions.

        Raises:
            MissingDependencyError: anywidget is not installed.
        """
        answers = self.live.answers() if self.live else {}
        fallback = self.live.card(self.header, self.arrays) if self.live else ""
        return widget(self.document(), answers, fallback)

    def _repr_html_(self) -> str:
        """The page in a frame that can reach nothing, for notebooks without widgets."""
        return framed(page(self.document()))

    @property
    def nbytes(self) -> int:
        """About how many bytes of a page the arrays and the photos are."""
        photos = sum(len(url) for url in self.header["images"].values())
        own = sum(one.nbytes for one in self.arrays.values()) + photos
        return own + (self.other.nbytes if self.other is not None else 0)


def view(
    engine: Engine,
    image: ImageLike,
    *,
    other: ImageLike | None = None,
    methods: Sequence[str] = METHODS_SHOWN,
    target: Target = None,
    top: int = 5,
    size: int | None = None,
    measure: bool = True,
    max_mb: float | int = MAX_MB,
    seed: int = 0,
    seconds: float | int | None = None,
    progress: Progress | None = None,
) -> View:
    """Make what the viewer shows of one photo; see `Scope.view`."""
    picture = load_image(image)
    second = None if other is None else load_image(other)
    photos = (picture.source,) if second is None else (picture.source, second.source)
    asked = _Asked(tuple(methods), target, top, size, measure, seed, seconds, progress, photos, max_mb)
    live = Live(engine, picture, size, target)
    if other is None or second is None:
        return replace(_one(engine, picture, asked, [], max_mb), live=live)
    own, others = compare(engine, image, other, {"size": size, "seed": seed}, progress)
    beside = _one(engine, second, asked, [others], 0.0)
    made = _one(engine, picture, asked, [own], max_mb - beside.nbytes / 1e6)
    return View(made.header, made.arrays, beside, live)


@dataclass(frozen=True)
class _Asked:
    """What was asked of a view, for each of its photos."""

    methods: tuple[str, ...]
    target: Target
    top: int
    size: int | None
    measure: bool
    seed: int
    seconds: float | int | None
    progress: Progress | None
    photos: tuple[str, ...]
    max_mb: float | int

    def options(self, method: str) -> Options:
        return Options(method, self.target, size=self.size, seed=self.seed)

    def command(self, model: str, small: bool) -> str:
        """The command line that makes the page again; what is as usual, or changes nothing in it, is left out.

        Args:
            model: its reference.
            small: the page fits into the usual size with all its layers, as exact as rows ever are.
        """
        words = ["vitscope", "view", *self.photos, "--model", model]
        options: dict[str, tuple[Any, Any]] = {
            "--methods": (",".join(self.methods), ",".join(METHODS_SHOWN)),
            "--target": (format_target(self.target), None),
            "--top": (self.top, 5),
            "--size": (self.size, None),
            "--max-mb": (MAX_MB if small and self.max_mb > MAX_MB else self.max_mb, MAX_MB),
            "--seed": (self.seed, 0),
        }
        for option, (value, usual) in options.items():
            if value != usual:
                words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return shlex.join(words if self.measure else [*words, "--no-measure"])


def _one(engine: Engine, picture: Picture, asked: _Asked, more: Sequence[Explanation], max_mb: float | int) -> View:
    """One photo; `max_mb` of 0 leaves rows of attention out."""
    ready = engine.prepare(picture, size=asked.size)
    region, store = ready.region, engine.forward(ready.pixels[None]).store
    assert store.layout is not None
    assert store.answer is not None
    predictions = engine.predictions(store.answer)[: asked.top]
    missing: list[dict[str, str]] = []
    maps, arrays = _maps(engine, ready, [label for label, _ in predictions], asked, more, missing)
    images = {"photo": _jpeg(picture.pil(), *_PHOTO), "seen": _jpeg(_seen(picture, region), *_SEEN)}
    reason = why_not(store)
    scales, readouts = _readouts(store) if store.chain is None else ([], {})
    arrays |= readouts
    numbers = finite(_statistics(engine, picture, asked))
    used = sum(one.nbytes for one in arrays.values()) + sum(map(len, images.values()))
    used += len(json.dumps([finite(maps), numbers])) + _ROOM
    sent = shipped(store, max_mb * 1e6 - used) if max_mb else without(store)
    arrays |= sent.arrays
    used += sum(one.nbytes for one in sent.arrays.values())
    if reason:
        missing.append({"what": msg("viewer.queries", "queries"), "why": reason})
    elif sent.dropped:
        why = msg(
            "viewer.layers-left-out",
            "layers {span} do not fit into {most} MB",
            span=_span(sent.dropped),
            most=f"{max_mb:.3g}",
        )
        missing.append({"what": msg("viewer.layers", "layers"), "why": why})
    header = {
        "schema": SCHEMA,
        "kind": "view",
        "vitscope": __version__,
        "model": {
            "reference": engine.adapter.reference,
            "adapter": engine.adapter.name,
            "weights": engine.adapter.weights,
        },
        "photo": {"name": picture.name, "source": picture.source, "notes": list(picture.notes)},
        "images": images,
        "region": asdict(region),
        "layout": asdict(store.layout),
        "layers": sent.layers,
        "attention": {"why": reason, "error": sent.error, "heads_scale": scales, "max_mb": max_mb},
        "maps": maps,
        "predictions": [[label, p] for label, p in predictions],
        "statistics": numbers,
        "missing": missing,
        "seed": asked.seed,
        "size": asked.size,
        "command": asked.command(engine.adapter.reference, used <= _SURE * (MAX_MB - asked.max_mb + max_mb) * 1e6),
    }
    return View(finite(header), arrays)


def _maps(
    engine: Engine,
    image: Prepared,
    labels: list[str],
    asked: _Asked,
    more: Sequence[Explanation],
    missing: list[dict[str, str]],
) -> tuple[list[dict[str, Any]], dict[str, Packed]]:
    """All maps: of methods, of predicted classes, and more; each measured where it was asked for."""
    explained = _explained(engine, image, asked, missing)
    explained += _classes(engine, image, labels, asked, missing)
    measurement = msg("viewer.measurement", "measurement")
    measured: dict[int, Any] = {}
    if asked.measure:
        measured = measured_maps(engine, [e for e, _ in explained], asked.seed, asked.progress, asked.seconds)
    if not asked.measure:
        missing.append({"what": measurement, "why": msg("viewer.not-measured", "measuring was switched off")})
    elif len(measured) < len(explained):
        why = msg(
            "viewer.measured-some",
            "{seconds} seconds were enough for {done} of {total} maps",
            seconds=f"{asked.seconds or 0:g}",
            done=len(measured),
            total=len(explained),
        )
        missing.append({"what": measurement, "why": why})
    explained += [(one, None) for one in more]
    maps: list[dict[str, Any]] = []
    arrays: dict[str, Packed] = {}
    for number, (explanation, label) in enumerate(explained):
        name = f"{number}-{explanation.method}"
        measurement, steps = measured.get(number, (None, []))
        entry, packed = entry_of(engine, explanation, measurement, name=name, label=label)
        maps.append(entry | {"steps": steps, "alike": any(explanation is one for one in more)})
        arrays |= packed
    return maps, arrays


def _statistics(engine: Engine, picture: Picture, asked: _Asked) -> dict[str, Any]:
    """Attention in numbers, without those of each token."""
    numbers = statistics(engine, picture, size=asked.size).to_dict()
    for layer in numbers["layers"]:
        layer.pop("received"), layer.pop("norms")
    return numbers


def _explained(
    engine: Engine, image: Prepared, asked: _Asked, missing: list[dict[str, str]]
) -> list[tuple[Explanation, str | None]]:
    """Make one map with each method; skip a default one that does not apply, refuse one asked for by name."""
    made: list[tuple[Explanation, str | None]] = []
    for name in asked.methods:
        try:
            (found,) = engine.explain(image, asked.options(name), asked.progress)
        except MethodError as error:
            if asked.methods != METHODS_SHOWN:
                raise
            missing.append({"what": name, "why": error.message})
            continue
        if not any(_same(found, other) for other, _ in made):
            made.append((found, None))
    return made


def _same(one: Explanation, other: Explanation) -> bool:
    return one.method == other.method and one.provenance["options"] == other.provenance["options"]


def _classes(
    engine: Engine, image: Prepared, labels: list[str], asked: _Asked, missing: list[dict[str, str]]
) -> list[tuple[Explanation, str | None]]:
    """Make a map of each predicted class."""
    for name in (CLASSES, "relevance") if labels else ():
        try:
            made = engine.explain(image, replace(asked.options(name), target=None, targets=labels), asked.progress)
            return list(zip(made, labels, strict=True))
        except VitscopeError as error:
            missing.append({"what": msg("viewer.by-class", "{method} by class", method=name), "why": error.message})
    return []


def _readouts(store: AttentionStore) -> tuple[list[float], dict[str, Packed]]:
    """What the readout attends to, in each layer and head, `(H, N)` for each layer; the readout itself; its pooling."""
    scales, arrays = [], {"readout": Packed.of(store.readout_weights()[0].float().cpu().numpy())}
    with torch.no_grad():
        for number, block in enumerate(store):
            values, scale = scaled(vecmat_heads(block, store.readout_weights())[0].float().cpu().numpy())
            arrays[f"heads.{number}"] = Packed.of(values)
            scales.append(scale)
        if store.pool is not None:
            queries = torch.eye(store.pool.shape[2], device=store.pool.device)
            arrays["pool"] = Packed.of(vecmat(store.pool, queries).float().cpu().numpy())
    return scales, arrays


def _seen(picture: Picture, region: ImageRegion) -> Image.Image:
    """The photo as the model saw it: its box, at the size of its input, black where the model was given padding."""
    height, width = region.input
    corners = (region.box[0], region.box[1], region.box[2], region.box[3])
    return picture.pil().transform((width, height), Image.Transform.EXTENT, corners, Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image, longest: int, quality: int) -> str:
    small = image.copy()
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
