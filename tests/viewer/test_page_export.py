"""What the page gives away: pictures that other readers read, the clipboard, the page in a frame."""

import base64
import copy
import io
import shlex
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pypdf
import pytest
from PIL import Image

from tests.helpers.browser import CAPTION, SET, VIEWER, texts
from tests.helpers.browser import shown as opened
from vitscope.viewer.page import page

SVG = "{http://www.w3.org/2000/svg}"
MARKED = ("white outline: patch 1,2", "blue outline: patch 0,3", "pink outline: patch 1,0")


@pytest.fixture(scope="module")
def marked(chromium, tiny_file):
    """The page at its panel for saving, with a patch asked for and two pinned; Firefox opens each PDF that it saves."""
    with opened(chromium, tiny_file.as_uri()) as made:
        made.evaluate(SET, {"panel": "save", "source": "query", "query": 7, "layer": 1, "pinned": [4, 5]})
        made.wait(CAPTION, "What patch 1,2 looks at")
        yield made
        assert made.troubles == []


def saved(made, kind):
    name, raw = made.saved(lambda: made.click(".vs-tab .vs-quiet", f"Picture ({kind})"))
    assert name == f"chelsea-attention-layer1-head-mean-1-2.{kind.lower()}"
    return raw


def as_image(raw):
    return Image.open(io.BytesIO(raw)).convert("RGB")


def apart(one, other):
    """The mean difference of two pictures, in steps of 255."""
    assert one.size == other.size
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


def remade(words):
    """The words of the command that makes what is saved."""
    found = shlex.split(words)
    assert found[:2] == ["vitscope", "explain"]
    return {found[i + 1] for i, word in enumerate(found) if word in ("-O", "--layer")}


@pytest.mark.slow
def test_a_pdf_holds_the_picture_and_says_how_it_was_made(marked):
    whole = as_image(saved(marked, "PNG"))
    (page,) = (file := pypdf.PdfReader(io.BytesIO(saved(marked, "PDF")), strict=True)).pages
    (image,) = page.images
    assert apart(image.image.convert("RGB"), whole) < 3
    assert [float(one) for one in page.mediabox] == [0, 0, whole.width / 2, whole.height / 2]
    assert file.metadata.title == "What patch 1,2 looks at · layer 1, mean of heads"
    assert all(one in file.metadata.subject for one in MARKED)
    assert file.metadata.creator.startswith("vitscope ")
    assert remade(file.metadata["/Keywords"]) == {"query=1,2"} | {"1"}


@pytest.mark.slow
def test_an_svg_has_letters_and_looks_like_the_png(marked, chromium, tmp_path):
    whole, raw = as_image(saved(marked, "PNG")), saved(marked, "SVG")
    root = ElementTree.fromstring(raw)
    said = [one.text for one in root.iter(f"{SVG}text")]
    assert "What patch 1,2 looks at · layer 1, mean of heads" in said
    assert all(any(one in line for line in said) for one in MARKED)
    assert root.find(f"{SVG}title").text == "What patch 1,2 looks at · layer 1, mean of heads"
    *_, command = root.find(f"{SVG}metadata").text.splitlines()
    assert remade(command) == {"query=1,2"} | {"1"}
    images = [one.attrib["href"] for one in root.iter(f"{SVG}image")]
    assert [one.partition(";")[0] for one in images] == ["data:image/jpeg", *["data:image/png"] * 3]
    for one in images:
        as_image(base64.b64decode(one.partition(",")[2]))
    (tmp_path / "saved.svg").write_bytes(raw)
    with chromium.opened((tmp_path / "saved.svg").as_uri()) as drawn:
        drawn.resize(*whole.size)
        drawn.picture(tmp_path / "drawn.png")
    seen = Image.open(tmp_path / "drawn.png").convert("RGB").crop((0, 0, *whole.size))
    assert apart(seen, whole) < 4


@pytest.mark.slow
def test_the_unseen_part_of_a_photo_is_hatched_in_what_is_saved(chromium, tmp_path, tiny_scope):
    """Of a light grey photo the model saw the middle half: what is beside it is dark, with stripes, and said."""
    Image.new("L", (160, 120), 200).convert("RGB").save(tmp_path / "grey.png")
    document = tiny_scope.view(tmp_path / "grey.png", methods=("rollout",), measure=False, top=1).document()
    width, height = document["header"]["region"]["size"]
    document["header"]["region"]["box"] = [width / 4, 0, 3 * width / 4, height]
    (tmp_path / "crop.html").write_text(page(document, "en"))
    with opened(chromium, (tmp_path / "crop.html").as_uri()) as made:
        made.evaluate(SET, {"panel": "save"})
        raw = made.saved(lambda: made.click(".vs-tab .vs-quiet", "Picture (PDF)"))[1]
    file = pypdf.PdfReader(io.BytesIO(raw), strict=True)
    assert "50 % of the photo" in file.metadata.subject
    pixels = np.asarray(file.pages[0].images[0].image.convert("L"), float)
    side = pixels[: pixels.shape[1] // 2, : pixels.shape[1] // 5]
    assert side.mean() < 130
    assert side.std() > 10


@pytest.mark.slow
def test_a_picture_is_copied(marked):
    marked.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    marked.click(".vs-tab .vs-quiet", "Copy picture")
    marked.wait(
        "() => document.querySelector('.vs-tab [role=status]').textContent === 'The picture is on the clipboard'"
    )
    copied = marked.evaluate("""async () => {
        const [item] = await navigator.clipboard.read(), blob = await item.getType("image/png");
        return [...new Uint8Array(await blob.arrayBuffer())];
    }""")
    assert apart(as_image(bytes(copied)), as_image(saved(marked, "PNG"))) < 1


@pytest.mark.slow
def test_a_link_made_during_the_tour_shows_what_is_shown(marked, chromium):
    """The tour sets a state of its own at each step: a link that told of it would lead to that."""
    link = "() => document.querySelector('textarea[aria-label*=link]').value"
    before = marked.evaluate(link)
    try:
        marked.evaluate(SET, {"tour": 0})
        marked.wait(CAPTION, "layer 2")
        marked.evaluate(SET, {"panel": "save", "source": "query", "query": 9, "layer": 0})
        marked.wait(CAPTION, "What patch 2,0 looks at · layer 0")
        with opened(chromium, marked.evaluate(link)) as made:
            made.wait(CAPTION, "What patch 2,0 looks at · layer 0")
    finally:
        marked.evaluate(SET, {"tour": None})
        marked.wait(CAPTION, "What patch 1,2 looks at · layer 1")
    assert marked.evaluate(link) == before


class Frame(HTMLParser):
    """The attributes of the one element of a line."""

    def handle_starttag(self, tag, attributes):
        assert tag == "iframe"
        self.attributes = dict(attributes)


@pytest.mark.slow
def test_the_page_stands_in_a_frame_with_its_state_and_nothing_else(marked, chromium, tiny_file, tmp_path):
    line = marked.evaluate("() => document.querySelector('textarea[aria-label*=frame]').value")
    (parser := Frame()).feed(line)
    assert parser.attributes["src"].startswith("tiny.html?embed#")
    around = tiny_file.with_name("slide.html")
    around.write_text(f"<!doctype html><body style='margin:0'>{line}")
    with chromium.opened(around.as_uri()) as slide:
        slide.resize(960, 540)
        slide.wait("() => document.querySelector('iframe').clientHeight === 540")
    file, _, rest = parser.attributes["src"].partition("?")
    with opened(chromium, f"{tiny_file.with_name(file).as_uri()}?{rest}") as made:
        made.resize(960, 540)
        made.wait(CAPTION, "What patch 1,2 looks at · layer 1")
        assert made.evaluate(f"() => {VIEWER}.state.pinned") == [4, 5]
        seen = "(one) => [...document.querySelectorAll(one)].filter((found) => found.offsetParent).length"
        assert [made.evaluate(seen, one) for one in (".vs-head", ".vs-rest", "button", ".vs-stage")] == [0, 0, 0, 1]
        inside = made.evaluate("""() => ['.vs-stage', '.vs-caption', '.vs-ramp', '.vs-unit'].every((one) => {
            const { left, top, right, bottom } = document.querySelector(one).getBoundingClientRect();
            return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight && right > left;
        })""")
        assert inside
        assert made.evaluate("() => document.documentElement.scrollHeight <= innerHeight")
        assert texts(made, ".vs-hint") != []
        assert made.troubles == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(960, 540), (700, 400), (500, 540), (1920, 1080)])
def test_a_square_photo_fits_its_frame(chromium, tiny_view, tmp_path, size):
    document = copy.deepcopy(tiny_view.document())
    document["header"]["region"] |= {"size": [400, 400], "box": [0, 0, 400, 400]}
    (tmp_path / "square.html").write_text(page(document, "en"))
    with opened(chromium, f"{(tmp_path / 'square.html').as_uri()}?embed", size=size) as made:
        assert made.evaluate("() => document.documentElement.scrollHeight <= innerHeight")
        assert made.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert made.evaluate("() => document.querySelector('.vs-stage').clientHeight >= 0.5 * innerHeight")
