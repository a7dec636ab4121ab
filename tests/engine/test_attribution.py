"""Maps of pixels as tensors: those of `explain` to the bit, one target for each image or several of each."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models import toys as zoo
from vitscope.errors import UnsupportedError, UsageError
from vitscope.methods.base import METHODS
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8) for seed in range(3)]
QUICK = {
    "rise": {"masks": 8},
    "token-removal": {"samples": 8},
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 2},
}


def scope_of(name="vit", dtype=torch.float32):
    torch.manual_seed(0)
    row = next(row for row in zoo.ROWS if row.name == name)
    return Scope(TransformersAdapter(row.model().to(dtype), weights="none"), torch.device("cpu"), dtype)


same_scope = functools.cache(scope_of)  # for tests that leave it as it was


def pixels_of(scope):
    return torch.stack([scope.prepare(photo).pixels for photo in PHOTOS])


@pytest.mark.spread
@pytest.mark.parametrize("name", ["auto", *(name for name, _ in METHODS)])
def test_it_is_explain_to_the_bit(name):
    scope = same_scope("vit")
    if name != "auto" and not scope.supports(name):
        with pytest.raises(UnsupportedError):
            scope.attribute(pixels_of(scope), method=name)
        return
    options = {"method": name, "batch_size": 8, **QUICK.get(name, {})}
    pixels = pixels_of(scope)
    before = pixels.clone()
    found, explained = scope.attribute(pixels, **options), scope.explain(PHOTOS, **options)
    assert torch.equal(pixels, before)
    assert not found.maps.requires_grad
    for row, e in enumerate(explained):
        assert np.array_equal(found.maps[row].numpy(), e.map)
        assert np.array_equal(found.prefix[row].numpy(), e.prefix)
        assert (found.method, found.layout, found.caveat) == (e.method, e.layout, e.caveat)
        assert (found.target and found.target[row]) == e.target
        assert (None if found.score is None else float(found.score[row])) == e.score
        assert [*found.notes[row]] == e.provenance["notes"]


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("method", ["relevance", "gradcam", "input-x-gradient", "integrated-gradients", "occlusion"])
@pytest.mark.parametrize(
    "given", [[2, "LABEL_0", None], torch.tensor([2, 0, 1]), np.array([2, 0, 1]), [np.int64(2), 0, torch.tensor(1)]]
)
def test_each_image_has_its_own_target(method, given):
    scope = same_scope("vit", torch.float64)
    pixels, options = pixels_of(scope), {"method": method, **QUICK.get(method, {})}
    found = scope.attribute(pixels, target=given, **options)
    explained = scope.explain(PHOTOS, target=given, **options)
    for row, target in enumerate(given):
        alone = scope.attribute(pixels[row : row + 1], target=target, **options)
        torch.testing.assert_close(found.maps[row], alone.maps[0], rtol=1e-5, atol=1e-6 * float(alone.maps.abs().max()))
        assert found.target[row] == alone.target[0] == explained[row].target
        np.testing.assert_array_equal(explained[row].map, found.maps[row].numpy())
    assert not torch.equal(found.maps, scope.attribute(pixels, target=1, **options).maps)


def test_targets_in_windows_of_a_stream():
    scope = same_scope()
    labels = [0, 1, 2, 3, 1, 0, 2]
    photos = [PHOTOS[n % 3] for n in range(len(labels))]
    streamed = list(scope.explain_many(iter(photos), method="gradcam", target=labels, batch_size=2))
    assert [e.target for e in streamed] == [f"LABEL_{label}" for label in labels]
    for photo, label, e in zip(photos, labels, streamed, strict=True):
        np.testing.assert_allclose(
            e.map, scope.explain(photo, method="gradcam", target=label).map, rtol=1e-4, atol=1e-7
        )
    broken = [PHOTOS[0], "no-such-file.jpg", PHOTOS[1]]
    first, failed, last = scope.explain_many(broken, method="gradcam", target=[3, 1, 2])
    assert isinstance(failed, vitscope.Failure)
    assert (first.target, last.target) == ("LABEL_3", "LABEL_2")


def test_several_targets_of_each_image():
    scope, forwards = same_scope(), []
    pixels = pixels_of(scope)
    scope.attribute(pixels, method="relevance")
    handle = scope.model.register_forward_hook(lambda *_: forwards.append(1))
    several = scope.attribute(pixels, method="relevance", targets=torch.tensor([3, 1]))
    handle.remove()
    assert len(forwards) == 1
    for target, found in zip((3, 1), several, strict=True):
        assert found.target == [f"LABEL_{target}"] * 3
        torch.testing.assert_close(found.maps, scope.attribute(pixels, method="relevance", target=target).maps)
    assert [[e.target for e in row] for row in scope.explain(PHOTOS, method="relevance", targets=[3, 1])] == [
        ["LABEL_3", "LABEL_1"]
    ] * 3


def test_a_model_that_takes_one_image_at_a_time():
    from tests.models.traced_zoo import scope_of as traced

    scope = traced("hf-pixtral")
    assert not scope.supports("batches")
    pixels = torch.randn(2, 3, 32, 32)
    found = scope.attribute(pixels, method="rollout")
    for row in range(2):
        torch.testing.assert_close(
            found.maps[row : row + 1], scope.attribute(pixels[row : row + 1], method="rollout").maps
        )


def test_the_model_is_left_as_it_was_and_half_precision_pixels_are_taken():
    scope = scope_of()
    scope.model.train()
    pixels = pixels_of(scope)
    found = scope.attribute(pixels.to(torch.bfloat16).requires_grad_(True), method="relevance")
    assert scope.model.training
    assert all(parameter.grad is None for parameter in scope.model.parameters())
    assert found.maps.dtype == torch.float32
    with torch.inference_mode():
        assert torch.equal(
            scope.attribute(pixels, method="rollout").maps, scope_of().attribute(pixels, method="rollout").maps
        )


def test_in_one_call_with_any_module():
    from timm.models import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5).eval()
    pixels = torch.randn(2, 3, 32, 32)
    found = vitscope.attribute(model, pixels, method="rollout", residual_weight=0.3)
    assert torch.equal(found.maps, vitscope.load(model).attribute(pixels, method="rollout", residual_weight=0.3).maps)
    assert repr(found) == "<Attribution of 2 images by rollout: 1 prefix + 4 x 4 patches>"
    assert len(vitscope.attribute(model, pixels, method="gradcam", targets=[0, 1])) == 2


@pytest.mark.spread
@pytest.mark.covering
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", ["gradcam", "relevance", "attnlrp", "integrated-gradients", "smoothgrad", "legrad"])
def test_the_callers_gradient_mode_changes_nothing(mode, method):
    scope, options = scope_of(), {"method": method, **QUICK.get(method, {})}
    outside, inside = scope_of(), scope
    expected = outside.attribute(pixels_of(outside), **options)
    with mode():
        pixels = pixels_of(inside)
        found, explained = inside.attribute(pixels, **options), inside.explain(PHOTOS[0], **options)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.maps, expected.maps)
    np.testing.assert_array_equal(explained.map, outside.explain(PHOTOS[0], **options).map)
    assert torch.equal(inside.attribute(pixels, **options).maps, expected.maps)


@pytest.mark.parametrize("mode", [pytest.param(torch.no_grad, marks=pytest.mark.slow), torch.inference_mode])
@pytest.mark.slow
def test_the_callers_gradient_mode_changes_no_measurement(mode):
    scope = scope_of()
    explanation, options = scope.explain(PHOTOS[0], method="gradcam"), {"metrics": "all", "n_random_maps": 3}
    expected = scope.measure(explanation, **options)
    with mode():
        found = scope.measure(scope.explain(PHOTOS[0], method="gradcam"), **options)
    assert found.numbers == expected.numbers


@pytest.mark.slow
def test_threads_that_share_a_model_get_their_own_maps():
    scope = same_scope()
    pixels = pixels_of(scope)
    jobs = [(method, row) for method in ("gradcam", "attnlrp", "legrad") for row in range(3)] * 3

    def work(job):
        return scope.attribute(pixels[job[1] : job[1] + 1], method=job[0]).maps

    expected = [work(job) for job in jobs]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(torch.equal, pool.map(work, jobs), expected))


def test_a_sequence_of_any_kind_has_the_targets():
    scope = same_scope()
    pixels = pixels_of(scope)
    assert scope.attribute(pixels, method="gradcam", target=range(3)).target == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert len(scope.attribute(pixels, method="gradcam", targets=range(2))) == 2


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    ("pixels", "options", "code"),
    [
        (torch.tensor(1.0), {}, "engine.pixels"),
        (torch.full((2, 3, 32, 32), torch.nan), {}, "engine.pixels-not-finite"),
        (torch.zeros(2, 3, 2, 2), {}, "geometry.not-a-grid"),
        (torch.zeros(2, 3, 32, 32), {"batch_size": "8"}, "engine.batch-size"),
        (torch.zeros(2, 3, 32, 32), {"seed": None}, "engine.seed"),
        (torch.zeros(2, 3, 32, 32), {"target": lambda answer: answer.detach()[:, 0]}, "methods.target-function-graph"),
        (torch.zeros(3, 32, 32), {}, "engine.pixels"),
        (torch.zeros(0, 3, 32, 32), {}, "engine.pixels"),
        (torch.zeros(2, 32, 32, 3), {}, "engine.pixels"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), {}, "engine.pixels"),
        (np.zeros((2, 3, 32, 32), np.float32), {}, "engine.pixels"),
        (torch.zeros(2, 3, 32, 32), {"size": 32}, "engine.attribute-size"),
        (torch.zeros(2, 3, 32, 32), {"target": [1]}, "engine.target-count"),
        (torch.zeros(2, 3, 32, 32), {"target": 1, "targets": [1]}, "engine.target-and-targets"),
        (torch.zeros(2, 3, 32, 32), {"targets": 1}, "engine.targets-not-several"),
        (torch.zeros(2, 3, 32, 32), {"target": [[1, 2]]}, "engine.target-kind"),
        (torch.zeros(2, 3, 32, 32), {"target": torch.tensor([0.5, 1.5])}, "engine.target-kind"),
    ],
)
def test_what_is_no_batch_of_pixels_or_no_target_is_refused(pixels, options, code):
    with raises(UsageError, code):
        same_scope().attribute(pixels, method="gradcam", **options)


@pytest.mark.usefixtures("as_shipped")
def test_channels_last_are_told_how_to_come_first():
    pixels = torch.rand(2, 32, 32, 3)
    with raises(UsageError, "engine.pixels", "engine.pixels.last-hint"):
        same_scope().attribute(pixels, method="gradcam")
    assert same_scope().attribute(pixels.permute(0, 3, 1, 2), method="gradcam").maps.shape[0] == 2


def test_as_many_targets_as_images():
    scope = same_scope()
    for photos, target in ((PHOTOS, [0, 1]), (PHOTOS[0], [0, 1]), (iter(PHOTOS), [0, 1]), (iter(PHOTOS), [0, 1, 2, 3])):
        with raises(UsageError, "engine.target-count", "engine.target-count.hint"):
            list(scope.explain_many(photos if not isinstance(photos, np.ndarray) else [photos], target=target))
    assert scope.explain(PHOTOS[0], method="gradcam", target=[2]).target == "LABEL_2"


def test_a_scope_in_one_line_and_as_a_table():
    scope = same_scope()
    assert repr(scope) == f"<Scope of {scope.adapter.reference}: 1 prefix + 4 x 4 patches>"
    page = scope._repr_html_()
    assert all(fact in page for fact in scope.adapter.describe())


def test_decisions_are_logged(caplog):
    caplog.set_level("DEBUG", "vitscope")
    scope = scope_of()
    scope.explain(PHOTOS[0])
    assert scope.supports("order-free")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("vitscope.engine")]
    assert any("evidence-walk (why this class; where it looks: method=random-walk)" in line for line in told)
    assert any("3 blocks" in line for line in told)
    assert any("stays when tokens are shuffled" in line for line in told)
