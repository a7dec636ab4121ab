"""Pictures: a hot patch lands on its own pixels and nowhere else, colours keep the order of values, sheets fit."""

import base64
import io
import re
from dataclasses import fields

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFilter

from tests.helpers.errors import raises
from tests.oracles.nearly_grey import dense_nearly_grey
from vitscope.errors import UnknownNameError, UsageError
from vitscope.render import raster, sheets
from vitscope.render.html import page
from vitscope.render.raster import NORMS, Style, StyleOptions, limits
from vitscope.render.sheets import Cell, sheet
from vitscope.render.unseen import hatch_unseen

HOT, COLD = 0.65, 0.325  # opacities of the hottest and the coldest colour, as Style documents them


def overlay(e, **options):
    return e.overlay(**options)


def heat(e, **options):
    return raster.heat(e.map, e.region, e.style(**options))


def grid(e, **options):
    return raster.grid(e.map, e.style(**options))


def style(e, **options):
    return e.style(**options).to_dict()


def one_hot(rows, columns, row, column):
    values = np.zeros((rows, columns), np.float32)
    values[row, column] = 1
    return values


def colour(name, level):
    return np.array(mpl.colormaps[name](level)[:3]) * 255


def mixed(photo, tint, alpha):
    return photo * (1 - alpha) + tint * alpha


def luminance(pixels):
    return np.asarray(pixels, float)[..., :3] @ (0.2126, 0.7152, 0.0722)


# Each case: photo (W, H); grid; the hot patch; resized and crop (h, w); then, computed by hand, the pixels
# (left, top, right, bottom) that the model saw and those of the hot patch. A pixel belongs where its centre does.
CASES = {
    # 60 / 3 = 20 and 30 / 2 = 15 pixels a patch
    "landscape": ((60, 30), (2, 3), (0, 2), (32, 48), None, (0, 0, 60, 30), (40, 0, 60, 15)),
    # 61 / 4 = 15.25 rows a patch: the second one is [15.25, 30.5), the centres 15.5 ... 29.5; 30.5 is the third's
    "portrait": ((30, 61), (4, 2), (1, 1), (64, 32), None, (0, 0, 30, 61), (15, 15, 30, 30)),
    # resized to 53 x 32, columns 10 to 42 kept: 18.87 to 79.25 of the photo, the middle at 49.06
    "landscape, cropped": ((100, 60), (2, 2), (1, 1), (32, 53), (32, 32), (19, 0, 79, 60), (49, 30, 79, 60)),
    # resized to 32 x 72, rows 20 to 52 kept: 25 to 65 of the photo, the middle at 45
    "portrait, cropped": ((40, 90), (2, 2), (0, 1), (72, 32), (32, 32), (0, 25, 40, 65), (20, 25, 40, 45)),
    # taller than the strips that are mixed at a time
    "tall": ((20, 1300), (2, 1), (1, 0), (32, 16), None, (0, 0, 20, 1300), (0, 650, 20, 1300)),
}


def filled(shape, box, value, outside):
    """An array with `value` inside the box `(left, top, right, bottom)`."""
    left, top, right, bottom = box
    out = np.broadcast_to(outside, shape).astype(float)
    out[top:bottom, left:right] = value
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_hot_patch_is_drawn_on_its_own_pixels(explained, case):
    (width, height), (rows, columns), hot, resized, crop, seen, patch = CASES[case]
    e = explained(one_hot(rows, columns, *hot), (width, height), resized=resized, crop=crop)
    photo = e.picture.pixels.astype(float)
    cold_mix = mixed(dense_nearly_grey(e.picture.pixels), colour("inferno", 0.0), COLD)
    hot_mix = mixed(dense_nearly_grey(e.picture.pixels), colour("inferno", 1.0), HOT)
    expected = np.where(filled(photo.shape, seen, 1, 0), cold_mix, hatch_unseen(e.picture.pixels, e.region))
    expected = np.where(filled(photo.shape, patch, 1, 0), hot_mix, expected)
    drawn = np.asarray(overlay(e, smooth=False))
    assert drawn.shape == photo.shape
    assert np.abs(drawn - expected).max() <= 1
    outside = filled(photo.shape, seen, 0, 1) == 1
    assert (drawn[outside] == e.picture.pixels[outside]).all(-1).mean() < 0.05 or not outside.any()
    assert outside.any() == ("cropped" in case)


@pytest.mark.parametrize("case", CASES)
def test_the_heat_picture_is_transparent_where_the_model_saw_nothing(explained, case):
    size, (rows, columns), hot, resized, crop, seen, patch = CASES[case]
    e = explained(one_hot(rows, columns, *hot), size, resized=resized, crop=crop)
    for smooth in (False, True):
        drawn = np.asarray(heat(e, smooth=smooth))
        assert drawn.shape == (size[1], size[0], 4)
        assert np.array_equal(drawn[..., 3], filled(drawn.shape[:2], seen, 255, 0))
    blocks = np.asarray(heat(e, smooth=False))[..., :3]
    expected = filled(blocks.shape, seen, colour("inferno", 0.0), 0)
    expected = np.where(filled(blocks.shape, patch, 1, 0), colour("inferno", 1.0), expected)
    assert np.abs(blocks - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("size", "shape", "hot", "resized", "crop", "xs", "ys"),
    [
        ((60, 30), (3, 5), (1, 3), (48, 80), None, {41, 42}, {14, 15}),  # patch x 36..48, y 10..20
        ((30, 60), (5, 3), (3, 1), (80, 48), None, {14, 15}, {41, 42}),  # patch x 10..20, y 36..48
        ((100, 60), (3, 3), (1, 1), (48, 80), (48, 48), {49, 50}, {29, 30}),  # seen x 20..80; patch 40..60, 20..40
    ],
    ids=["landscape", "portrait", "cropped"],
)
def test_a_smooth_map_peaks_at_the_middle_of_its_patch(explained, size, shape, hot, resized, crop, xs, ys):
    e = explained(one_hot(*shape, *hot), size, resized=resized, crop=crop, pixels=np.zeros((*size[::-1], 3), np.uint8))
    bright = luminance(overlay(e, opacity=1.0))
    rows, columns = np.nonzero(bright == bright.max())
    assert set(columns.tolist()) == xs
    assert set(rows.tolist()) == ys


def test_opacity_is_the_hottest_colours_share(explained):
    e = explained(one_hot(2, 2, 0, 0), (32, 32))
    assert np.abs(np.asarray(overlay(e, opacity=0.0)) - dense_nearly_grey(e.picture.pixels)).max() <= 1
    opaque = np.asarray(overlay(e, opacity=1.0, smooth=False)).astype(float)
    assert np.abs(opaque[:16, :16] - colour("inferno", 1.0)).max() <= 1


def test_blur_spreads_the_heat_inside_the_crop_only(explained):
    e = explained(one_hot(3, 3, 1, 1), (100, 60), resized=(48, 80), crop=(48, 48))
    sharp, blurred = (luminance(heat(e, blur=blur, smooth=False)) for blur in (0.0, 8.0))
    assert blurred[30, 50] < sharp[30, 50]
    assert blurred[30, 62] > sharp[30, 62]
    assert (np.asarray(heat(e, blur=8.0))[:, :20, 3] == 0).all()
    assert np.array_equal(np.asarray(overlay(e, blur=8.0))[:, :20], hatch_unseen(e.picture.pixels, e.region)[:, :20])


# --- values and colours ----------------------------------------------------------------------------------------------


@pytest.mark.covering
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
@pytest.mark.parametrize("norm", NORMS)
def test_a_flat_map_is_all_coldest(explained, value, norm):
    e = explained(np.full((2, 3), value), (48, 32))
    assert np.abs(np.asarray(heat(e, norm=norm))[..., :3] - colour("inferno", 0.0)).max() <= 0.51
    assert len(np.unique(np.asarray(grid(e, norm=norm)).reshape(-1, 3), axis=0)) == 1
    expected = mixed(dense_nearly_grey(e.picture.pixels), colour("inferno", 0.0), COLD)
    assert np.abs(np.asarray(overlay(e, norm=norm)) - expected).max() <= 1


@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (12, 12)])
def test_robust_limits_clip_one_sink(explained, rows, columns):
    values = np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    values[0, 0] = 1000
    e = explained(values, (columns * 4, rows * 4))
    assert limits(e.map, "minmax") == (float(values.min()), 1000.0)
    low, high = limits(e.map, "robust")
    assert low <= np.sort(values.ravel())[2]
    assert 0.97 < high <= 1
    norms = ("minmax", "robust")
    drowned, shown = (np.asarray(heat(e, norm=norm, smooth=False))[2::4, 2::4, :3] for norm in norms)
    assert len(np.unique(drowned.reshape(-1, 3), axis=0)) == 2  # the sink, and black
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 40
    assert np.abs(shown[0, 0] - colour("inferno", 1.0)).max() <= 0.51


@pytest.mark.parametrize("cmap", ["inferno", "magma", "viridis", "cividis", "gray"])
@pytest.mark.parametrize("draw", [heat, grid])
def test_colours_keep_the_order_of_values(explained, draw, cmap):
    values = np.random.default_rng(3).permutation(24).reshape(4, 6) * 0.013 - 5
    e = explained(values, (60, 40))
    drawn = np.asarray(draw(e, cmap=cmap, **({"smooth": False} if draw is heat else {})))
    side_y, side_x = drawn.shape[0] // 4, drawn.shape[1] // 6
    bright = luminance(drawn[side_y // 2 :: side_y, side_x // 2 :: side_x])
    assert bright.shape == (4, 6)
    assert np.array_equal(np.argsort(bright.ravel()), np.argsort(values.ravel()))


def test_only_the_order_and_the_distances_of_values_matter(explained):
    values = np.random.default_rng(4).permutation(16).reshape(4, 4)
    one, other = explained(values, (40, 40)), explained(values * 16 - 64, (40, 40))
    for norm in ("minmax", "robust"):
        drawn = [np.asarray(overlay(e, smooth=False, norm=norm)) for e in (one, other)]
        assert np.array_equal(*drawn)


def test_maps_of_both_signs_are_drawn_from_zero(explained):
    values = np.array([[-5.0, 0.0], [1.0, 2.0]])
    signed, cut = explained(values, (40, 40)), explained(np.clip(values, 0, None), (40, 40))
    assert limits(values, "positive") == (0, 1)  # the 99th percentile is the lower of two values
    assert limits(-np.abs(values) - 1, "positive")[1] < 0
    drawn = [np.asarray(overlay(e, smooth=False, norm="positive")) for e in (signed, cut)]
    assert np.array_equal(*drawn)
    assert np.array_equal(np.asarray(overlay(signed, smooth=False)), drawn[0])


def test_the_grid_is_the_map_itself(explained):
    e = explained(one_hot(4, 8, 1, 5), (90, 33))
    drawn = np.asarray(grid(e))
    assert drawn.shape == (4 * 64, 8 * 64, 3)
    hot = np.abs(drawn - colour("inferno", 1.0)).max(-1) < 1
    rows, columns = np.nonzero(hot)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 127, 320, 383)
    assert hot.sum() == 64 * 64


def test_the_grey_look_is_grey_at_one_opacity(explained):
    e = explained(one_hot(2, 2, 0, 1), (40, 20), pixels=np.full((20, 40, 3), (200, 100, 0), np.uint8))
    drawn = np.asarray(overlay(e, style="grey", smooth=False)).astype(float)
    assert np.abs(drawn[5, 30] - mixed(np.array((200, 100, 0)), 255, 100 / 255)).max() <= 1
    assert np.abs(drawn[5, 10] - mixed(np.array((200, 100, 0)), 0, 100 / 255)).max() <= 1


# --- the published recipe's look -------------------------------------------------------------------------------------


def published(values, photo, side):
    """The recipe's drawing, straight down, as the notebooks have it."""
    mask = (values - values.min()) / (values.max() - values.min())
    mask = Image.fromarray((mask * 255).astype("uint8"))
    mask = mask.resize((side, side), Image.BICUBIC)
    mask = mask.filter(ImageFilter.GaussianBlur(2))
    mask = mask.convert("RGBA")
    mask.putalpha(100)
    mask = mask.resize(photo.size, Image.BICUBIC)
    return Image.alpha_composite(photo.convert("RGBA"), mask).convert("RGB")


@pytest.mark.parametrize("size", [(90, 60), (47, 130), (64, 64)])
def test_the_notebook_style_is_the_published_drawing(explained, size):
    values = np.random.default_rng(5).random((4, 4), np.float32)
    e = explained(values, size)
    assert np.array_equal(np.asarray(overlay(e, style="notebook")), np.asarray(published(values, e.picture.pil(), 64)))


def test_the_notebook_style_of_a_real_run(tiny_scope, photo):
    e = tiny_scope.explain(photo, method="notebook-recipe")
    with Image.open(photo) as image:
        expected = published(e.map, image, 64)
    assert np.array_equal(np.asarray(e.overlay(style="notebook")), np.asarray(expected))


def test_the_notebook_style_stays_inside_the_crop_and_bears_a_flat_map(explained):
    e = explained(one_hot(3, 3, 1, 1), (100, 60), resized=(48, 80), crop=(48, 48))
    drawn = np.asarray(overlay(e, style="notebook"))
    assert np.array_equal(drawn[:, :20], e.picture.pixels[:, :20])
    assert np.array_equal(drawn[:, 80:], e.picture.pixels[:, 80:])
    assert (drawn[:, 20:80] != e.picture.pixels[:, 20:80]).any()
    flat = explained(np.ones((2, 2)), (32, 32))
    expected = mixed(flat.picture.pixels, 0, 100 / 255)
    assert np.abs(np.asarray(overlay(flat, style="notebook")) - expected).max() <= 1


# --- what a style is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [overlay, heat, grid, style])
@pytest.mark.parametrize(
    ("options", "told", "nearest"),
    [
        ({"opacty": 0.5}, "no drawing option is called 'opacty'", "'opacity'"),
        ({"cmap": "infernal"}, "no colour map is called 'infernal'", "'inferno'"),
        ({"cmap": "Viridis"}, "no colour map is called 'Viridis'", "'viridis'"),
    ],
)
def test_an_unknown_style_is_named(explained, draw, options, told, nearest):
    with pytest.raises(UnknownNameError) as info:
        draw(explained(one_hot(2, 2, 0, 0), (32, 32)), **options)
    assert told in str(info.value)
    assert f"did you mean {nearest}?" in str(info.value)


def test_style_options_are_the_fields_of_a_style():
    assert StyleOptions.__annotations__ == {field.name: field.type for field in fields(Style) if field.name != "label"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"opacity": 1.5}, "opacity= lies between 0 and 1, not 1.5"),
        ({"opacity": float("nan")}, "opacity= lies between 0 and 1, not nan"),
        ({"blur": -1.0}, "blur= lies between 0 and 1000, not -1.0"),
        ({"blur": 1e9}, "blur= lies between 0 and 1000"),
        ({"blur": float("nan")}, "blur= lies between 0 and 1000"),
    ],
)
def test_a_number_out_of_range_is_refused(options, told):
    with raises(UsageError, "render.out-of-range") as error:
        Style.of(**options)
    assert told in str(error.value)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(("field", "name", "nearest"), [("style", "gray", "grey"), ("norm", "robst", "robust")])
def test_looks_and_norms_are_checked_by_name(field, name, nearest):
    with pytest.raises(UnknownNameError, match=rf"is called '{name}' \(did you mean '{nearest}'\? choices: "):
        Style.of(**{field: name})


def test_the_style_is_stated_in_full(explained):
    e = explained(one_hot(2, 2, 0, 0), (32, 32))
    assert style(e, norm="robust", blur=2.0) == {
        "style": "color",
        "cmap": "inferno",
        "opacity": 0.65,
        "norm": "robust",
        "smooth": True,
        "blur": 2.0,
        "colorbar": False,
        "normalisation": "1st to 99th percentile of the patches, clipped",
    }
    assert style(e)["normalisation"] == "smallest to largest value"
    assert (style(e, style="grey")["cmap"], style(e, style="grey")["opacity"]) == ("gray", 100 / 255)
    assert (style(e, style="grey", opacity=0.8)["opacity"], style(e, style="grey", cmap="gray")["cmap"]) == (
        0.8,
        "gray",
    )
    with raises(UsageError, "render.grey-has-no-colours"):
        style(e, style="grey", cmap="viridis")


def test_the_recommended_normalisation_holds_where_none_is_asked_for(explained):
    values = one_hot(5, 5, 0, 0) * 50 + np.linspace(0, 1, 25, dtype=np.float32).reshape(5, 5)
    advised = explained(values, (40, 40), provenance={"drawing": {"norm": "robust"}})
    plain = explained(values, (40, 40))
    assert (style(advised)["norm"], style(plain)["norm"]) == ("robust", "minmax")
    assert style(advised, norm="minmax")["normalisation"] == "smallest to largest value"
    for draw in (overlay, heat, grid):
        assert np.array_equal(np.asarray(draw(advised)), np.asarray(draw(plain, norm="robust")))
        assert np.array_equal(np.asarray(draw(advised, norm="minmax")), np.asarray(draw(plain)))
        assert not np.array_equal(np.asarray(draw(advised)), np.asarray(draw(plain)))


def test_without_a_photo_there_is_heat_but_no_overlay(explained):
    e = explained(one_hot(2, 2, 0, 0), (32, 20), pixels=None)
    assert heat(e).size == (32, 20)
    with raises(UsageError, "explanation.no-photo", "explanation.no-photo.hint"):
        overlay(e)


@pytest.mark.parametrize("draw", [overlay, heat])
def test_the_colour_bar_stands_beside_the_picture(explained, draw):
    e = explained(one_hot(4, 4, 1, 1), (120, 90))
    plain, barred = (np.asarray(draw(e, colorbar=bar)) for bar in (False, True))
    assert barred.shape[0] == plain.shape[0]
    assert barred.shape[1] > plain.shape[1] + 20
    assert np.array_equal(barred[:, :120], plain)
    beside = barred[:, 120:, :3].astype(int)
    bar = [x for x in range(beside.shape[1]) if np.abs(beside[45, x] - colour("inferno", 0.5)).max() < 6]
    assert len(bar) == 8
    assert bar == list(range(bar[0], bar[0] + 8))
    ramp = beside[:, bar[0]]
    ramp = ramp[(ramp != 255).any(-1)]
    assert np.abs(ramp[0] - colour("inferno", 1.0)).max() <= 0.51
    assert np.abs(ramp[-1] - colour("inferno", 0.0)).max() <= 0.51
    assert (np.diff(luminance(ramp)) < 0).mean() > 0.95
    labels = beside[:, bar[-1] + 1 :].min(-1) < 128
    assert all(labels[part].sum() > 4 for part in (slice(0, 15), slice(38, 52), slice(75, 90)))


# --- sheets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Draw a sheet and keep matplotlib's figure: `picture, figure = drawn(cells, ...)`."""
    kept = []
    finish = sheets.figure_image
    monkeypatch.setattr(
        sheets, "figure_image", lambda figure, *a, **k: (kept.append(figure), finish(figure, *a, **k))[1]
    )

    def draw(cells, title="a sheet", **options):
        return sheet(cells, title, **options), kept[-1]

    return draw


def solid(number):
    """One of 16 pure colours: none is grey, as text and edges are."""
    return ImageColor.getrgb(f"hsv({number * 22.5}, 100%, 100%)")


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(5, 2, 3), (1, 1, 1), pytest.param(16, 4, 4, marks=pytest.mark.slow)]
)
def test_cells_are_laid_out_row_by_row(drawn, count, rows, columns):
    cells = [Cell(Image.new("RGB", (60, 40), solid(n)), f"layer 3, head {n}") for n in range(count)]
    picture, figure = drawn(cells)
    assert [axes.get_title() for axes in figure.axes][:count] == [f"layer 3, head {n}" for n in range(count)]
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (rows, columns)
    pixels = np.asarray(picture).astype(int)
    middles = []
    for n in range(count):
        ys, xs = np.nonzero(np.abs(pixels - solid(n)).max(-1) <= 2)
        assert len(ys) > 5_000
        middles.append((ys.mean(), xs.mean()))
        assert np.ptp(xs) / np.ptp(ys) == pytest.approx(60 / 40, rel=0.05)
    table = np.full((rows * columns, 2), np.nan)
    table[:count] = middles
    table = table.reshape(rows, columns, 2)
    assert np.nanmax(np.nanstd(table[..., 0], axis=1)) < 1  # one height in each row
    assert np.nanmax(np.nanstd(table[..., 1], axis=0)) < 1  # one place in each column
    assert (np.diff(table[:, 0, 0]) > 0).all()
    assert (np.diff(table[0, :, 1]) > 0).all()


def test_columns_and_lines_below_can_be_asked_for(drawn):
    cells = [Cell(Image.new("RGB", (30, 30), solid(n)), f"method {n}", f"number {n}\nprefix") for n in range(3)]
    picture, figure = drawn(cells, columns=3)
    assert figure.axes[0].get_subplotspec().get_gridspec().get_geometry() == (1, 3)
    assert [axes.get_xlabel() for axes in figure.axes] == ["number 0\nprefix", "number 1\nprefix", "number 2\nprefix"]
    assert picture.width > 2 * picture.height


def test_an_array_is_coloured_by_the_square_root(drawn):
    values = np.zeros((2, 2), np.float32)
    values[0] = 4, 1  # the largest, and a quarter of it
    picture, figure = drawn([Cell(values, "matrix")], cmap="viridis")
    box = figure.axes[0].get_window_extent()
    pixels = np.asarray(picture).astype(float)

    def at(x, y):  # shares of the cell, from the left and from the top
        return pixels[round(picture.height - box.y1 + y * box.height), round(box.x0 + x * box.width)]

    assert np.abs(at(0.25, 0.25) - colour("viridis", 1.0)).max() <= 2
    assert np.abs(at(0.75, 0.25) - colour("viridis", 0.5)).max() <= 3
    assert np.abs(at(0.25, 0.75) - colour("viridis", 0.0)).max() <= 2


def test_an_array_of_zeros_is_drawn(drawn):
    picture, _ = drawn([Cell(np.zeros((3, 3), np.float32), "nothing")])
    assert np.abs(np.asarray(picture)[200, 200] - colour("inferno", 0.0)).max() <= 2


@pytest.mark.parametrize("name", [r"costs $5 or $\frac$", "猫 и кот", "a_b^c"])
def test_titles_are_taken_as_they_are(drawn, name):
    _, figure = drawn([Cell(Image.new("RGB", (30, 30)), name, name)], name)
    axes = figure.axes[0]
    assert not any(text.get_parse_math() for text in (figure._suptitle, axes.title, axes.xaxis.label))
    assert (figure._suptitle.get_text(), axes.get_title(), axes.get_xlabel()) == (name, name, name)


def test_a_long_title_is_broken_into_lines_and_not_cut(drawn):
    title = "photo · /a/long/path/to/a/model · " + "what the picture shows, in many words, " * 3
    short, _ = drawn([Cell(Image.new("RGB", (30, 30)), "one")], "short")
    picture, figure = drawn([Cell(Image.new("RGB", (30, 30)), "one")], title)
    told = figure._suptitle
    assert told.get_text().count("\n") >= 2
    assert " ".join(told.get_text().split()) == title.strip()
    box = told.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= picture.width
    assert picture.height > short.height + 40


def test_a_page_shows_cards_and_sheets_and_is_self_contained(explained):
    e = explained(one_hot(2, 2, 0, 0), (64, 48), name="<i>cat</i>")
    caption = "sheet & <script>alert(1)</script>"
    text = page("Two <photos>", "what & why", [e.card(), e.card()], [(caption, Image.new("RGB", (50, 20)))])
    assert "<script" not in text
    assert "<i>cat" not in text
    assert "<title>Two &lt;photos&gt;</title>" in text
    assert "<p>what &amp; why</p>" in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 3
    pictures = [Image.open(io.BytesIO(base64.b64decode(s.removeprefix("data:image/jpeg;base64,")))) for s in sources]
    assert [picture.size for picture in pictures] == [(64, 48), (64, 48), (50, 20)]
    assert not re.search(r"https?:|url\(|@import|<link", text)


def test_control_characters_of_names_are_shown_on_pages(explained):
    e = explained(one_hot(2, 2, 0, 0), (64, 48), name="cat\x1b\u202egpj.exe")
    text = page("a\u202eb", "", [e.card()], [])
    assert r"cat\x1b\u202egpj.exe" in text
    assert r"<title>a\u202eb</title>" in text
    assert not {"\x1b", "\u202e"} & set(text)
