"""What several test modules start from: a tiny model on disk, a real photo, an explanation made by hand."""

import asyncio
import gc
import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import vitscope
from tests.helpers.browser import browser_of
from tests.helpers.checked_shapes import UNCHECKED, leave_repeats_unchecked, unchecked
from tests.helpers.tiers import mark_slow
from tests.helpers.tiny_folder import save_tiny
from vitscope.explanation import Explanation
from vitscope.geometry import ImageRegion, TokenLayout
from vitscope.images import Picture

LONG = {
    *(
        "test_ray_engine",
        "test_kills",
        "test_notebook_page",
        "test_page",
        "test_page_panels",
        "test_page_accessibility",
    ),
    *("test_server", "test_docs", "test_plugins", "test_measure", "test_measurement", "test_traced_contracts"),
    *("test_soak", "test_runner_interrupts", "test_ray_cluster_process", "test_works_with", "test_tasks"),
}


def pytest_collection():
    """Leave garbage until all is imported: looking for it in between took a tenth of the time."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files that take long come first (the workers take files in this order), or a core waits for one at the end."""
    mark_slow(items)  # before `-m` chooses
    leave_repeats_unchecked(items)
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collection_finish():
    """Keep out of the tests' way: what collection made is no garbage, and pytest has few loggers to attach to.

    Garbage collections took some 10 % of a run, pytest's handlers 2 %: three times a test they go to each logger that
    keeps its records from the root, and torch has fifty of those.
    """
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    for name, logger in logging.getLogger().manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Execute written shapes only where that finds more than other tests do."""
    with unchecked() if item.stash.get(UNCHECKED, False) else nullcontext():
        return (yield)


@pytest.fixture
def as_shipped():
    """Annotations are not executed, as for users: wrong values reach vitscope's own checks."""
    with unchecked():
        yield


@pytest.fixture(scope="session", autouse=True)
def no_calibrations(tmp_path_factory):
    """Calibrations in the cache of whoever runs the tests change nothing."""
    from vitscope.engine import calibration

    folder = tmp_path_factory.mktemp("cache") / "calibrations"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "folder", lambda: folder)
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny random ViT classifier as `save_pretrained` writes it: 3 layers, 2 heads, 64 px, patch 16, 7 classes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with its processor and a tokenizer of whole words, as `save_pretrained` writes them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 16, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name or "embedding" in name:
                parameter.mul_(8)
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", "a", "cat", "dog", "on", "sofa"]
    known = {word: i for i, word in enumerate(words)}
    raw = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    special = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_scope(tiny_folder):
    """The tiny model, loaded once."""
    return vitscope.load(tiny_folder)


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A real photo on disk: scikit-image's cat, 451 x 300."""
    path = tmp_path_factory.mktemp("photos") / "chelsea.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


@pytest.fixture(scope="session")
def album(tmp_path_factory):
    """Three small real photos: landscape, portrait, square."""
    folder = tmp_path_factory.mktemp("album")
    cat, coffee, rocket = data.chelsea(), data.coffee(), data.rocket()
    paths = [folder / name for name in ("cat.png", "cup.jpg", "rocket.webp")]
    Image.fromarray(cat[20:120, 100:250]).save(paths[0])
    Image.fromarray(coffee[100:280, 200:300]).save(paths[1])
    Image.fromarray(rocket[100:200, 200:300]).save(paths[2])
    return paths


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    """Eleven photos in two folders, of two shapes, one of them broken."""
    folder, draw = tmp_path_factory.mktemp("collection") / "photos", np.random.default_rng(0)
    for number in range(11):
        path = folder / f"{number // 6}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (70, 90, 3) if number % 3 else (96, 60, 3)
        Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(path)
    (folder / "0" / "03.png").write_bytes((folder / "0" / "02.png").read_bytes()[:900])
    return folder


@pytest.fixture
def plots_are_not_drawn(monkeypatch):
    """Plots of a benchmark are blank: Matplotlib would take most of the time."""
    for name in ("dots", "scatter"):
        monkeypatch.setattr(f"vitscope.bench.report.{name}", lambda *_: Image.new("RGB", (8, 8)))


@pytest.fixture(scope="session")
def explained():
    """Make an explanation by hand: `explained(map, size, ...)`, with a photo of noise unless told otherwise."""

    def make(values, size, *, resized=None, crop=None, pixels="noise", prefix=(0.25,), **fields):
        values = np.asarray(values, np.float32)
        rows, columns = values.shape
        resized = resized or (rows * 16, columns * 16)
        if isinstance(pixels, str):
            pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        names = ("cls", *(f"register {i + 1}" for i in range(len(prefix) - 1)))
        return Explanation(
            map=values,
            prefix=np.array(prefix, np.float32),
            method=fields.pop("method", "rollout"),
            layout=TokenLayout(names, (rows, columns)),
            region=ImageRegion.from_resize_crop(size, resized, crop),
            picture=None if pixels is None else Picture(pixels, fields.pop("name", "photo"), "photo.png"),
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def started_chromium(tmp_path_factory):
    """Chromium, started once, and the event loop that Playwright leaves running in this thread."""
    with browser_of("chromium", tmp_path_factory.mktemp("chromium")) as made:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        yield made, loop
        asyncio._set_running_loop(loop)


@pytest.fixture(scope="module")
def chromium(started_chromium):
    """Chromium: this thread has Playwright's event loop only during a file that asks for it, and others run theirs."""
    made, loop = started_chromium
    asyncio._set_running_loop(loop)
    yield made
    asyncio._set_running_loop(None)


@pytest.fixture(scope="session")
def firefox(tmp_path_factory):
    """Firefox, started once."""
    with browser_of("firefox", tmp_path_factory.mktemp("firefox")) as made:
        yield made


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request):
    """Each of the two."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tiny_view(tiny_scope, photo):
    """What the viewer shows of the cat by the tiny model."""
    return tiny_scope.view(photo, methods=("rollout", "attention", "relevance"), top=7)


@pytest.fixture(scope="session")
def tiny_pair(tiny_scope, photo, tmp_path_factory):
    """The same of two photos, the baseline of random maps among its methods."""
    other = tmp_path_factory.mktemp("photos") / "coffee.png"
    Image.fromarray(data.coffee()).save(other)
    return tiny_scope.view(photo, other=other, methods=("rollout", "attention", "relevance", "random"), top=2)
