"""Known models inside wrappers: preprocessing, class names and maps are those of the model itself."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn
from torchvision.transforms import Normalize

import vitscope
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.errors import raises
from tests.helpers.model_state import differences, model_state
from vitscope.errors import CaptureError, ModelError, UsageError

pytestmark = pytest.mark.usefixtures("as_shipped")
METHODS = ("rollout", "relevance", "gradcam", "logit-lens")
PHOTO = Image.fromarray(np.kron(PHOTOS[0], np.ones((2, 2, 1), np.uint8)))


def known(family="transformers"):
    model = make(family).eval()
    if family == "transformers":
        model.config.id2label = {n: f"animal {n}" for n in range(5)}
        model.config.problem_type = "multi_label_classification"
    return model


def found(model, **options):
    scope = vitscope.load(model, **options)
    made = [scope.explain(PHOTO, method=name, target=2) for name in METHODS]
    return [e.map for e in made], made[0].predictions, made[0].region, type(scope.adapter).__name__


def check(wrapped, plain, rtol=0.0, **options):
    maps, predictions, region, adapter = found(wrapped, **options)
    expected = found(plain)
    for one, other in zip(maps, expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol * np.abs(other).max())
    assert [name for name, _ in predictions] == [name for name, _ in expected[1]]
    np.testing.assert_allclose([p for _, p in predictions], [p for _, p in expected[1]], rtol=max(rtol, 1e-6))
    assert region == expected[2]
    assert adapter == expected[3]


class Passing(nn.Module):
    """A module of one's own around a model, as training code has it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.loss = model, nn.CrossEntropyLoss()

    def forward(self, x):
        return self.model(x)


def lightning(model, forward=True):
    module = pytest.importorskip("lightning")

    class Lit(module.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = model

    class Running(Lit):
        def forward(self, x):
            return self.net(x)

    return Running() if forward else Lit()


def accelerated(model):
    return pytest.importorskip("accelerate").Accelerator(cpu=True, mixed_precision="no").prepare(model)


def ema(model):
    return torch.optim.swa_utils.AveragedModel(model)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "of one's own": Passing,
    "twice": lambda model: nn.DataParallel(Passing(model)),
    "Sequential": nn.Sequential,
    "LightningModule": lightning,
    "LightningModule without forward": lambda model: lightning(model, forward=False),
    "accelerate": accelerated,
    "averaged": ema,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled inside": lambda model: Passing(torch.compile(model, backend="eager")),
}


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("family", ["transformers", "timm"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_is_the_model_in_it(name, family):
    model = known(family)
    wrapped = WRAPPERS[name](model).train()
    before = model_state(wrapped)
    check(wrapped, known(family))
    assert differences(before, model_state(wrapped)) == []


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        check(nn.parallel.DistributedDataParallel(known("timm")), known("timm"))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.spread
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("family", "layers"), [("transformers", ["q_proj", "v_proj"]), ("timm", ["qkv"])])
def test_a_peft_model_is_the_model_with_its_adapters(family, layers):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(known(family), peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    merged = peft.get_peft_model(known(family), peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    merged.load_state_dict(model.state_dict())
    plain = merged.merge_and_unload()
    check(model, plain, rtol=2e-4)


def compiled_part(model):
    model.vit = torch.compile(model.vit, backend="eager")
    return model


def compiled_layer(model):
    layers = model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer
    layers[0] = torch.compile(layers[0], backend="eager")
    return model


def compiled_in_place(model):
    model.vit.compile(backend="eager")
    model.compile(backend="eager")
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [compiled_part, *(pytest.param(one, marks=pytest.mark.slow) for one in (compiled_layer, compiled_in_place))],
)
def test_compiled_parts(change):
    model = change(known())
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))  # it is compiled now
    check(model, known())


def test_hooks_that_bring_weights_in_before_each_forward_as_sharded_models_do():
    model = known("timm")
    for block in model.blocks:
        full = {name: p.data for name, p in block.named_parameters()}

        def gather(module, _args, full=full):
            for name, p in module.named_parameters():
                p.data = full[name]

        def release(module, _args, _out):
            for p in module.parameters():
                p.data = torch.zeros_like(p.data)

        block.register_forward_pre_hook(gather)
        block.register_forward_hook(release)
        release(block, None, None)
    plain, scope = vitscope.load(known("timm")), vitscope.load(model)
    for name in ("rollout", "attention", "occlusion"):
        assert np.array_equal(scope.explain(PHOTO, method=name).map, plain.explain(PHOTO, method=name).map)


def normalised(model, mean=0.5, std=0.5):
    return nn.Sequential(Normalize([mean] * 3, [std] * 3), model)


@pytest.mark.spread
@pytest.mark.parametrize("family", ["transformers", "timm"])
def test_a_normalisation_that_is_the_models_own_is_done_once(family):
    check(normalised(known(family)), known(family))


def test_another_normalisation_is_refused_without_a_processor():
    with raises(ModelError, "models.wrapper-changes-pixels", "models.wrapper-changes-pixels.hint"):
        vitscope.load(normalised(known(), 0.4, 0.3))


@pytest.mark.slow
def test_another_normalisation_with_a_processor():
    def pixels(image):
        return torch.from_numpy(np.array(image.resize((32, 32)))).permute(2, 0, 1) / 255

    model, plain = normalised(known("timm"), 0.4, 0.3), known("timm")
    scope = vitscope.load(model, processor=pixels)
    expected = vitscope.load(plain, processor=lambda image: (pixels(image) - 0.4) / 0.3)
    for name in METHODS:
        one, other = (s.explain(PHOTO, method=name, target=1).map for s in (scope, expected))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_softmax_behind_the_model_keeps_preprocessing_and_names():
    plain = known()
    plain.config.problem_type = None

    class Probabilities(Passing):
        def forward(self, x):
            return self.model(x).logits.softmax(-1)

    scope, expected = vitscope.load(Probabilities(plain)), vitscope.load(known())
    e = scope.explain(PHOTO, method="rollout")
    np.testing.assert_allclose(e.map, expected.explain(PHOTO, method="rollout").map, rtol=1e-4)
    with torch.no_grad():
        right = plain(expected.prepare(PHOTO).pixels[None]).logits.softmax(-1)[0]
    assert {name: pytest.approx(p, abs=1e-5) for name, p in e.predictions} == {
        f"animal {n}": float(right[n]) for n in range(5)
    }


def test_a_wrapper_of_other_methods_does_not_change_the_pixels():
    """It calls forward_features, never forward: which tensor is meant is asked, and nothing is said of pixels."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = make("timm").eval()

        def forward(self, x):
            tokens = self.vit.forward_features(x)
            return tokens[:, 0], tokens[:, 1:]

    with raises(UsageError, "models.several-answers"):
        vitscope.load(Tokens())
    scope, plain = vitscope.load(Tokens(), output=0), vitscope.load(make("timm").eval())
    np.testing.assert_array_equal(scope.prepare(PHOTO).pixels, plain.prepare(PHOTO).pixels)
    np.testing.assert_allclose(
        scope.explain(PHOTO, method="rollout").map, plain.explain(PHOTO, method="rollout").map, rtol=1e-5
    )


def traced(model):
    return torch.jit.trace(model, (torch.rand(1, 3, 32, 32),), check_trace=False)


@pytest.mark.spread
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("freeze", [traced, torch.fx.symbolic_trace])
def test_exported_models_are_right_or_refused(freeze):
    plain = vitscope.load(make("generic").eval())
    try:
        scope = vitscope.load(freeze(make("generic").eval()))
    except vitscope.VitscopeError as error:
        assert error.code
        return
    for name in METHODS:
        if scope.supports(name):
            one, other = (s.explain(PHOTO, method=name, target=2).map for s in (scope, plain))
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


class Calling(nn.Module):
    """A module around a model that calls it, or parts of it, as a function says; with a head of its own, or without."""

    def __init__(self, model, call, head=None):
        super().__init__()
        self.vit, self.call, self.head = model, call, head

    def forward(self, x):
        return self.call(self, x)


def by_parts(m, x):
    return m.vit.forward_head(m.vit.forward_features(x))


def test_a_model_called_by_its_parts_is_that_model():
    check(Calling(known("timm"), by_parts), known("timm"))


def test_a_head_on_features_keeps_the_preprocessing_and_says_so():
    torch.manual_seed(0)
    head = nn.Linear(16, 4)
    model = Calling(make("timm").eval(), lambda m, x: m.head(m.vit.forward_features(x)[:, 0]), head).eval()
    scope, inside = vitscope.load(model), vitscope.load(known("timm"))
    assert torch.equal(scope.prepare(PHOTO).pixels, inside.prepare(PHOTO).pixels)
    e = scope.explain(PHOTO, method="input-x-gradient", target=1)
    assert [note.code for note in e.provenance["notes"]] == ["models.preprocessing-inside"]
    pixels = inside.prepare(PHOTO).pixels[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(pixels)[0, 1], pixels)
    expected = (grad * pixels).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    np.testing.assert_allclose(e.map, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.spread
@pytest.mark.parametrize("family", ["transformers", "timm"])
def test_names_of_the_wrappers_classes_do_not_change_its_pixels(family):
    """They do not fit the model inside, which has other classes, or none."""
    model, head = known(family), nn.Linear(5, 3)
    head = Calling(model, lambda m, x: m.head(getattr(m.vit(x), "logits", m.vit(x))), head).eval()
    plain, named = (vitscope.load(head, **options) for options in ({}, {"labels": ["a", "b", "c"]}))
    for scope in (plain, named):
        assert scope.adapter.describe()["input"] == vitscope.load(model).adapter.describe()["input"]
        assert "models.preprocessing-inside" in [note.code for note in scope.adapter.notes]
    one, other = (scope.prepare(PHOTO).pixels for scope in (plain, named))
    assert torch.equal(one, other)
    assert torch.equal(other, vitscope.load(model).prepare(PHOTO).pixels)
    assert named.explain(PHOTO, method="relevance", target="b").target == "b"
    with raises(UsageError, "models.labels.count", "models.labels.count.hint"):
        vitscope.load(nn.Sequential(model), labels=["a", "b", "c"])


@pytest.mark.slow
def test_one_of_two_models_that_is_called_is_the_model():
    class Student(Passing):
        def __init__(self, model, teacher):
            super().__init__(model)
            self.teacher = teacher

    check(Student(known("timm"), known("timm")), known("timm"))


@pytest.mark.spread
@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda logits: logits / 3, True),
        (lambda logits: logits.softmax(-1), True),
        (lambda logits: logits.flip(-1), False),
        (lambda logits: -logits, False),
    ],
)
def test_class_names_are_kept_where_the_order_of_the_classes_is(change, kept):
    e = vitscope.load(Calling(known(), lambda m, x: change(m.vit(x).logits))).explain(PHOTO, method="rollout")
    assert [name.startswith("animal") for name, _ in e.predictions] == [kept] * 5
    codes = [note.code for note in e.provenance["notes"] if note.code != "render.nearly-flat"]  # of the map itself
    assert codes == ([] if kept else ["models.other-order"])


def test_a_temperature_keeps_independent_classes():
    e = vitscope.load(Calling(known(), lambda m, x: m.vit(x).logits / 3)).explain(PHOTO, method="rollout")
    with torch.no_grad():
        pixels = vitscope.load(known()).prepare(PHOTO).pixels[None]
        right = (known()(pixels).logits / 3).sigmoid()[0]
    assert dict(e.predictions) == {f"animal {n}": pytest.approx(float(p), abs=1e-5) for n, p in enumerate(right)}


def test_a_mean_over_two_calls_is_the_wrappers_answer():
    mean = Calling(known(), lambda m, x: (m.vit(x).logits + m.vit(x.flip(-1)).logits) / 2)
    e = vitscope.load(mean).explain(PHOTO, method="input-x-gradient", target=1)
    pixels = vitscope.load(known()).prepare(PHOTO).pixels[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(mean(pixels)[0, 1], pixels)
    cells = (grad * pixels).detach()[0].sum(0).unfold(0, 8, 8).unfold(1, 8, 8).sum((2, 3)).numpy()
    np.testing.assert_allclose(e.map, cells, rtol=1e-3, atol=1e-6)


def test_an_output_chosen_of_the_wrapper_keeps_the_preprocessing():
    pair = Calling(make("timm").eval(), lambda m, x: (m.vit.forward_features(x)[:, 0], m.vit(x)))
    scope = vitscope.load(pair, output=1)
    assert torch.equal(scope.prepare(PHOTO).pixels, vitscope.load(known("timm")).prepare(PHOTO).pixels)
    assert len(scope.explain(PHOTO, method="rollout").predictions) == 5
    for call in (lambda m, x: (m.vit(x), m.vit.forward_features(x)[:, 0]), pair.call):
        with raises(UsageError, "models.several-answers"):
            vitscope.load(Calling(known("timm"), call))


def test_a_forward_that_is_not_written_to_its_end_is_no_missing_forward():
    """The model inside is not explained in its place."""

    class Unfinished(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = make("timm")

        def forward(self, x):
            raise NotImplementedError

    with pytest.raises(vitscope.VitscopeError):
        vitscope.load(Unfinished().eval())


def test_a_pipeline_and_a_trainer_are_their_model_with_their_processor(tmp_path):
    from transformers import Trainer, TrainingArguments, ViTImageProcessor, pipeline

    model = known()
    side = model.config.image_size
    processor = ViTImageProcessor(size={"height": side, "width": side}, image_mean=[0.2] * 3, image_std=[0.3] * 3)
    expected = processor(PHOTO, return_tensors="pt")["pixel_values"][0]
    trainer = Trainer(model, TrainingArguments(str(tmp_path), report_to=[]), processing_class=processor)
    for holder in (pipeline("image-classification", model=model, image_processor=processor), trainer):
        scope = vitscope.load(holder)
        assert scope.model is model
        torch.testing.assert_close(scope.prepare(PHOTO).pixels, expected)


@pytest.mark.slow
def test_an_average_of_weights_is_a_model_of_its_library():
    from timm.utils import ModelEmaV3

    plain = known("timm")
    check(ModelEmaV3(plain), plain)
    check(torch.optim.swa_utils.AveragedModel(plain), plain)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_wrapper_that_maps_its_model_over_images_is_refused_as_such():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            config = transformers.ViTConfig(**small, image_size=32, patch_size=8)
            self.model = transformers.ViTForImageClassification(config)

        def forward(self, x):
            return torch.vmap(lambda image: self.model(pixel_values=image[None]).logits[0])(x)

    with raises(CaptureError, "attention.in-torch-func", "attention.in-torch-func.hint"):
        vitscope.load(Mapped().eval())
