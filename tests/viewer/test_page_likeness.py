"""Likeness by touch: what is like a patch in one photo and in a second, and colours by likeness."""

import io
import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.helpers.browser import CAPTION, SET, VIEWER, texts
from tests.helpers.browser import shown as opened
from tests.helpers.viewing import KEY, free, hover, shown
from vitscope.explanation import Explanation
from vitscope.viewer.likeness import directions
from vitscope.viewer.page import page

LIKE = {"source": "like", "query": 7}
COMMAND = "() => document.querySelector('textarea[aria-label*=\"for this image\"]').value"
OTHER = (
    f"() => {{ const {{ other }} = {VIEWER}.ctx.scene; return other && {{ ...other, values: [...other.values] }}; }}"
)
BEST = f"() => {VIEWER}.ctx.scene.best"
GREEN = """(selector) => {
    const canvas = document.querySelector(selector), { width, height } = canvas;
    const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
    let x = 0, y = 0, count = 0;
    for (let i = 0; i < data.length; i += 4) {
        if (data[i] !== 141 || data[i + 1] !== 255 || data[i + 2] !== 138) continue;
        x += (i / 4) % width; y += Math.floor(i / 4 / width); count++;
    }
    return [x / count / width, y / count / height];
}"""


def cosines(view, token, of=None):
    ours, others = directions(view.arrays["features"]), directions((of or view).arrays["features"])
    return others @ ours[token]


def test_what_is_like_a_patch_is_drawn_for_the_patch_under_the_pointer(clean, tiny_pair, tiny_scope):
    shown(clean, "What is like patch 1,2", LIKE)
    hover(clean, tiny_scope.layout, 2, 1)
    found = shown(clean, "What is like patch 2,1")
    np.testing.assert_allclose(found, cosines(tiny_pair, 10), atol=1e-6)
    rows, columns = tiny_scope.layout.grid
    apart = [i for i in range(rows * columns) if max(abs(i // columns - 2), abs(i % columns - 1)) > 1]
    best = max(apart, key=lambda i: cosines(tiny_pair, 10)[1 + i])
    assert clean.evaluate(BEST)["token"] == 1 + best
    x, y = clean.evaluate(GREEN, ".vs-marks")
    assert (int(y * rows), int(x * columns)) == divmod(best, columns)


def test_the_second_photo_shows_its_own_and_the_best_match_is_outlined(clean, tiny_pair, tiny_scope):
    clean.evaluate(SET, LIKE)
    clean.wait(OTHER)
    wanted = cosines(tiny_pair, 7, tiny_pair.other)[1:]
    other = clean.evaluate(OTHER)
    np.testing.assert_allclose(other["values"], wanted, atol=1e-6)
    best, (rows, columns) = int(wanted.argmax()), tiny_scope.layout.grid
    assert other["best"]["token"] == 1 + best
    clean.wait(f"() => Number.isFinite(({GREEN})('.vs-second .vs-marks')[0])")
    x, y = clean.evaluate(GREEN, ".vs-second .vs-marks")
    assert (int(y * rows), int(x * columns)) == divmod(best, columns)
    assert f"Best match in coffee: patch {best // columns},{best % columns}" in clean.text(".vs-said ~ .vs-note")
    one, two = clean.box(".vs-stage"), clean.box(".vs-second")
    assert two["x"] >= one["x"] + one["width"]
    assert two["y"] == one["y"]
    clean.evaluate(SET, {"source": "map"})
    clean.wait(CAPTION, "rollout")
    assert not clean.evaluate("() => document.querySelector('.vs-second').offsetParent")


def test_the_command_of_a_likeness_makes_it_again(clean, tiny_pair, tmp_path):
    clean.evaluate(SET, LIKE | {"panel": "save"})
    shown(clean, "What is like patch 1,2")
    words = shlex.split(clean.evaluate(COMMAND))
    from vitscope.cli.main import app

    done = CliRunner().invoke(app, [*words[1:], "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    [made] = (tmp_path / "out").iterdir()
    again = Explanation.load(made)
    error = tiny_pair.header["likeness"]["error"]
    np.testing.assert_allclose(again.map.ravel(), cosines(tiny_pair, 7)[1:], atol=1.01 * error)


@pytest.mark.slow
def test_keys_and_clicks_keep_to_likeness_and_layers_leave_it(clean, tiny_scope):
    shown(clean, "What is like patch 1,2", LIKE)
    clean.focus(".vs-stage")
    clean.press("ArrowRight", "ArrowDown", "Enter")
    assert clean.evaluate(f"() => {VIEWER}.state.source") == "like"
    query = clean.evaluate(f"() => {VIEWER}.state.query")
    free(clean)
    clean.wait(f"() => {VIEWER}.ctx.scene.of.query === {query}")
    assert clean.evaluate(KEY, {"key": "["})
    row, column = divmod(query - 1, tiny_scope.layout.grid[1])
    clean.wait(CAPTION, f"What patch {row},{column} looks at · layer 1")
    clean.click(".vs-choices [role=radio]", "Alike")
    clean.wait(CAPTION, f"What is like patch {row},{column}")
    clean.click(".vs-choices [role=radio]", "Readout")
    clean.wait(CAPTION, "What the readout looks at")


@pytest.mark.slow
def test_no_layer_and_head_are_marked_while_features_are_shown(clean):
    marked = "() => document.querySelectorAll('.vs-film [aria-checked=true], .vs-grid .vs-on').length"
    clean.evaluate(SET, {"panel": "grid", "source": "query", "query": 7, "layer": 1})
    clean.wait(f"() => ({marked})() > 1")
    for source in ("like", "pca", "map"):
        clean.evaluate(SET, {"source": source})
        assert clean.evaluate(marked) == 0, source


def test_colours_are_drawn_in_both_and_a_pointed_patch_shows_its_likes(clean, tiny_pair, tiny_scope):
    clean.evaluate(SET, {"source": "pca", "panel": "save", "opacity": 1, "smooth": False})
    clean.wait(f"() => {VIEWER}.ctx.scene.rgb")  # until then, its title stands over "busy"
    for selector, view in ((".vs-heat", tiny_pair), (".vs-second .vs-heat", tiny_pair.other)):
        rows, columns = tiny_scope.layout.grid
        drawn = clean.evaluate(
            """([selector, rows, columns]) => {
                const canvas = document.querySelector(selector), context = canvas.getContext('2d'), out = [];
                for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
                    const x = ((c + .5) * canvas.width) / columns, y = ((r + .5) * canvas.height) / rows;
                    out.push([...context.getImageData(x, y, 1, 1).data].slice(0, 3));
                }
                return out;
            }""",
            [selector, rows, columns],
        )
        np.testing.assert_array_equal(drawn, view.arrays["pca"].array())
    assert clean.evaluate(COMMAND).endswith('.arrays["pca"].array()')
    name, raw = clean.saved(lambda: clean.click(".vs-tab .vs-quiet", "npz"))
    arrays = np.load(io.BytesIO(raw))
    assert name == "chelsea-pca.npz"
    np.testing.assert_allclose(255 * arrays["shown"].reshape(-1, 3), tiny_pair.arrays["pca"].array(), atol=1e-4)
    np.testing.assert_allclose(255 * arrays["other"].reshape(-1, 3), tiny_pair.other.arrays["pca"].array(), atol=1e-4)
    _, raw = clean.saved(lambda: clean.click(".vs-tab .vs-quiet", "JSON"))
    record = json.loads(raw)
    assert np.shape(record["rgb"]) == (3 * rows * columns,)
    assert record["unit"].startswith("first three principal components")  # not that of the map before it
    hover(clean, tiny_scope.layout, 1, 1)
    np.testing.assert_allclose(shown(clean, "What is like patch 1,1"), cosines(tiny_pair, 6), atol=1e-6)


def test_the_picture_has_both_photos_and_names_the_best_match(clean):
    shown(clean, "What is like patch 1,2", LIKE | {"panel": "save"})
    clean.wait("() => document.querySelector('.vs-second img').complete")
    name, raw = clean.saved(lambda: clean.click(".vs-tab .vs-quiet", "PNG"))
    picture = Image.open(io.BytesIO(raw))
    assert name == "chelsea-like-1-2.png"
    assert "Best match in coffee" in picture.text["Description"]
    assert "--method similarity -O final_norm=true -O query=1,2" in picture.text["Comment"]
    photo = np.asarray(picture.convert("RGB"), float)
    halves = photo[: picture.height // 3, : picture.width // 2], photo[: picture.height // 3, picture.width // 2 :]
    assert all(half.std() > 20 for half in halves)


@pytest.mark.slow
def test_a_link_to_likeness_of_no_patch_opens_what_the_page_begins_with(browser, pair_file):
    link = f"{pair_file.as_uri()}#source=%22like%22&query=-1"
    with opened(browser, link) as made:
        assert made.evaluate(f"() => {VIEWER}.state.source") == "map"
    with opened(browser, f"{pair_file.as_uri()}#source=%22like%22&query=3") as made:
        made.wait(CAPTION, "What is like patch 0,2")
        assert made.troubles == []


@pytest.mark.slow
def test_a_page_without_features_does_not_offer_them(browser, tiny_view, tmp_path):
    document = json.loads(json.dumps(tiny_view.document()))
    for name in ("features", "pca"):
        del document["arrays"][name]
    document["header"]["likeness"] = {"why": "too large"}
    path = tmp_path / "without.html"
    path.write_text(page(document, "en"))
    with opened(browser, f"{path.as_uri()}#source=%22like%22&query=7") as made:
        assert made.evaluate(f"() => {VIEWER}.state.source") == "map"
        assert "Alike" not in texts(made, ".vs-choices [role=radio]")
        assert made.troubles == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_about_says_what_is_compared_and_how_exactly(clean, tiny_pair, language):
    clean.evaluate(SET, {"panel": "about", "lang": language})
    error = tiny_pair.header["likeness"]["error"]
    words = {"en": "after the model's last norm", "zh": "归一化层之后"}[language]
    clean.wait("(words) => document.querySelector('.vs-tab').textContent.includes(words)", words)
    said = float(re.search(r"(\d\.\d+(?:e-\d+)?)", clean.text(".vs-tab").split(words)[1])[1])
    assert said == pytest.approx(error, rel=0.06)
