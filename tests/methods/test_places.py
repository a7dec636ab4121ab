"""Targets that say where: scores and gradients beside plain autograd on the library's own logits."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn

import vitscope
from tests.helpers.errors import raises
from tests.oracles.attention import rollout
from vitscope.errors import UsageError
from vitscope.geometry import ImageRegion
from vitscope.methods.places import placed
from vitscope.methods.targets import format_target, parse_target

PHOTO = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
NAMES = {0: "sky", 1: "cat", 2: "dog", 3: "road"}


def _sharpened(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("query", "key", "q_proj", "k_proj", "classifier", "class_labels")):
            parameter.data.mul_(15)
    return model.eval()


@pytest.fixture(scope="module")
def segmenter() -> Any:
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 2],
        decoder_hidden_size=16,
        id2label=NAMES,
    )
    config.image_size = 64
    return vitscope.load(_sharpened(transformers.SegformerForSemanticSegmentation(config)))


@pytest.fixture(scope="module")
def detector() -> Any:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        **{**SMALL, "image_size": [32, 32]}, num_detection_tokens=5, id2label=NAMES, use_mid_position_embeddings=False
    )
    model = _sharpened(transformers.YolosForObjectDetection(config))
    model.vit.embeddings.detection_tokens.data.normal_()
    return vitscope.load(model)


def _by_hand(scope: Any, score: Any, before: int = 0) -> tuple[float, np.ndarray]:
    """Return a score of the library's own output, and pixels times gradient summed over each patch of the map.

    The first patch's cell begins so many pixels before the input: Segformer's patches overlap (7 pixels each 4, 3 of
    padding), and a pixel counts for the one whose middle is nearest.
    """
    pixels = scope.prepare(PHOTO).pixels[None].clone().requires_grad_()
    value = score(scope.model(pixel_values=pixels).logits)
    (grad,) = torch.autograd.grad(value, pixels)
    rows, columns = scope.adapter.layout((pixels.shape[2], pixels.shape[3])).grid
    flat = (grad * pixels)[0].detach().sum(0)
    cells = np.zeros((rows, columns))
    for (y, x), number in np.ndenumerate(flat.numpy()):
        row, column = ((y + before) * rows // flat.shape[0], (x + before) * columns // flat.shape[1])
        cells[min(row, rows - 1), min(column, columns - 1)] += number
    return float(value.detach()), cells


def _same(found: Any, value: float, cells: np.ndarray) -> None:
    assert found.score == pytest.approx(value, rel=1e-4)
    np.testing.assert_allclose(found.map, cells, atol=1e-4 * np.abs(cells).max())


@pytest.mark.parametrize(("which", "number"), [("cat", 1), (3, 3), (np.int64(2), 2), (torch.tensor(0), 0)])
def test_a_box_is_the_mean_logit_over_its_cells(segmenter: Any, which: Any, number: int) -> None:
    """The photo is squashed onto the map's cells; the box ends on their edges, so that the mean is over whole cells."""
    with torch.no_grad():
        rows, columns = segmenter.model(pixel_values=segmenter.prepare(PHOTO).pixels[None]).logits.shape[2:]
    box = (96 / columns * 3, 64 / rows * 2, 96 / columns * 9, 64 / rows * 11)
    target = vitscope.region(which, box=box)
    found = segmenter.explain(PHOTO, method="input-x-gradient", target=target)
    _same(found, *_by_hand(segmenter, lambda logits: logits[0, number, 2:11, 3:9].mean(), before=2))
    assert found.target.startswith(f"{NAMES[number]} in the box (")


def test_cells_count_by_the_share_that_lies_in_the_region() -> None:
    """A crop of the photo on 2 x 2 cells of 20 x 10 pixels: shares counted pixel by pixel."""
    where = ImageRegion((60, 40), (10, 5, 50, 25), (32, 32))
    answer = torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    box, mask = (25, 10, 60, 18), np.zeros((40, 60), bool)
    mask[10:18, 25:60] = True
    areas = np.zeros((2, 2))
    for y in range(5, 25):
        for x in range(10, 50):
            areas[(y - 5) // 10, (x - 10) // 20] += mask[y, x]
    expected = float((areas / areas.sum() * answer[0, 0].numpy()).sum())
    for target in (vitscope.region(0, box), vitscope.region(0, mask), vitscope.region(0, mask=torch.tensor(mask))):
        assert placed(target, [where], (2, 2)).read(answer).item() == pytest.approx(expected)


def test_a_mask_and_a_contrast(segmenter: Any) -> None:
    mask = Image.fromarray(np.indices((64, 96))[1].astype(np.uint8) // 48 * 255)  # the right half
    found = segmenter.explain(PHOTO, method="input-x-gradient", target=vitscope.region("cat - dog", mask=mask))

    def score(logits: Tensor) -> Tensor:
        half = logits.shape[3] // 2
        return (logits[0, 1, :, half:] - logits[0, 2, :, half:]).mean()

    _same(found, *_by_hand(segmenter, score, before=2))
    assert found.target == "cat - dog in a mask of 3072 pixels"


def test_each_image_of_a_batch_has_its_own_part(segmenter: Any) -> None:
    target = vitscope.region("cat", box=(10, 10, 40, 30))
    other = np.ascontiguousarray(PHOTO[:, ::-1].repeat(2, 0).repeat(2, 1))
    together = segmenter.explain([PHOTO, other], method="input-x-gradient", target=target)
    alone = [segmenter.explain(photo, method="input-x-gradient", target=target) for photo in (PHOTO, other)]
    for one, two in zip(together, alone, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-5)
    each = [target, vitscope.region("dog", box=(0, 0, 192, 128))]
    scores = [e.score for e in segmenter.explain([PHOTO, other], method="input-x-gradient", target=each)]
    assert scores[0] == pytest.approx(alone[0].score, abs=1e-5)
    assert scores[1] == pytest.approx(_mean_logit(segmenter, other, 2), abs=1e-5)


def _mean_logit(scope: Any, photo: np.ndarray, number: int) -> float:
    with torch.no_grad():
        return float(scope.model(pixel_values=scope.prepare(photo).pixels[None]).logits[0, number].mean())


@pytest.mark.parametrize(
    ("fixture", "target"),
    [
        pytest.param("segmenter", vitscope.region("cat", box=(0, 0, 48, 32)), marks=pytest.mark.slow),
        ("detector", vitscope.query(2, "dog")),
    ],
)
def test_the_whole_pipeline_takes_places(request: Any, fixture: str, target: Any) -> None:
    scope = request.getfixturevalue(fixture)
    assert scope.validate(method="relevance", target=target)
    found = scope.explain(PHOTO, method="input-x-gradient", target=target)
    assert found.predictions == []
    by_text, given = (scope.measure(found, target=t, n_random_maps=2).to_dict() for t in (None, target))
    assert by_text["score"] == given["score"] == found.target
    assert by_text["whole"] == pytest.approx(found.score, abs=1e-5)
    assert scope.predict_without(PHOTO, [0], target=target).whole == pytest.approx(found.score, abs=1e-5)
    assert scope.statistics(PHOTO, importance=True, target=target)
    assert scope.view(PHOTO, target=target, max_mb=1)
    pixels = scope.prepare(PHOTO).pixels[None]
    attributed = scope.attribute(pixels, method="input-x-gradient", target=target)
    assert attributed.maps.shape[1:] == found.map.shape


def test_a_query_reads_from_its_own_token(detector: Any) -> None:
    found = detector.explain(PHOTO, method="input-x-gradient", target=vitscope.query(3, "cat"))
    _same(found, *_by_hand(detector, lambda logits: logits[0, 3, 1]))
    assert found.target == "cat at query 3"
    pixels = detector.prepare(PHOTO).pixels[None]
    with torch.no_grad():
        model = detector.model
        model.set_attn_implementation("eager")
        attentions = model.vit(pixel_values=pixels, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
    count = attentions[0].shape[-1]
    for index in (0, 3):
        row = torch.eye(count)[count - 5 + index]  # detection tokens stand last
        expected = rollout(list(attentions), row)[0].numpy()
        e = detector.explain(PHOTO, method="rollout", target=vitscope.query(index, "cat"))
        np.testing.assert_allclose(e.map.ravel(), expected[1:17], atol=1e-5)
        np.testing.assert_allclose(e.prefix, np.concatenate([expected[:1], expected[17:]]), atol=1e-5)
        assert f"it reads from query {index}" in " ".join(e.provenance["notes"])


@pytest.mark.slow
def test_a_query_of_a_decoder_reads_from_its_own_token() -> None:
    """DETR: weights of the other queries come through the decoder's self-attention alone."""
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=4,
        id2label=NAMES,
    )
    model = _sharpened(transformers.DetrForObjectDetection(config))
    scope = vitscope.load(model)
    pixels = scope.prepare(PHOTO).pixels[None]
    maps = [scope.explain(PHOTO, method="rollout", target=vitscope.query(i, 1)) for i in (0, 2)]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(pixel_values=pixels, output_attentions=True)
    cross, encoder = out.cross_attentions[0].mean(1)[0], out.encoder_attentions[0].mean(1)[0]
    for index, found in zip((0, 2), maps, strict=True):
        row = 0.5 * cross[index]  # half stays with the query
        expected = 0.5 * row + 0.5 * row @ encoder
        np.testing.assert_allclose(found.map.ravel(), expected.numpy(), atol=1e-5)
        assert found.prefix[index] == pytest.approx(0.5, abs=1e-5)


def test_patch_tokens_with_a_row_of_scores_each_are_a_map() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.vit = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False)
            self.head = nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.vit(x).last_hidden_state[:, 1:])
            return scores

    model = Dense().eval()
    scope = vitscope.load(model, labels=["sky", "cat", "dog", "road"])
    found = scope.explain(PHOTO, method="input-x-gradient", target=vitscope.region("dog", box=(24, 16, 72, 64)))
    with torch.no_grad():
        grid = model(scope.prepare(PHOTO).pixels[None]).reshape(4, 4, 4)  # rows, columns, classes
    assert found.score == pytest.approx(grid[1:, 1:3, 2].mean().item(), abs=1e-5)
    with raises(UsageError, "methods.many-places", "methods.many-places.rows.hint"):
        scope.explain(PHOTO, method="input-x-gradient")


def test_scores_at_many_places_have_no_target_of_their_own(segmenter: Any, detector: Any) -> None:
    for target in (None, 1, "cat"):
        with raises(UsageError, "methods.many-places", "methods.many-places.map.hint"):
            segmenter.explain(PHOTO, method="relevance", target=target)
        with raises(UsageError, "methods.many-places", "methods.many-places.rows.hint"):
            detector.explain(PHOTO, method="relevance", target=target)
    assert segmenter.explain(PHOTO).target is None  # a method without a target is chosen


def test_places_that_are_not_there(segmenter: Any, detector: Any, tiny_scope: Any) -> None:
    def explain(scope: Any, target: Any) -> None:
        scope.explain(PHOTO, method="relevance", target=target)

    with raises(UsageError, "methods.region-not-seen"):
        explain(segmenter, vitscope.region("cat", box=(100, 0, 120, 10)))
    with raises(UsageError, "methods.mask-size"):
        explain(segmenter, vitscope.region("cat", mask=np.ones((32, 32))))
    with raises(UsageError, "methods.no-map"):
        explain(tiny_scope, vitscope.region(1, box=(0, 0, 10, 10)))
    with raises(UsageError, "methods.no-map"):
        explain(detector, vitscope.region(1, box=(0, 0, 10, 10)))
    with raises(UsageError, "methods.no-queries"):
        explain(segmenter, vitscope.query(1, "cat"))
    for index in (5, -1):
        with raises(UsageError, "methods.no-such-query"):
            explain(detector, vitscope.query(index, "cat"))
        with raises(UsageError, "methods.no-such-query"):
            detector.explain(PHOTO, method="rollout", target=vitscope.query(index, "cat"))
    with raises(UsageError, "errors.unknown-name"):
        explain(detector, vitscope.query(1, "car"))
    several = [vitscope.query(0, "cat"), vitscope.query(1, "cat")]
    with raises(UsageError, "engine.several-queries", "engine.several-queries.hint"):
        detector.explain([PHOTO, PHOTO], method="rollout", target=several)
    maps = detector.explain([PHOTO, PHOTO], method="rollout", target=several, batch_size=1)
    assert not np.allclose(maps[0].prefix, maps[1].prefix)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: vitscope.region(1), "methods.box-or-mask"),
        (lambda: vitscope.region(1, box=(0, 0, 1, 1), mask=np.ones((2, 2))), "methods.box-or-mask"),
        (lambda: vitscope.region(1, box=(5, 0, 1, 1)), "methods.bad-box"),
        (lambda: vitscope.region(1, box=(0, 0, 1)), "methods.bad-box"),
        (lambda: vitscope.region(1, box="abcd"), "methods.bad-box"),
        (lambda: vitscope.region(1, box=(0, 0, float("nan"), 1)), "methods.bad-box"),
        (lambda: vitscope.region(1, mask=np.zeros((4, 4))), "methods.bad-mask"),
        (lambda: vitscope.region(1, mask=np.ones((4, 4, 3))), "methods.bad-mask"),
        (lambda: vitscope.region(1, mask="mask.png"), "methods.bad-mask"),
        (lambda: vitscope.region(True, box=(0, 0, 1, 1)), "methods.place-class"),
        (lambda: vitscope.region(1.5, box=(0, 0, 1, 1)), "methods.place-class"),
        (lambda: vitscope.query("x", 1), "methods.query-index"),
        (lambda: vitscope.query(True, 1), "methods.query-index"),
        (lambda: parse_target("region:cat"), "methods.bad-box"),
        (lambda: parse_target("query:cat:1"), "methods.query-index"),
    ],
)
def test_what_is_no_place(make: Any, code: str) -> None:
    with raises(UsageError, code):
        make()


@pytest.mark.parametrize("kind", [tuple, list, np.array, torch.tensor])
def test_a_box_may_be_of_any_numbers(kind: Any) -> None:
    """An array of four numbers is a box, not a mask."""
    edges = [1.0, 2.0, 30.0, 40.0]
    for found in (vitscope.region(3, kind(edges)), vitscope.region(3, box=kind(edges))):
        assert found.box == tuple(edges)
        assert found.mask is None
    assert vitscope.region(3, np.ones((4, 5))).box is None
    with raises(UsageError, "methods.bad-box"):
        vitscope.region(3, box=torch.tensor([edges]))


@pytest.mark.parametrize("box", ["1,2", "1,2,x,4", "5", ""])
def test_a_box_that_is_none_is_told_as_it_was_written(box: str) -> None:
    with raises(UsageError, "methods.bad-box") as caught:
        parse_target(f"region:cat:{box}")
    assert caught.value.message.params["box"] == box


@pytest.mark.parametrize(
    "words", ["region:cat:1,2.5,30,40", "query:7:cat", "region:3:0,0,5,5", "query:0:tabby, tabby cat"]
)
def test_places_as_flags(words: str) -> None:
    assert format_target(parse_target(words)) == words
