"""Classes that a user derives from a library's, in a notebook or as remote code: the library's adapter stays."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.vit.modeling_vit import ViTModel

import vitscope
from tests.helpers.sizes import sizes
from vitscope.models.generic import GenericAdapter
from vitscope.models.loading import adapter_of
from vitscope.models.timm.adapter import TimmAdapter
from vitscope.models.torchvision import TorchvisionAdapter
from vitscope.models.transformers.adapter import TransformersAdapter

NAMES = ["crane", "heron", "stork", "ibis", "egret"]
CONFIG = ViTConfig(
    **sizes(),
    id2label=dict(enumerate(NAMES)),
)


class MyViT(ViTForImageClassification):
    """As in a notebook: the library's class with a word of one's own."""

    mine = True


class MeanViT(ViTForImageClassification):
    """Another forward under the library's config: the patches' mean goes to the classifier, not CLS."""

    def forward(self, pixel_values, **_):
        return {"logits": self.classifier(self.vit(pixel_values).last_hidden_state[:, 1:].mean(1))}


class OwnConfig(PretrainedConfig):
    model_type = "own-vit"


class OwnModel(PreTrainedModel):
    """As remote code has it: derived from the library's base class alone."""

    config_class = OwnConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.tower, self.head = ViTModel(CONFIG, add_pooling_layer=False), nn.Linear(32, config.num_labels)
        self.post_init()

    def forward(self, pixel_values):
        return {"logits": self.head(self.tower(pixel_values).last_hidden_state[:, 0])}


OwnModel.__module__ = "transformers_modules.somebody.own.modeling"


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8))


def made(kind, config=CONFIG):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def probabilities(model, pixels):
    with torch.no_grad():
        output = model(pixels)
    return (output["logits"] if not isinstance(output, torch.Tensor) else output).softmax(-1)[0]


def assert_predictions(explanation, names, expected):
    order = expected.argsort(descending=True)[: len(explanation.predictions)].tolist()
    assert [name for name, _ in explanation.predictions] == [names[i] for i in order]
    np.testing.assert_allclose([p for _, p in explanation.predictions], expected[order], atol=1e-5)


@pytest.mark.spread
@pytest.mark.parametrize("module", ["__main__", "notebook", "transformers_modules.somebody.modeling"])
@pytest.mark.parametrize("kind", [ViTForImageClassification, MyViT, MeanViT])
def test_labels_preprocessing_and_probabilities_are_the_librarys(kind, module, image, monkeypatch):
    if kind is not ViTForImageClassification:
        monkeypatch.setattr(kind, "__module__", module)
    model = made(kind)
    scope = vitscope.load(model)
    assert isinstance(scope.adapter, TransformersAdapter)
    assert scope.adapter.labels == dict(enumerate(NAMES))
    pixels = ViTImageProcessorPil(size={"height": 32, "width": 32})(images=image, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(scope.adapter.prepare(vitscope.images.load_image(image))[0], pixels[0], atol=1e-6)
    assert_predictions(scope.explain(image, method="rollout"), NAMES, probabilities(model, pixels))


def test_what_spreads_a_model_over_devices_is_looked_through():
    model = made(MyViT)
    scope = vitscope.load(nn.DataParallel(model))
    assert scope.model is model
    assert scope.adapter.labels == dict(enumerate(NAMES))


def test_another_forward_has_its_own_readout():
    assert vitscope.load(made(MyViT)).layout.pooling == "cls"
    assert vitscope.load(made(MeanViT)).layout.pooling == "mean"


def test_a_class_that_changes_nothing_has_the_librarys_maps(image):
    for method in ("rollout", "relevance"):
        mine, plain = (vitscope.load(made(k)).explain(image, method=method) for k in (MyViT, ViTForImageClassification))
        np.testing.assert_allclose(mine.map, plain.map, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(mine.prefix, plain.prefix, rtol=1e-5, atol=1e-8)


def test_code_from_outside_the_library_classifies_where_it_has_as_many_logits_as_labels(image):
    model = made(OwnModel, OwnConfig(id2label=dict(enumerate(NAMES)), image_size=32))
    scope = vitscope.load(model)
    assert isinstance(scope.adapter, TransformersAdapter)
    pixels = scope.adapter.prepare(vitscope.images.load_image(image))[0][None]
    assert_predictions(scope.explain(image, method="rollout"), NAMES, probabilities(model, pixels))


def test_a_class_derived_from_timms(image):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    class Mine(timm.models.VisionTransformer):
        pass

    torch.manual_seed(0)
    model = Mine(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=1000).eval()
    names = timm.data.ImageNetInfo("imagenet-1k")
    labels = [names.index_to_description(i) for i in range(1000)]
    own = {"input_size": (3, 32, 32), "label_names": names.label_names()}
    own["label_descriptions"] = {name: names.label_name_to_description(name) for name in names.label_names()}
    model.pretrained_cfg = {**timm.create_model("vit_tiny_patch16_224").pretrained_cfg, **own}
    scope = vitscope.load(model)
    assert isinstance(scope.adapter, TimmAdapter)
    pixels = create_transform(**resolve_model_data_config(model), is_training=False)(image)[None]
    expected = probabilities(model, pixels)
    assert_predictions(scope.explain(image, method="rollout"), labels, expected)


def test_a_class_derived_from_torchvisions(image):
    from torchvision.models import VisionTransformer
    from torchvision.transforms._presets import ImageClassification

    class Mine(VisionTransformer):
        pass

    torch.manual_seed(0)
    model = Mine(32, 8, 2, 4, 32, 48, num_classes=5).eval()
    nn.init.normal_(model.heads[-1].weight)  # torchvision's classifier starts as zeros
    scope = vitscope.load(model)
    assert isinstance(scope.adapter, TorchvisionAdapter)
    expected = probabilities(model, ImageClassification(crop_size=32, resize_size=32)(image)[None])
    assert_predictions(scope.explain(image, method="rollout"), [f"class {i}" for i in range(5)], expected)


def test_the_nearest_library_counts_and_why_is_logged(caplog):
    import timm

    class Both(timm.models.VisionTransformer, PreTrainedModel):
        def __init__(self):
            nn.Module.__init__(self)

    with caplog.at_level(logging.DEBUG, logger="vitscope"):
        assert adapter_of(Both()) is TimmAdapter
        assert adapter_of(nn.Linear(2, 2)) is GenericAdapter
    assert "adapter 'timm', because timm defines its class" in caplog.text
    assert "adapter 'generic', because no adapter knows its class" in caplog.text


# a class of the library's that somebody changed: its configuration no longer says what it does


def _mirror(model):
    model.vit.embeddings.patch_embeddings.register_forward_pre_hook(lambda _, args: (args[0].flip(-1), *args[1:]))


def _reorder(model):
    model.vit.embeddings.register_forward_hook(lambda _, args, x: torch.cat([x[:, :1], x[:, 1:].flip(1)], 1))


def _replace_forward(model):
    embed = model.vit.embeddings.forward

    def reversed_patches(*args, **options):
        x = embed(*args, **options)
        return torch.cat([x[:, :1], x[:, 1:].flip(1)], 1)

    model.vit.embeddings.forward = reversed_patches


def _read_patches(model):
    model.vit.layernorm.register_forward_hook(lambda _, args, x: x[:, 1:].mean(1, keepdim=True).expand_as(x))


def _cut(model):
    model.vit.layers = model.vit.layers[:2]


def _watch(model):
    model.vit.register_forward_hook(lambda *_: None)


CLS, PATCHES = np.eye(17)[0], np.r_[0, np.full(16, 1 / 16)]
CHANGED = {
    "a hook mirrors the pixels": (_mirror, CLS, lambda grid: grid[:, ::-1]),
    "a hook reorders the patches": (_reorder, CLS, lambda grid: grid[::-1, ::-1]),
    "a forward is replaced": (_replace_forward, CLS, lambda grid: grid[::-1, ::-1]),
    "a hook reads the patches": (_read_patches, PATCHES, lambda grid: grid),
    "the last layer is cut off": (_cut, CLS, lambda grid: grid),
    "a hook only watches": (_watch, CLS, lambda grid: grid),
}


@pytest.mark.spread
@pytest.mark.parametrize("name", CHANGED)
def test_a_model_that_was_changed_is_explained_as_it_is(name):
    """By rollout of the attentions that the changed model itself returns, eager and in float64."""
    change, row, on_photo = CHANGED[name]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / 4)
    change(model)
    pixels = torch.randn(1, 3, 32, 32)
    found = vitscope.load(model).attribute(pixels, method="rollout").maps[0]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        made = model.double()(pixels.double(), output_attentions=True).attentions
    for attention in reversed(made):
        row = 0.5 * row + 0.5 * row @ attention[0].mean(0).numpy()
    np.testing.assert_allclose(found, on_photo(row[1:].reshape(4, 4)), rtol=0, atol=1e-6)
