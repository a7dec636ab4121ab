"""Layers in motion: the filmstrip of the pointed patch, and the button that plays the layers."""

import io
import json
import shlex

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.helpers.browser import CAPTION, SET, VIEWER
from tests.helpers.viewing import hover, layer_of, shown
from vitscope.render.raster import limits

FILM = """() => [...document.querySelectorAll('.vs-film canvas')].map((canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, i) => i % 4 < 3);
})"""
NOTE = "(words) => document.querySelector('.vs-film-note').textContent.startsWith(words)"


def coloured(values):
    low, high = limits(values.astype(np.float32), "robust")
    shares = np.clip((values - low) / (high - low), 0, 1)
    return 255 * matplotlib.colormaps["inferno"](shares)[:, :3]


def strip_of(made, wanted):
    """The colours in the strip, once it is near what it should be; each layer on its own scale."""
    made.wait(
        f"""(wanted) => ({FILM})().every((cells, l) => {{
            const off = cells.reduce((sum, one, i) => sum + Math.abs(one - wanted[l][i]), 0);
            return off / cells.length < 4;
        }})""",
        [one.ravel().tolist() for one in wanted],
    )


@pytest.mark.slow
def test_the_strip_follows_the_pointer_through_all_layers(fresh, tiny_scope, photo):
    fresh.wait(NOTE, "What the readout looks at in each layer")
    strip_of(
        fresh, [coloured(sum(e.map.ravel() for e in tiny_scope.attention_heads(photo, layer))) for layer in range(3)]
    )
    for row, column in ((1, 2), (3, 0)):
        hover(fresh, tiny_scope.layout, row, column)
        fresh.wait(NOTE, f"What patch {row},{column} looks at in each layer")
        token = 1 + row * tiny_scope.layout.grid[1] + column
        strip_of(fresh, [coloured(tiny_scope.queries(photo, layer=layer)[token][1:]) for layer in range(3)])


def test_the_strip_is_of_the_head_and_the_direction_that_are_shown(fresh, tiny_scope, photo):
    fresh.evaluate(SET, {"source": "received", "query": 7, "head": 1, "layer": 0})
    fresh.wait(NOTE, "Who looks at patch 1,2 in each layer")
    strip_of(fresh, [coloured(tiny_scope.queries(photo, layer=layer, head=1)[1:, 7]) for layer in range(3)])


def test_a_click_on_the_strip_shows_that_layer(fresh):
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2})
    fresh.click(".vs-film button", "Layer 1")
    fresh.wait(CAPTION, "What patch 1,2 looks at · layer 1")
    fresh.focus(".vs-film button", "Layer 1")
    fresh.press("ArrowLeft")
    fresh.wait(CAPTION, "What patch 1,2 looks at · layer 0")
    pressed = "() => [...document.querySelectorAll('.vs-film button')].map((one) => one.getAttribute('aria-checked'))"
    assert fresh.evaluate(pressed) == ["true", "false", "false"]


@pytest.fixture
def titles(fresh):
    """Every title that the page has had, in their order."""
    fresh.evaluate(f"""() => {{
        window.titles = [];
        {VIEWER}.ctx.shown.subscribe(({{ scene }}) => scene.values && window.titles.push(scene.caption));
    }}""")
    return lambda: list(dict.fromkeys(fresh.evaluate("() => window.titles")))


def test_playing_goes_through_all_layers_and_stops(fresh, titles):
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2})
    fresh.click(".vs-play")
    assert fresh.evaluate("() => document.querySelector('.vs-play').getAttribute('aria-label')") == "Stop"
    fresh.wait("() => document.querySelector('.vs-play').getAttribute('aria-label') === 'Play the layers'")
    played = [title for title in titles() if title.endswith(", mean of heads")]
    assert [title for title in played if "patch 1,2" in title][-3:] == [
        f"What patch 1,2 looks at · layer {layer}, mean of heads" for layer in (2, 0, 1)
    ]
    assert layer_of(fresh) == 2


@pytest.mark.slow
def test_rollout_grows_from_the_last_layer_down(fresh, titles):
    shown(fresh, "rollout", {"source": "map"})
    fresh.click(".vs-play")
    fresh.wait("() => document.querySelector('.vs-play').getAttribute('aria-label') === 'Play the layers'")
    grown = [title for title in titles() if "rolled out" in title]
    assert [title.split("layers ")[1][:6] for title in grown] == ["2 to 2", "1 to 2", "0 to 2"]


@pytest.mark.slow
def test_going_to_another_layer_or_pressing_again_stops_it(fresh):
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2})
    fresh.click(".vs-play")
    fresh.wait(CAPTION, "layer 0")
    fresh.click(".vs-play")
    assert fresh.evaluate("() => document.querySelector('.vs-play').getAttribute('aria-label')") == "Play the layers"
    fresh.evaluate("() => new Promise((resolve) => setTimeout(resolve, 1500))")
    assert layer_of(fresh) == 0
    fresh.click(".vs-play")
    fresh.wait(CAPTION, "layer 0")
    fresh.evaluate(SET, {"layer": 2})
    fresh.wait("() => document.querySelector('.vs-play').getAttribute('aria-label') === 'Play the layers'")
    assert layer_of(fresh) == 2


@pytest.fixture
def pictures(fresh):
    """The picture of each layer with its legend, as the page saves it: their legends are not equally long."""
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2, "panel": "save", "smooth": False})
    made = []
    for layer in range(3):
        shown(fresh, f"layer {layer}", {"layer": layer})
        _, raw = fresh.saved(lambda: fresh.click(".vs-tab .vs-quiet", "PNG"))
        made.append(Image.open(io.BytesIO(raw)).convert("RGB"))
    assert made[0].height < max(one.height for one in made)
    return made


def apart(frames, pictures):
    """How far each frame is from the picture of each layer, where a smaller one is completed with white below."""
    wanted = [np.full_like(frames[0], 255) for _ in pictures]
    for whole, one in zip(wanted, pictures, strict=True):
        whole[: one.height, : one.width] = np.asarray(one)
    return np.array([[np.abs(frame - whole).mean() for whole in wanted] for frame in frames])


def check_says_how(comment):
    """A line on model and photo, then for each layer its title, and the command that makes its map."""
    about, *layers = comment.splitlines()
    assert "chelsea · vitscope " in about
    for layer, line in enumerate(layers):
        title, command = line.split(": ", 1)
        assert title == f"What patch 1,2 looks at · layer {layer}, mean of heads"
        words = shlex.split(command)
        assert words[:2] == ["vitscope", "explain"]
        assert (words[words.index("--layer") + 1], words[words.index("-O") + 1]) == (str(layer), "query=1,2")
    assert len(layers) == 3


@pytest.mark.slow
def test_the_film_shows_each_layer_with_its_legend(fresh, pictures):
    av = pytest.importorskip("av")
    name, raw = fresh.saved(lambda: fresh.click(".vs-tab .vs-quiet", "WebM"))
    assert name == "chelsea-attention-layers-head-mean-1-2.webm"
    with av.open(io.BytesIO(raw)) as film:
        seconds = film.duration / av.time_base
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in film.decode(video=0)]
        check_says_how(film.metadata["COMMENT"])
    off = apart(frames, pictures)
    assert off.shape == (3, 3)
    assert off.diagonal().max() < 3 < (off + 99 * np.eye(3)).min()
    assert seconds == pytest.approx(1.8)
    assert layer_of(fresh) == 2
    assert "Saved" in fresh.text(".vs-tab [role=status]")


@pytest.mark.slow
def test_a_gif_shows_each_layer_with_its_legend_for_ever(fresh, pictures):
    """Its 256 colours a frame are nearer to the page's own than those that Pillow finds; asked for by keys."""
    fresh.focus(".vs-tab .vs-quiet", "GIF")
    name, raw = fresh.saved(lambda: fresh.press("Enter"))
    assert name == "chelsea-attention-layers-head-mean-1-2.gif"
    film = Image.open(io.BytesIO(raw))
    assert (film.format, film.n_frames, film.info["loop"]) == ("GIF", 3, 0)
    check_says_how(film.info["comment"].decode())
    assert film.size == max((one.size for one in pictures), key=lambda one: one[1])
    frames, durations = [], []
    for one in ImageSequence.Iterator(film):
        durations.append(one.info["duration"])
        frames.append(np.asarray(one.convert("RGB"), float))
    assert durations == [600, 600, 600]
    off = apart(frames, pictures)
    pillows = [apart([np.asarray(one.quantize(dither=0).convert("RGB"), float)], [one])[0, 0] for one in pictures]
    assert (off.diagonal() < pillows).all()
    assert off.diagonal().max() < 1.5 < 3 < (off + 99 * np.eye(3)).min()
    assert layer_of(fresh) == 2
    assert name in fresh.text(".vs-tab [role=status]")


def at_layer_1(made, action):
    """Call a function of JavaScript once the first layer has been followed by the second."""
    made.evaluate(f"""() => {{
        let done = false;
        {VIEWER}.ctx.shown.subscribe(({{ scene }}) => {{
            if (!done && scene.of.layer === 1) setTimeout({action}, 0), (done = true);
        }});
    }}""")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["WebM", "GIF"])
@pytest.mark.parametrize("change", [{"layer": 2}, {"head": 1}, {"opacity": 0.3}])
def test_a_reader_who_goes_elsewhere_gets_no_part_of_a_film(fresh, kind, change):
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2, "panel": "save"})
    at_layer_1(fresh, f"() => {VIEWER}.store.set({json.dumps(change)})")
    fresh.click(".vs-tab .vs-quiet", kind)
    fresh.wait("() => document.querySelector('.vs-tab [role=status]').textContent.startsWith('Not recorded')")
    assert change.items() <= fresh.evaluate(f"() => {VIEWER}.state").items()


@pytest.mark.slow
def test_a_film_is_of_what_was_shown_wherever_the_pointer_goes_and_so_is_its_name(fresh):
    """Asked for while the map of attention is shown; meanwhile the pointer goes over the photo."""
    shown(fresh, "attention", {"map": fresh.evaluate(f"() => {VIEWER}.ctx.data.maps[1].id"), "panel": "save"})
    at_layer_1(
        fresh,
        """() => {
            const stage = document.querySelector(".vs-stage"), { x, y } = stage.getBoundingClientRect();
            stage.dispatchEvent(new PointerEvent("pointermove", { clientX: x + 30, clientY: y + 30 }));
        }""",
    )
    name, raw = fresh.saved(lambda: fresh.click(".vs-tab .vs-quiet", "GIF"))
    assert name == "chelsea-attention-layers-head-mean-readout.gif"
    _, *layers = Image.open(io.BytesIO(raw)).info["comment"].decode().splitlines()
    assert [line.split(": ")[0] for line in layers] == [
        f"What the readout looks at · layer {layer}, mean of heads" for layer in range(3)
    ]


@pytest.fixture
def films(fresh):
    """What is saved of the page, by name: each file's text; nothing is downloaded."""
    shown(fresh, "layer 2", {"source": "query", "query": 7, "layer": 2, "panel": "save"})
    fresh.evaluate("""() => {
        const { click } = HTMLAnchorElement.prototype, { createObjectURL } = URL;
        window.files = {};
        window.undo = () => {
            Object.assign(HTMLAnchorElement.prototype, { click });
            Object.assign(URL, { createObjectURL });
        };
        HTMLAnchorElement.prototype.click = function () {
            if (!this.download) click.call(this);
        };
        URL.createObjectURL = (file) => {
            file.text().then((text) => { window.files[file.name] = text; });
            return createObjectURL(file);
        };
    }""")
    yield fresh
    fresh.evaluate("() => { window.undo(); }")


FILMS = [f"chelsea-attention-layers-head-mean-1-2.{kind}" for kind in ("gif", "webm")]


@pytest.mark.slow
def test_films_asked_for_at_once_are_recorded_in_turn(films):
    """One is asked for again while it waits, too: of what is being made nothing is made twice."""
    for kind in ("GIF", "WebM", "WebM", "GIF"):
        films.click(".vs-tab .vs-quiet", kind)
    films.wait("() => Object.keys(window.files).length === 2")
    for name, text in films.evaluate("() => window.files").items():
        assert name in FILMS
        for layer in range(3):
            assert text.count(f"What patch 1,2 looks at · layer {layer}, mean of heads: vitscope explain") == 1, name
    films.wait(
        "(all) => all.some((name) => document.querySelector('.vs-tab [role=status]').textContent === `Saved ${name}`)",
        FILMS,
    )
    assert films.evaluate("() => Object.keys(window.files).length") == 2
    assert layer_of(films) == 2


@pytest.mark.slow
def test_a_film_that_waited_is_not_of_what_was_chosen_meanwhile(films):
    buttons = "[...document.querySelectorAll('.vs-tab .vs-quiet')]"
    ask = f"{buttons}.find((one) => one.textContent.includes('WebM')).click()"
    at_layer_1(films, f"() => {{ {ask}; {VIEWER}.store.set({{ head: 1 }}); }}")
    films.click(".vs-tab .vs-quiet", "GIF")
    films.wait("() => document.querySelector('.vs-tab [role=status]').textContent.startsWith('Not recorded')")
    films.wait("() => !document.querySelector('.vs-tab [role=status]').textContent.includes('Recording')")
    assert films.text(".vs-tab [role=status]") == "Not recorded: something else was chosen meanwhile."
    assert films.evaluate("() => window.files") == {}
    assert films.evaluate(f"() => {VIEWER}.state")["head"] == 1
