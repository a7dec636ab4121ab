"""The viewer's document of one image: maps, attention and numbers, by `Scope.view`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vitscope._catalogues import page_messages
from vitscope._messages import msg
from vitscope._version import __version__
from vitscope.attention.changes import restoring
from vitscope.engine.engine import Engine
from vitscope.engine.inspection import compare, statistics
from vitscope.engine.options import Options, Progress
from vitscope.engine.ranges import checked, names_of
from vitscope.errors import MethodError, UsageError, VitscopeError
from vitscope.explanation import Explanation
from vitscope.images import ImageLike, Picture, reusable
from vitscope.methods.places import QueryTarget, RegionTarget
from vitscope.methods.targets import Target
from vitscope.metrics.measurement import Measurement
from vitscope.viewer.attention_payload import PackedAttention, pack_attention, pack_readouts, supports_rows
from vitscope.viewer.document import SCHEMA, image_urls, json_safe, photo_entry
from vitscope.viewer.likeness import WHAT as LIKENESS
from vitscope.viewer.likeness import in_same_colours, pack_features
from vitscope.viewer.live import LiveModel
from vitscope.viewer.map_entries import full_entry
from vitscope.viewer.map_metrics import Steps, measure_maps
from vitscope.viewer.packed import Packed
from vitscope.viewer.page import page, script, styles
from vitscope.viewer.twin import Twin
from vitscope.viewer.view_options import DEFAULT_METHODS, MAX_MB, ViewOptions
from vitscope.viewer.widget import InCell, iframe, widget

CLASS_METHOD = "evidence-walk"  # the method that tells classes apart best, where it applies
_SURE = 0.98  # what fits into this share of a size is not made coarser for it
_MAP, _ARRAY = 12_000, 100  # characters of a map besides its arrays, and of an array besides its data
_MEASUREMENT = msg("viewer.measurement", "measurement")


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

    def document(self, first: "View | None" = None) -> dict[str, Any]:
        """Return the document, ready for JSON: the whole of it, or without the arrays that an earlier view has too."""
        known = first.arrays if first else {}
        arrays = {name: one.document() for name, one in self.arrays.items() if one != known.get(name)}
        other = {} if self.other is None else {"other": self.other.document(first.other if first else None)}
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
        """About how many characters of a page it takes, besides the viewer itself."""
        own = len(json.dumps([self.header, page_messages(self.header)]))
        own += sum(one.nbytes + _ARRAY for one in self.arrays.values())
        return own + (self.other.nbytes if self.other is not None else 0)


@checked(seed=(0, 2**62), top=(0, 1000), max_mb=(0.01, 1e6), seconds=(0, 1e9))
@restoring
def view(
    engine: Engine,
    image: ImageLike,
    *,
    other: ImageLike | None = None,
    beside: Any = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    target: Target = None,
    top: int = 5,
    size: int | None = None,
    measure: bool = True,
    max_mb: float | int | None = None,
    seed: int = 0,
    seconds: float | int | None = None,
    progress: Progress | None = None,
    show: Callable[[View], None] | None = None,
    in_cell: bool = False,
) -> View:
    """Make the view of an image; see `Scope.view`.

    Args:
        engine: the model.
        image: an image.
        other: a second one, to show what makes the two similar.
        beside: another model, as a `Scope`: its view of the same image, and how far apart the two are by layer.
        methods: names of the methods to show.
        target: what is explained; None is the prediction.
        top: how many predicted classes have a map of their own.
        size: input size, as in `Options`.
        measure: also deletion and infidelity of each map.
        max_mb: of the page; by default 20 for each image.
        seed: of the random maps.
        seconds: for measuring; maps that are left after so long stay unmeasured.
        progress: called with (name, done, total).
        show: called with the view as soon as it has a map and all attention, and whenever there is more of it.
        in_cell: show all that in the running cell of a notebook.
    """
    if beside is not None and other is not None:
        raise UsageError(
            msg("viewer.two-and-two", "two models show one image: there is no room for a second image"),
            msg("viewer.two-and-two.hint", "leave out {@other=} or {@beside=}"),
        )
    image = reusable(image, **engine.adapter.reading)
    other = None if other is None else reusable(other, **engine.adapter.reading)
    picture = engine.adapter.load(image)
    second = None if other is None else engine.adapter.load(other)
    photos = (picture.source,) if second is None else (picture.source, second.source)
    twin = None if beside is None else Twin(engine, beside.engine, picture, size)
    most = max_mb or MAX_MB * (2 if twin else len(photos))
    options = ViewOptions(
        names_of(methods),
        target,
        top,
        size,
        measure,
        seed,
        seconds,
        progress,
        photos,
        most,
        twin.reference if twin else None,
    )
    live = LiveModel(engine, picture, size, target)
    cell = InCell()
    told = [*([show] if show else []), *([cell.show] if in_cell else [])]

    def shown(part: View) -> None:
        for one in told:
            one(replace(part, live=live))

    if twin is not None:
        theirs = _view_one(twin.other, picture, options, [], most / 2)
        one = _view_one(engine, picture, options, [], most - theirs.nbytes / 1e6, shown if told else None)
        made = View(twin.header_of(one.header), one.arrays, theirs, live)
    elif other is None or second is None:
        made = replace(_view_one(engine, picture, options, [], most, shown if told else None), live=live)
    else:
        own, others = compare(engine, image, other, Options("relevance", size=size, seed=seed), progress)
        beside = _view_one(engine, second, options, [others], most / 2)
        one = _view_one(engine, picture, options, [own], most - beside.nbytes / 1e6, shown if told else None)
        own_arrays, other_arrays = in_same_colours(one.arrays, beside.arrays, len(one.header["layout"]["prefix"]))
        made = View(one.header, own_arrays, replace(beside, arrays=other_arrays), live)
    if in_cell:
        cell.show(made)
    return made


def _view_one(
    engine: Engine,
    picture: Picture,
    options: ViewOptions,
    more: Sequence[Explanation],
    max_mb: float | int,
    show: Callable[[View], None] | None = None,
) -> View:
    """Make the view of one image, and show what there is of it on the way."""
    with engine.shared_forwards():
        parts = _Parts(engine, picture, options, more, max_mb)
        for number, name in enumerate(options.methods):
            if options.progress:
                options.progress(name, number, len(options.methods))
            parts.explain(name)
            if show:
                show(parts.view(msg("viewer.further-maps", "further maps and numbers")))
        parts.explain_classes()
        parts.measure_attention()
    if options.measure:
        if show:
            show(parts.view(_MEASUREMENT))
        parts.measure(show)
    else:
        parts.leave_out(_MEASUREMENT, msg("viewer.not-measured", "measuring was switched off"))
    return parts.view()


class _Parts:
    """What there is of one image's view so far."""

    def __init__(
        self, engine: Engine, picture: Picture, options: ViewOptions, more: Sequence[Explanation], max_mb: float | int
    ) -> None:
        self.engine, self.picture, self.options, self.more, self.max_mb = engine, picture, options, more, max_mb
        self.ready = engine.prepare(picture, size=options.size)
        self.forward = engine.forward(self.ready.pixels[None], tokens=True)  # as `shared_forwards` gives it to all
        self.store = self.forward.store
        assert self.store.layout is not None
        assert self.store.answer is not None
        self.layout = self.store.layout
        self.region = self.ready.region.covered(self.layout)
        self.predictions = engine.predictions(self.store.answer)[: options.top]
        self.activation = engine.activation(self.store.answer)
        self.images = image_urls(picture, self.region)
        self.scales, self.readouts = pack_readouts(self.store) if self.store.chain is None else ([], {})
        self.likeness, self.features = pack_features(engine, self.forward, max_mb)
        self.rows: PackedAttention | None = None
        self.statistics: dict[str, Any] = {"layers": [], "sinks": []}
        self.maps: list[tuple[Explanation, str | None]] = []
        self.measured: dict[int, tuple[Measurement, Steps]] = {}
        self.missing: list[dict[str, str]] = []
        if self.likeness["why"]:
            self.leave_out(LIKENESS, self.likeness["why"])

    def leave_out(self, what: str, why: str) -> None:
        """Say on the page what is not in it."""
        self.missing.append({"what": what, "why": why})

    def explain(self, name: str) -> None:
        """Make a map with one method; leave out a default one that does not apply, refuse one named by the caller."""
        try:
            (found,) = self.engine.explain(self.ready, self.options.of(name), self.options.progress)
        except MethodError as error:
            if self.options.methods != DEFAULT_METHODS:
                raise
            self.leave_out(name, error.message)
            return
        if not any(_same(found, other) for other, _ in self.maps):
            self.maps.append((found, None))

    def explain_classes(self) -> None:
        """Make a map of each predicted class."""
        labels = [label for label, _ in self.predictions]
        for name in (CLASS_METHOD, "relevance") if labels else ():
            options = replace(self.options.of(name), target=None, targets=labels)
            try:
                made = self.engine.explain(self.ready, options, self.options.progress)
            except VitscopeError as error:
                self.leave_out(msg("viewer.by-class", "{method} by class", method=name), error.message)
                continue
            self.maps += zip(made, labels, strict=True)
            return

    def measure_attention(self) -> None:
        """Measure attention by layer and head, without the numbers of each token."""
        options = Options("attention", size=self.options.size)
        self.statistics = statistics(self.engine, self.picture, options).to_dict()
        for layer in self.statistics["layers"]:
            layer.pop("received"), layer.pop("norms")

    def measure(self, show: Callable[[View], None] | None) -> None:
        """Measure the maps, and show each one's numbers when they are known."""
        options, maps = self.options, [one for one, _ in self.maps]
        place = options.target if isinstance(options.target, (QueryTarget, RegionTarget)) else None
        for found in measure_maps(self.engine, maps, options.seed, options.progress, options.seconds, place):
            self.measured[len(self.measured)] = found
            if show and len(self.measured) < len(maps):
                show(self.view(_MEASUREMENT))
        if len(self.measured) < len(maps):
            why = msg(
                "viewer.measured-some",
                "{seconds} seconds were enough for {done} of {total} maps",
                seconds=f"{options.seconds or 0:g}",
                done=len(self.measured),
                total=len(maps),
            )
            self.leave_out(_MEASUREMENT, why)

    def view(self, unfinished: str = "") -> View:
        """Return the view; `unfinished` names what is still to come."""
        maps, arrays = self._entries()
        engine, options = self.engine, self.options
        header = {
            "schema": SCHEMA,
            "kind": "view",
            "vitscope": __version__,
            "model": {
                "reference": engine.adapter.reference,
                "adapter": engine.adapter.name,
                "weights": engine.adapter.weights,
            },
            "photo": photo_entry(self.picture),
            "images": self.images,
            "region": asdict(self.region),
            "layout": asdict(self.layout),
            "maps": maps,
            "predictions": [[label, p] for label, p in self.predictions],
            "activation": self.activation,
            "statistics": self.statistics,
            "likeness": self.likeness,
            "seed": options.seed,
            "size": options.size,
        }
        arrays |= self.readouts | self.features
        used = View(json_safe(header), arrays).nbytes + len(script("page")) + len(styles())
        rows = self._rows(used, len(options.methods) + len(self.predictions) if unfinished else 0)
        missing = [*self.missing, *self._missing_rows(rows)]
        if unfinished:
            missing.append({"what": unfinished, "why": msg("viewer.unfinished", "not made yet when this was written")})
        usual = used + rows.nbytes <= _SURE * (options.usual - options.max_mb + self.max_mb) * 1e6
        header |= {
            "layers": rows.layers,
            "attention": {
                "why": supports_rows(self.store).reason,
                "error": rows.error,
                "heads_scale": self.scales,
                "max_mb": self.max_mb,
            },
            "missing": missing,
            "command": options.command(engine.adapter.reference, usual, engine.adapter.options.flags()),
        }
        return View(json_safe(header), arrays | rows.arrays)

    def _entries(self) -> tuple[list[dict[str, Any]], dict[str, Packed]]:
        """Return the maps as the page carries them, and their arrays."""
        maps: list[dict[str, Any]] = []
        arrays: dict[str, Packed] = {}
        for number, (explanation, label) in enumerate([*self.maps, *((one, None) for one in self.more)]):
            measurement, steps = self.measured.get(number, (None, []))
            alike = number >= len(self.maps)  # named alike however many maps there are by now
            name = f"{'alike' if alike else number}-{explanation.method}"
            entry, packed = full_entry(self.engine, explanation, measurement, name=name, label=label)
            maps.append(entry | {"steps": steps, "alike": alike})
            arrays |= packed
        return maps, arrays

    def _rows(self, used: int, coming: int) -> PackedAttention:
        """Return the attention in the room that is left.

        Once packed, it stays as it is while it fits, and until all else is there where something of it is lacking.

        Args:
            used: characters of everything else.
            coming: maps that are still to be made or measured.
        """
        room = self.max_mb * 1e6 - used
        if self.rows is None or self.rows.nbytes > room or not (self.rows.whole or coming):
            self.rows = pack_attention(self.store, room - coming * (_MAP + 6 * self.layout.tokens))
        return self.rows

    def _missing_rows(self, rows: PackedAttention) -> list[dict[str, str]]:
        if not (support := supports_rows(self.store)):
            return [{"what": msg("viewer.queries", "queries"), "why": support.reason}]
        if not rows.dropped:
            return []
        why = msg(
            "viewer.layers-left-out",
            "layers {span} do not fit into {most} MB",
            span=_span(rows.dropped),
            most=f"{self.max_mb:.3g}",
        )
        return [{"what": msg("viewer.layers", "layers"), "why": why}]


def _same(one: Explanation, other: Explanation) -> bool:
    return one.method == other.method and one.provenance["options"] == other.provenance["options"]


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
