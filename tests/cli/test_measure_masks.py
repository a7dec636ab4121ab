"""`vitscope measure --masks` as users run it."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.console import one_line
from tests.helpers.measured import FEW, MARKS, alike


@pytest.fixture
def masks(album, tmp_path):
    """The left third of the cat, the lower half of the cup, as two kinds of file; none for the rocket."""
    folder = tmp_path / "masks"
    folder.mkdir()
    cat, cup = np.zeros((100, 150), np.uint8), np.zeros((180, 100), np.uint16)
    cat[:, :50], cup[90:] = 1, 1
    Image.fromarray(cat).save(folder / "cat.png")
    Image.fromarray(cup).save(folder / "cup.tiff")
    return folder


def test_masks(measure, album, masks, tiny_scope, tmp_path):
    from vitscope.metrics.ground_truth import compare_with_mask

    ran = measure(*album, "--metrics", "saco", "--masks", masks, "--json", "--out", tmp_path / "out")
    assert ran.code == 1
    assert one_line(ran.err) == (
        f"vitscope: {album[2]}: {masks} has no mask named rocket "
        "(put one mask there for each image, under its name, in a format without loss such as PNG)"
    )
    document = json.loads(ran.out)
    assert [result["name"] for result in document["results"]] == ["cat", "cup"]
    truth = np.zeros((180, 100), bool)
    truth[90:] = True
    wanted = compare_with_mask(tiny_scope.explain(album[1], method="rollout"), truth)
    alike(document["results"][1]["localisation"], json.loads(json.dumps(wanted.to_dict())))
    assert document["results"][0]["localisation"]["object_share"] == pytest.approx(1 / 3)
    saved = json.loads((tmp_path / "out" / "cup" / "localisation.json").read_text())
    assert saved == document["results"][1]["localisation"]
    assert sum(document["summary"]["verdicts"]["pixel-auc"].values()) == 2


@pytest.mark.spread
@pytest.mark.parametrize("letters", [60, 80])
def test_the_screen_of_masks(measure, album, masks, narrow, letters):
    narrow(letters)
    arguments = (album[0], "--metrics", "saco", "--masks", masks)
    [result] = json.loads(measure(*arguments, "--json").out)["results"]
    ran = measure(*arguments)
    assert (ran.code, ran.err) == (0, "")
    lines = [line.rstrip() for line in ran.out.splitlines()]
    assert max(map(len, lines)) <= letters
    rows = re.findall(
        r"^(pixel-auc|avg-precision|pointing|mass-inside) +(\S+) +(\S+) +(\S+) ?\.\. ?(\S+) +(\S+) +(.*)$",
        "\n".join(lines),
        re.MULTILINE,
    )
    assert len(rows) == 4
    for row, number in zip(rows, result["localisation"]["numbers"], strict=True):
        told = [number["value"], number["random"], number["low"], number["high"], number["detail"]["centre"]]
        assert [float(cell) for cell in row[1:6]] == pytest.approx(told, abs=6e-4)
        assert row[6] == MARKS[number["verdict"]]
    assert " ".join(ran.out.split()).endswith(result["localisation"]["sentence"])


BAD_MASKS = {
    "another size": "has 20 x 30 pixels, its image 150 x 100 (a mask must have its image's size)",
    "empty": "is empty (0 is background, all other values are the object)",
    "everything": "covers the whole image",
    "jpeg": "compression smears a mask's edges",
    "text": "is not an image that can be read",
    "two": "has 2 masks named cat",
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_one_line_and_the_others_go_on(measure, album, masks, kind):
    made = {
        "another size": np.eye(30, 20, dtype=np.uint8),
        "empty": np.zeros((100, 150), np.uint8),
        "everything": np.ones((100, 150), np.uint8),
    }
    if kind in made:
        Image.fromarray(made[kind]).save(masks / "cat.png")
    elif kind == "text":
        (masks / "cat.png").write_text("Dear diary")
    else:
        Image.open(masks / "cat.png").save(masks / {"jpeg": "cat.jpg", "two": "cat.bmp"}[kind])
        if kind == "jpeg":
            (masks / "cat.png").unlink()
    others = album[1:2] if kind == "empty" else ()
    ran = measure(album[0], *others, "--metrics", "saco", "--masks", masks, "--json")
    assert ran.code == 1
    assert BAD_MASKS[kind] in one_line(ran.err)
    assert [result["name"] for result in json.loads(ran.out)["results"]] == ["cup"] * len(others)


def test_an_object_that_the_model_does_not_see_is_no_wrong_usage(cli, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=8)
    ViTForImageClassification(config).eval().save_pretrained(tmp_path / "model")
    ViTImageProcessorPil(
        size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    mask = np.zeros((40, 200), np.uint8)
    mask[:, :20] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "wide.png")
    arguments = ("--model", tmp_path / "model", *FEW, "--metrics", "saco", "--masks", tmp_path / "masks")
    ran = cli("measure", tmp_path / "wide.png", *arguments)
    assert json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())["do_center_crop"] is True
    assert (ran.code, ran.out) == (1, "")
    assert "the mask has no object in the region that the model saw" in one_line(ran.err)


@pytest.mark.usefixtures("as_shipped")
def test_masks_that_are_no_folder(measure, album, tmp_path):
    ran = measure(album[0], "--masks", tmp_path / "nowhere")
    assert (ran.code, ran.out) == (2, "")
    assert "--masks expects a folder, got" in one_line(ran.err)


def test_what_counts_as_object(tmp_path):
    from vitscope.cli.commands._masks import MaskFolder

    numbers = np.array([[0, 1, 255], [7, 0, 255]], np.uint8)
    palette = Image.fromarray(numbers, "L").convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.save(tmp_path / "voc.png")
    Image.fromarray(numbers).save(tmp_path / "grey.png")
    Image.fromarray(numbers.astype(np.uint16)).save(tmp_path / "deep.tiff")
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0, 1], colour[1, 2] = (0, 0, 9), (1, 0, 0)
    Image.fromarray(colour).save(tmp_path / "colour.bmp")
    masks, size = MaskFolder(tmp_path), (3, 2)
    assert masks.read("a/voc.jpg", size).tolist() == [[False, True, False], [True, False, False]]
    for name in ("grey", "deep"):
        assert masks.read(f"{name}.jpg", size).tolist() == (numbers > 0).tolist()
    assert masks.read("colour.jpg", size).tolist() == [[False, True, False], [False, False, True]]
