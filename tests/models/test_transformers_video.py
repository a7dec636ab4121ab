"""Video models: maps against slow twins, tokens on their own frames and pixels, folders, refusals."""

import numpy as np
import pytest
import torch

import vitscope
from tests.helpers.errors import raises
from tests.models import toys_video as toys
from tests.oracles import clips as oracle
from vitscope.errors import ImageError, LayoutError, UnsupportedError, UsageError
from vitscope.images import Picture
from vitscope.media.clip import Clip
from vitscope.media.clip_explanation import ClipExplanation
from vitscope.models.stacked import Stack

KINDS = toys.KINDS
pytestmark = pytest.mark.spread


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def clip():
    return Clip(toys.frames(), fps=10.0)


@pytest.fixture(scope="module")
def scope(kind):
    return vitscope.load(toys.classifier(kind).double())


@pytest.fixture(scope="module")
def twin(kind):
    return toys.classifier(kind, attention="eager").double()


@pytest.fixture(scope="module")
def pixels(scope, clip):
    """The clip as the model takes it, by its processor alone."""
    sampled = [clip.frames[i * 20 // 8] for i in range(8)]
    made = scope.adapter.processor(videos=[np.stack(sampled)], return_tensors="pt")
    return next(iter(made.values())).double()


def flat(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def test_the_layout_has_a_time_axis(kind, scope):
    steps = 8 // toys.TUBELET[kind]
    assert scope.layout.shape == (steps, 4, 4)
    assert scope.layout.prefix == toys.PREFIX[kind]
    assert str(scope.layout) == f"{len(toys.PREFIX[kind])} prefix + {steps} x 4 x 4 patches"


def test_rollout_is_the_product_of_dense_operators(kind, scope, twin, clip, pixels):
    expected = oracle.row(kind, oracle.Attentions(twin, pixels), oracle.mean_heads, 0.5, 0.5)
    e = scope.explain(clip, method="rollout")
    assert np.ptp(e.map) > 0.2 * e.map.mean()
    np.testing.assert_allclose(flat(e), expected, atol=1e-6)


def test_relevance_is_the_product_of_dense_operators(kind, scope, twin, clip, pixels):
    found = oracle.Attentions(twin, pixels, target=1)
    e = scope.explain(clip, method="relevance", target=1)
    expected = oracle.row(kind, found, oracle.positive, 1.0, 1.0)
    assert float(e.score) == pytest.approx(float(found.logits[0, 1]), abs=1e-6)
    np.testing.assert_allclose(flat(e), expected, atol=1e-6 * expected.max())


def test_gradcam_is_that_of_a_hook(kind, scope, twin, clip, pixels):
    prefix = len(toys.PREFIX[kind]) if kind != "vjepa2" else 0
    maps = [oracle.gradcam(kind, twin, pixels, target, prefix) for target in range(3)]
    target = next(n for n, values in enumerate(maps) if values.max() > 0)
    expected = maps[target]
    e = scope.explain(clip, method="gradcam", target=target)
    np.testing.assert_allclose(e.map.ravel(), expected, atol=1e-6 * expected.max())


def test_input_x_gradient_sums_over_each_tubelet(kind, scope, twin, clip, pixels):
    x = pixels.clone().requires_grad_()
    (grad,) = torch.autograd.grad(twin(**{twin.main_input_name: x}).logits[0, 0], x)
    product = (x * grad)[0].sum(1).detach().numpy()  # (T, H, W)
    deep = toys.TUBELET[kind]
    expected = product.reshape(8 // deep, deep, 4, 8, 4, 8).sum((1, 3, 5))
    e = scope.explain(clip, method="input-x-gradient", target=0)
    np.testing.assert_allclose(e.map, expected, atol=1e-6 * np.abs(expected).max())


def test_each_cell_of_the_map_is_the_token_of_its_pixels(kind, scope, pixels):
    """Painting one tubelet changes one token of the patch embedding: that at the cell's place."""
    adapter, deep = scope.adapter, toys.TUBELET[kind]
    module = next(m for n, m in scope.model.named_modules() if n.endswith("embeddings.patch_embeddings"))
    seen = []

    def keep(_module, _args, out):
        seen.append((out[0] if isinstance(out, tuple) else out).detach())

    handle = module.register_forward_hook(keep)
    places = ((0, 0, 0), (1, 2, 3), (8 // deep - 1, 3, 1))
    for t, y, x in places:
        painted = pixels.clone()
        painted[:, t * deep : (t + 1) * deep, :, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8] += 1
        for one in (pixels, painted):
            scope.engine.answer(adapter.stack.image(one.transpose(1, 2)))
        before, after = seen[-2].reshape(-1, 32), seen[-1].reshape(-1, 32)
        changed = (before != after).any(-1).nonzero()[:, 0].tolist()
        cell = np.ravel_multi_index((t, y, x), scope.layout.shape)
        assert changed == [cell]
        painted_rows = adapter.stack.image((painted != pixels).double().transpose(1, 2))[0].sum(0)
        grid = painted_rows.reshape(scope.layout.grid[0], -1, scope.layout.grid[1], 8).sum((1, 3))
        assert grid.flatten().nonzero()[:, 0].tolist() == [cell]
    handle.remove()


@pytest.mark.spread
def test_clips_of_a_batch_have_the_maps_that_they_have_alone(scope):
    check_alone(scope)


def test_the_cls_of_a_clip_is_its_own():
    """The one model whose CLS goes through its layers once for each frame is always among the fast tests."""
    check_alone(vitscope.load(toys.classifier("timesformer").double()))


def check_alone(scope):
    """Clips of a batch have the maps that they have by themselves."""
    clips = [Clip(toys.frames(seed=seed), fps=5.0) for seed in range(3)]
    for method in ("rollout", "relevance", "gradcam"):
        together = scope.explain(clips, method=method, target=[0, 1, 2])
        for n, e in enumerate(together):
            alone = scope.explain(clips[n], method=method, target=n)
            np.testing.assert_allclose(flat(e), flat(alone), atol=1e-7)


@pytest.mark.slow
def test_every_method_that_applies_gives_a_map(scope, clip):
    for support in scope.methods():
        if support:
            options = {"steps": 2} if support.name == "integrated-gradients" else {}
            options |= {"samples": 4} if support.name in ("smoothgrad", "token-removal") else {}
            if support.name == "similarity" and scope.layout.prefix == ("query",):
                options["query"] = "0,1,2"  # the pooler's token is not among the patches
            e = scope.explain(clip, method=support.name, **options)
            assert e.map.shape == scope.layout.shape
        else:
            assert support.reason


def test_rise_is_refused_because_its_masks_are_those_of_one_image(scope, clip):
    with raises(UnsupportedError, "engine.method") as caught:
        scope.explain(clip, method="rise")
    assert "several planes" in caught.value.message


def test_windows_of_occlusion_never_reach_over_two_steps(kind, scope, clip, pixels):
    """A twin for one token: the mean fall over the four windows that cover it, each in one time step."""
    deep, logits = toys.TUBELET[kind], scope.engine.answer(scope.adapter.stack.image(pixels.transpose(1, 2)))[0]
    target, falls = int(logits.argmax()), []
    for y, x in ((0, 0), (0, 1)):  # the windows over row 0, column 1: rows 0 and 1 only, though step 0 has a row above
        hidden = pixels.clone()
        hidden[:, deep : 2 * deep, :, y * 8 : y * 8 + 16, x * 8 : x * 8 + 16] = 0
        answer = scope.engine.answer(scope.adapter.stack.image(hidden.transpose(1, 2)))
        falls.append(float(logits[target] - answer[0, target]))
    e = scope.explain(clip, method="occlusion", target=target)
    assert e.map[1, 0, 1] == pytest.approx(np.mean(falls), abs=1e-5)


def test_a_query_names_step_row_and_column(clip):
    scope = vitscope.load(toys.classifier("videomae").double())
    e = scope.explain(clip, method="attention", query="2,1,3")
    index = np.ravel_multi_index((2, 1, 3), (4, 4, 4))
    np.testing.assert_allclose(e.map.ravel(), scope.queries(clip, layer=-1)[index], atol=1e-7)
    with raises(UsageError, "geometry.no-such-patch"):
        scope.explain(clip, method="attention", query="1,3")


def test_predictions_are_those_of_the_model(scope, twin, clip, pixels):
    e = scope.explain(clip, method="rollout")
    expected = twin(**{twin.main_input_name: pixels}).logits.softmax(-1)[0].detach().numpy()
    assert dict(e.predictions) == pytest.approx({f"LABEL_{i}": p for i, p in enumerate(expected)}, abs=1e-6)


def test_the_frames_that_were_taken_are_in_the_notes(scope, clip):
    e = scope.explain(clip, method="rollout")
    assert e.clip.numbers == (0, 2, 5, 7, 10, 12, 15, 17)
    note = next(n for n in e.provenance["notes"] if n.code == "media.frames-at")
    assert note.params["numbers"] == "0, 2, 5, 7, 10, 12, 15, 17"
    assert note.params["seconds"].startswith("0.00, 0.20, 0.50")


def test_the_region_is_that_of_each_frame(kind, scope, clip):
    e = scope.explain(clip, method="rollout")
    left, top, right, bottom = e.region.box
    edge = 48 * 32 / 36 if kind == "vjepa2" else 48  # resized to 36 and cropped to 32
    assert (right - left, bottom - top) == pytest.approx((edge, edge), abs=1.01)
    assert (left + right) / 2 == pytest.approx(32, abs=1)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (Picture(toys.frames(1)[0]), "media.not-a-clip"),
        ("missing.mp4", "media.no-such-file"),
    ],
)
def test_what_is_no_clip_is_refused(given, code):
    scope = vitscope.load(toys.classifier("videomae"))
    with raises(ImageError, code):
        scope.explain(given)


def test_a_size_is_refused(clip):
    with raises(UsageError, "models.clip-size", "models.clip-size.hint"):
        vitscope.load(toys.classifier("videomae")).explain(clip, size=64)


def test_a_clip_of_a_model_of_images_is_refused(clip):
    from tests.models import toys as images

    model = next(row for row in images.ROWS if row.name == "vit").model()
    with raises(ImageError, "images.other-medium"):
        vitscope.load(model).explain(clip)


def test_what_is_measured_on_images_refuses_a_clip(clip):
    scope = vitscope.load(toys.classifier("videomae"))
    e = scope.explain(clip, method="rollout")
    with raises(UnsupportedError, "explanation.images-only"):
        scope.measure(e)
    with raises(UnsupportedError, "engine.statistics-of-planes"):
        scope.statistics(clip)


def test_a_processor_that_does_not_fit_is_refused():
    from transformers import VideoMAEVideoProcessor

    with raises(LayoutError, "models.clip-shape"):
        scope = vitscope.load(toys.classifier("videomae"), processor=VideoMAEVideoProcessor())
        scope.explain(Clip(toys.frames()))


def test_pixels_that_no_tubelet_covers_are_refused():
    with raises(LayoutError, "models.not-whole-patches"):
        Stack((7, 32, 32), (2, 8, 8))


def test_a_stack_lays_each_tubelet_out_as_one_rectangle():
    stack = Stack((4, 6, 8), (2, 3, 4))
    planes = torch.arange(4 * 6 * 8.0).reshape(1, 4, 6, 8)
    image = stack.image(planes)
    assert image.shape == (1, 24, 8)
    assert torch.equal(stack.planes(image), planes)
    assert image[0, 6:12, 4:8].sort().values.flatten().tolist() == planes[0, 0:2, 3:6, 4:8].flatten().tolist()


@pytest.mark.spread
def test_a_folder_is_loaded_with_its_own_processor(tmp_path, kind):
    from vitscope.models.transformers.video import video_processor

    model = toys.classifier(kind)
    model.save_pretrained(tmp_path)
    video_processor(model.config, (32, 32)).save_pretrained(tmp_path)
    scope = vitscope.load(tmp_path)
    clip = Clip(toys.frames())
    e = scope.explain(clip, method="rollout")
    assert isinstance(e, ClipExplanation)
    np.testing.assert_allclose(e.map, vitscope.load(model).explain(clip, method="rollout").map, atol=1e-7)


def test_a_folder_of_an_older_library_has_an_image_processor(tmp_path):
    from transformers import VideoMAEImageProcessor

    model = toys.classifier("videomae")
    model.save_pretrained(tmp_path)
    VideoMAEImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert vitscope.load(tmp_path).explain(Clip(toys.frames()), method="rollout").map.shape == (4, 4, 4)
