"""The viewer's document of one image: maps, attention and numbers, by `Scope.view`."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

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
from vitscope.images import ImageLike, Picture, reusable
from vitscope.methods.places import QueryTarget, RegionTarget
from vitscope.methods.targets import Target, format_target
from vitscope.viewer.attention_payload import pack_attention, supports_rows, without_rows
from vitscope.viewer.document import SCHEMA, image_urls, json_safe
from vitscope.viewer.live import LiveModel
from vitscope.viewer.map_entries import full_entry
from vitscope.viewer.map_metrics import measure_maps
from vitscope.viewer.packed import Packed, scaled
from vitscope.viewer.page import page
from vitscope.viewer.widget import iframe, widget

DEFAULT_METHODS = ("auto", "attention", "rollout", "relevance", "random")
CLASS_METHOD = "gradcam"  # the method that tells classes apart best, where it applies
MAX_MB, _SURE = 10.0, 0.98  # what fits into this share of a size is not made coarser for it
_ROOM = 190_000  # bytes of a page besides arrays, photos and what is said of maps: the viewer above all


@dataclass(frozen=True)
class View:
    """What the viewer shows of an image.

    Attributes:
        header: plain values, ready for JSON; `docs/viewer.md` describes them.
        arrays: packed arrays by name.
        other: a second photo, seen from the same page; both share the size of the page.
        live: the model that made it, for hosts in this process.
    """

    header: Mapping[str, Any]
    arrays: Mapping[str, Packed] = field(repr=False)
    other: "View | None" = None
    live: LiveModel | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        name, maps, layers = self.header["photo"]["name"], len(self.header["maps"]), len(self.header["layers"])
        return f"<View {name}: {maps} maps, {layers} layers, {self.nbytes / 1e6:.1f} MB>"

    def document(self) -> dict[str, Any]:
        """Return the whole document, ready for JSON."""
        arrays = {name: one.document() for name, one in self.arrays.items()}
        other = {} if self.other is None else {"other": self.other.document()}
        return {"header": dict(self.header), "messages": page_messages(self.header), "arrays": arrays, **other}

    def widget(self) -> Any:
        """Return the viewer as a notebook widget; this kernel answers it (new predictions, more maps).

        Raises:
            MissingDependencyError: anywidget is not installed.
        """
        handlers = self.live.handlers() if self.live else {}
        fallback = self.live.card(self.header, self.arrays) if self.live else ""
        return widget(self.document(), handlers, fallback)

    def _repr_html_(self) -> str:
        """Return the page in a frame that can reach nothing, for notebooks without widgets."""
        return iframe(page(self.document()))

    @property
    def nbytes(self) -> int:
        """Approximate bytes of a page that arrays and images take."""
        photos = sum(len(url) for url in self.header["images"].values())
        own = sum(one.nbytes for one in self.arrays.values()) + photos
        return own + (self.other.nbytes if self.other is not None else 0)


def view(
    engine: Engine,
    image: ImageLike,
    *,
    other: ImageLike | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    target: Target = None,
    top: int = 5,
    size: int | None = None,
    measure: bool = True,
    max_mb: float | int = MAX_MB,
    seed: int = 0,
    seconds: float | int | None = None,
    progress: Progress | None = None,
) -> View:
    """Make the view of an image; see `Scope.view`."""
    image = reusable(image, **engine.adapter.reading)
    other = None if other is None else reusable(other, **engine.adapter.reading)
    picture = engine.adapter.load(image)
    second = None if other is None else engine.adapter.load(other)
    photos = (picture.source,) if second is None else (picture.source, second.source)
    options = _ViewOptions(tuple(methods), target, top, size, measure, seed, seconds, progress, photos, max_mb)
    live = LiveModel(engine, picture, size, target)
    if other is None or second is None:
        return replace(_view_one(engine, picture, options, [], max_mb), live=live)
    own, others = compare(engine, image, other, Options("relevance", size=size, seed=seed), progress)
    beside = _view_one(engine, second, options, [others], max_mb / 2)
    made = _view_one(engine, picture, options, [own], max_mb - beside.nbytes / 1e6)
    return View(made.header, made.arrays, beside, live)


@dataclass(frozen=True)
class _ViewOptions:
    """The options of a view, the same for each of its images."""

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

    def of(self, method: str) -> Options:
        """Return the options of one method."""
        return Options(method, self.target, size=self.size, seed=self.seed)

    def command(self, model: str, small: bool, flags: Sequence[str] = ()) -> str:
        """Return the command line that makes the page again, without options that change nothing.

        Args:
            model: its reference.
            small: the page fits into the usual size with all its layers, as exact as rows ever are.
            flags: that say how the model is loaded.
        """
        words = ["vitscope", "view", *self.photos, "--model", model, *flags]
        options: dict[str, tuple[Any, Any]] = {
            "--methods": (",".join(self.methods), ",".join(DEFAULT_METHODS)),
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


def _view_one(
    engine: Engine, picture: Picture, options: _ViewOptions, more: Sequence[Explanation], max_mb: float | int
) -> View:
    """Make the view of one image; with `max_mb` of 0 without rows of attention."""
    ready = engine.prepare(picture, size=options.size)
    region, store = ready.region, engine.forward(ready.pixels[None]).store
    assert store.layout is not None
    assert store.answer is not None
    region = region.covered(store.layout)
    predictions = engine.predictions(store.answer)[: options.top]
    missing: list[dict[str, str]] = []
    maps, arrays = _maps(engine, ready, [label for label, _ in predictions], options, more, missing)
    images = image_urls(picture, region)
    rows = supports_rows(store)
    scales, readouts = _readouts(store) if store.chain is None else ([], {})
    arrays |= readouts
    numbers = json_safe(_statistics(engine, picture, options))
    used = sum(one.nbytes for one in arrays.values()) + sum(map(len, images.values()))
    used += len(json.dumps([json_safe(maps), numbers])) + _ROOM
    sent = pack_attention(store, max_mb * 1e6 - used) if max_mb else without_rows(store)
    arrays |= sent.arrays
    used += sum(one.nbytes for one in sent.arrays.values())
    if not rows:
        missing.append({"what": msg("viewer.queries", "queries"), "why": rows.reason})
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
        "attention": {"why": rows.reason, "error": sent.error, "heads_scale": scales, "max_mb": max_mb},
        "maps": maps,
        "predictions": [[label, p] for label, p in predictions],
        "activation": engine.activation(store.answer),
        "statistics": numbers,
        "missing": missing,
        "seed": options.seed,
        "size": options.size,
        "command": options.command(
            engine.adapter.reference,
            used <= _SURE * (MAX_MB - options.max_mb + max_mb) * 1e6,
            engine.adapter.options.flags(),
        ),
    }
    return View(json_safe(header), arrays)


def _maps(
    engine: Engine,
    image: Prepared,
    labels: list[str],
    options: _ViewOptions,
    more: Sequence[Explanation],
    missing: list[dict[str, str]],
) -> tuple[list[dict[str, Any]], dict[str, Packed]]:
    """Make all maps: of the methods, of predicted classes, and `more`; measure them if wanted."""
    explained = _explained(engine, image, options, missing)
    explained += _classes(engine, image, labels, options, missing)
    measuring = msg("viewer.measurement", "measurement")
    measured: dict[int, Any] = {}
    place = options.target if isinstance(options.target, (QueryTarget, RegionTarget)) else None
    if options.measure:
        measured = measure_maps(
            engine, [e for e, _ in explained], options.seed, options.progress, options.seconds, place
        )
    if not options.measure:
        missing.append({"what": measuring, "why": msg("viewer.not-measured", "measuring was switched off")})
    elif len(measured) < len(explained):
        why = msg(
            "viewer.measured-some",
            "{seconds} seconds were enough for {done} of {total} maps",
            seconds=f"{options.seconds or 0:g}",
            done=len(measured),
            total=len(explained),
        )
        missing.append({"what": measuring, "why": why})
    explained += [(one, None) for one in more]
    maps: list[dict[str, Any]] = []
    arrays: dict[str, Packed] = {}
    for number, (explanation, label) in enumerate(explained):
        name = f"{number}-{explanation.method}"
        measurement, steps = measured.get(number, (None, []))
        entry, packed = full_entry(engine, explanation, measurement, name=name, label=label)
        maps.append(entry | {"steps": steps, "alike": any(explanation is one for one in more)})
        arrays |= packed
    return maps, arrays


def _statistics(engine: Engine, picture: Picture, options: _ViewOptions) -> dict[str, Any]:
    """Return attention statistics without those of each token."""
    numbers = statistics(engine, picture, Options("attention", size=options.size)).to_dict()
    for layer in numbers["layers"]:
        layer.pop("received"), layer.pop("norms")
    return numbers


def _explained(
    engine: Engine, image: Prepared, options: _ViewOptions, missing: list[dict[str, str]]
) -> list[tuple[Explanation, str | None]]:
    """Make one map with each method; skip a default one that does not apply, refuse one options for by name."""
    made: list[tuple[Explanation, str | None]] = []
    for name in options.methods:
        try:
            (found,) = engine.explain(image, options.of(name), options.progress)
        except MethodError as error:
            if options.methods != DEFAULT_METHODS:
                raise
            missing.append({"what": name, "why": error.message})
            continue
        if not any(_same(found, other) for other, _ in made):
            made.append((found, None))
    return made


def _same(one: Explanation, other: Explanation) -> bool:
    return one.method == other.method and one.provenance["options"] == other.provenance["options"]


def _classes(
    engine: Engine, image: Prepared, labels: list[str], options: _ViewOptions, missing: list[dict[str, str]]
) -> list[tuple[Explanation, str | None]]:
    """Make a map of each predicted class."""
    for name in (CLASS_METHOD, "relevance") if labels else ():
        try:
            made = engine.explain(image, replace(options.of(name), target=None, targets=labels), options.progress)
            return list(zip(made, labels, strict=True))
        except VitscopeError as error:
            missing.append({"what": msg("viewer.by-class", "{method} by class", method=name), "why": error.message})
    return []


def _readouts(store: AttentionStore) -> tuple[list[float], dict[str, Packed]]:
    """Pack what the readout attends to by layer, `(H, N)` each, the readout itself and its pooling."""
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


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
