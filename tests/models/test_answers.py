"""Which tensor of an output is explained: the only one, the named one, the caller's choice, or a refusal."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import vitscope
from tests.helpers.errors import raises
from vitscope.errors import LayoutError, UnknownNameError, UsageError
from vitscope.models.answers.answers import AnswerReader, answer_of

PHOTO = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
A, B, C = torch.rand(1, 7), torch.rand(1, 3), torch.rand(1, 2, 4, 4)
Pair = namedtuple("Pair", ["features", "scores"])
Named = namedtuple("Named", ["logits", "aux_logits"])


@dataclass
class Several:
    features: Tensor
    scores: Tensor


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (A, A),
        ([A], A),
        ((torch.tensor(0.3), A), A),  # (loss, logits)
        ((A, None), A),
        ({"out": A, "loss": torch.rand(1)}, A),
        ({"loss": torch.tensor(1.0), "scores": A, "hidden_states": [B, C]}, A),
        ({"mask": torch.ones(1, 7, dtype=torch.bool), "scores": A}, A),
        ({"features": B, "logits": A}, A),
        (Named(A, B), A),
        ({"aux": [B], "nested": {"x": C}, "logits": A}, A),
        ({"last_hidden_state": C, "pooler_output": A}, A),
        ({"last_hidden_state": C, "pooler_output": [A.expand(5, 7)]}, A.expand(5, 7)[None]),
        ({"x_norm_clstoken": A, "x_norm_patchtokens": C, "masks": None}, A),
        (SimpleNamespace(scores=A, name="x"), A),
        (Several(A, torch.tensor(0.0)), A),
        ({"scores": A, "logit_scale": torch.rand(())}, A),
        ({"scores": A, "anchors": torch.rand(100, 4)}, A),
        ((A, [torch.rand(1, 2, 5, 5).softmax(-1), torch.rand(1, 2, 5, 5).softmax(-1)]), A),  # (logits, attention)
        ((A, torch.rand(1, 3, 2, 5, 5).softmax(-1)), A),
        ((torch.rand(1, 2, 1, 5).softmax(-1), A), A),
        ((A, A.softmax(1), A.argmax(1)), A),
        ({"p": A.sigmoid(), "z": A}, A),
        (torch.rand(1, 5, 5).softmax(-1), None),
        (torch.rand(1), None),
    ],
)
def test_what_is_read_where_one_answer_is_sensible(output: Any, expected: Tensor | None) -> None:
    read = answer_of(output)
    alone = output if isinstance(output, Tensor) and output.ndim > 1 else None
    torch.testing.assert_close(read, alone if alone is not None else output[:, None] if expected is None else expected)


@pytest.mark.parametrize(
    ("output", "first"),
    [
        ((A, B), "0"),
        ([C, C, C], "0"),
        ((A, torch.rand(1, 5, 5)), "0"),
        ((A.softmax(1), torch.rand(1, 7)), "0"),
        ({"out": C, "aux": C}, "'out'"),
        ({"pred_logits": A, "pred_boxes": B}, "'pred_logits'"),
        (Pair(A, B), "'features'"),
        (Several(A, B), "'features'"),
        ({"feature_maps": (C, C)}, "'feature_maps[0]'"),
        ((A, {"x": B}), "0"),
        ({"last": A, "pooler_output": [B, C]}, "'last'"),
    ],
)
def test_several_answers_are_refused_with_their_names(output: Any, first: str) -> None:
    with raises(UsageError, "models.several-answers", "models.several-answers.hint") as caught:
        answer_of(output)
    assert f"output={first}" in caught.value.hint
    choice = first.strip("'")
    read = AnswerReader(int(choice) if choice.isdigit() else choice)(output)  # the hint can be followed to the letter
    assert isinstance(read, Tensor)
    assert " x ".join(map(str, read.shape)) in caught.value.message


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("a", A),
        ("b", B),
        ("maps[1]", B),
        ("maps[-1]", C),
        ("deep.x", C),
        (0, A),
        ("1", B),
        ("[0]", A),
        ("only", B),
        ("odd.name", C),
        (lambda o: o["maps"][0], A),
    ],
)
def test_the_caller_chooses(chosen: Any, expected: Tensor) -> None:
    output = {"a": A, "b": B, "maps": [A, B, C], "deep": {"x": C, "y": B}, "only": [B], "odd.name": C}
    torch.testing.assert_close(AnswerReader(chosen)(output), expected)


def test_choices_that_are_not_there() -> None:
    with raises(UnknownNameError, "errors.unknown-name") as caught:
        AnswerReader("logit")({"logits": A, "boxes": B})
    assert caught.value.choices == ("logits", "boxes")
    with raises(UnknownNameError, "errors.unknown-name"):
        AnswerReader(2)((A, B))
    with raises(UsageError, "models.several-answers") as several:
        AnswerReader("maps")({"maps": [A, B], "logits": A})
    assert "'maps[0]' (1 x 7), 'maps[1]' (1 x 3)" in several.value.message
    with raises(UsageError, "models.output-not-a-tensor", "models.output-not-a-tensor.hint"):
        AnswerReader(lambda output: output)([A])
    with raises(UsageError, "models.output-function-failed", "models.output-function-failed.hint") as failed:
        AnswerReader(lambda output: output["logits"])((A, B))
    assert "0 (1 x 7), 1 (1 x 3)" in failed.value.hint
    with raises(UsageError, "models.output-is-a-tensor", "models.output-is-a-tensor.hint"):
        AnswerReader("logits")(A)
    with raises(UsageError, "models.one-number"):
        AnswerReader(lambda output: output.sum())(A.expand(4, 7), 4)
    with raises(LayoutError, "models.answer-without-tensor"):
        answer_of({"boxes": torch.ones(1, 2, dtype=torch.long)})


@pytest.mark.parametrize("output", [torch.tensor([3]), torch.ones(1, 4, 4, dtype=torch.bool)])
def test_numbers_of_classes_are_no_scores(output: Tensor) -> None:
    with raises(UsageError, "models.whole-numbers", "models.whole-numbers.hint"):
        answer_of(output)


def test_one_number_for_each_image() -> None:
    assert answer_of(torch.rand(3), 3).shape == (3, 1)
    assert answer_of(torch.rand(3, 1), 3).shape == (3, 1)
    assert answer_of(torch.rand(()), 1).shape == (1, 1)
    assert answer_of(torch.rand(5), 1).shape == (1, 5)  # squeezed


class Wrapped(nn.Module):
    """A ViT whose output is wrapped by a function of its tokens `(B, 17, D)`."""

    def __init__(self, wrap: "Callable[[Wrapped, Tensor], Any]") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=3
        )
        for block in self.vit.blocks:
            block.attn.qkv.weight.data.mul_(8)
        self.one, self.conv, self.wrap = nn.Linear(32, 1), nn.Conv2d(32, 5, 1), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self, self.vit.forward_features(x))


def _logits(m: Wrapped, x: Tensor) -> Tensor:
    out: Tensor = m.vit.forward_head(x)
    return out


def _map(x: Tensor) -> Tensor:
    return x[:, 1:].mT.unflatten(2, (4, 4))


def _gradient_by_hand(model: Wrapped, scope: Any, score: Callable[[Any], Tensor]) -> np.ndarray:
    """Return input x gradient summed over each patch, by plain autograd."""
    pixels = scope.prepare(PHOTO).pixels[None].clone().requires_grad_()
    (grad,) = torch.autograd.grad(score(model(pixels)), pixels)
    found: np.ndarray = (grad * pixels).detach()[0].sum(0).reshape(4, 8, 4, 8).sum((1, 3)).numpy()
    return found


@pytest.mark.spread
@pytest.mark.parametrize(
    ("wrap", "output", "score"),
    [
        (lambda m, x: (x[:, 0], _logits(m, x)), 1, lambda o: o[1][0, 2]),
        (lambda m, x: {"a": {"scores": _logits(m, x)}, "f": x}, "a.scores", lambda o: o["a"]["scores"][0, 2]),
        (lambda m, x: Pair(x, _logits(m, x)), "scores", lambda o: o.scores[0, 2]),
        (lambda m, x: Several(x, _logits(m, x)), "scores", lambda o: o.scores[0, 2]),
        (lambda m, x: (x.sum(), _logits(m, x)), None, lambda o: o[1][0, 2]),
        (lambda m, x: (x, _logits(m, x)), lambda o: o[1], lambda o: o[1][0, 2]),
    ],
)
def test_gradients_and_readout_are_those_of_the_chosen_tensor(
    wrap: Any, output: Any, score: Callable[[Any], Tensor]
) -> None:
    model = Wrapped(wrap).eval()
    scope = vitscope.load(model, output=output)
    found = scope.explain(PHOTO, method="input-x-gradient", target=2)
    by_hand = _gradient_by_hand(model, scope, score)
    np.testing.assert_allclose(found.map, by_hand, atol=1e-5 * np.abs(by_hand).max())
    plain = vitscope.load(Wrapped(_logits).eval()).explain(PHOTO, method="rollout")
    np.testing.assert_allclose(scope.explain(PHOTO, method="rollout").map, plain.map, atol=1e-6)
    assert "made of the tokens after 3 of 3 layers: cls 100%" in found.provenance["output"]
    assert len(found.predictions) == 3


def test_a_model_that_answers_with_features_and_logits_is_refused() -> None:
    model = Wrapped(lambda m, x: (x[:, 0], _logits(m, x))).eval()
    with raises(UsageError, "models.several-answers") as caught:
        vitscope.load(model)
    assert "0 (1 x 32), 1 (1 x 3)" in caught.value.message
    with raises(UsageError, "models.several-answers"):
        vitscope.load(timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, features_only=True).eval())


@pytest.mark.spread
@pytest.mark.parametrize(
    "shape", [lambda m, x: m.one(x[:, 0])[:, 0], lambda m, x: m.one(x[:, 0]), lambda m, x: m.one(x[:, 0]).squeeze()]
)
def test_one_number_for_an_image_is_one_logit(shape: Any) -> None:
    scope = vitscope.load(Wrapped(shape).eval())
    pixels = scope.prepare(PHOTO).pixels.expand(2, -1, -1, -1)
    expected = scope.model.one(scope.model.vit.forward_features(pixels)[:, 0])
    torch.testing.assert_close(scope.adapter.answer(pixels), expected)
    maps = scope.explain([PHOTO, PHOTO[::-1]], method="relevance", target=0)
    assert all(m.map.std() > 0 for m in maps)


def test_maps_have_their_channels_second_whatever_their_order_is() -> None:
    """Positions found by tracing tell which axes are places; names or sizes could not."""
    wraps: list[Any] = [lambda m, x: m.conv(_map(x)), lambda m, x: m.conv(_map(x)).movedim(1, 3)]
    pixels = torch.rand(2, 3, 32, 32)
    answers = [vitscope.load(Wrapped(wrap).eval()).adapter.answer(pixels) for wrap in wraps]
    assert answers[0].shape == answers[1].shape == (2, 5, 4, 4)
    torch.testing.assert_close(answers[0], answers[1])
    tokens = [vitscope.load(Wrapped(wrap).eval()) for wrap in (lambda m, x: x[:, 1:], lambda m, x: x[:, 1:].mT)]
    torch.testing.assert_close(*(scope.adapter.answer(pixels) for scope in tokens))
    depth = vitscope.load(Wrapped(lambda m, x: m.conv(_map(x))[:, 0]).eval())
    assert depth.adapter.answer(pixels).shape == (2, 1, 4, 4)


def test_layers_that_the_answer_does_not_read_are_no_layers() -> None:
    """An answer from the hidden state before the last layer: rollout through two layers, not three."""

    def before_last(m: Wrapped, x: Tensor) -> Any:
        return {"hidden": m.states[-2], "last": x}

    model = Wrapped(before_last).eval()
    for block in model.vit.blocks:
        block.register_forward_hook(lambda _m, _i, out: model.states.append(out))
    model.register_forward_pre_hook(lambda m, _i: setattr(m, "states", []))
    model.states = []  # type: ignore[assignment]
    scope = vitscope.load(model, output="hidden")
    assert scope.adapter.depth == 2
    shorter = Wrapped(lambda m, x: x).eval()
    shorter.vit.blocks = shorter.vit.blocks[:2]
    shorter.vit.norm = nn.Identity()
    expected = vitscope.load(shorter).explain(PHOTO, method="rollout")
    found = scope.explain(PHOTO, method="rollout")
    np.testing.assert_allclose(found.map, expected.map, atol=1e-6)
    assert "after 2 of 3 layers" in found.provenance["output"]


def test_a_predicted_class_beside_the_logits_changes_nothing() -> None:
    plain = Wrapped(_logits)
    beside = Wrapped(lambda m, x: ((logits := _logits(m, x)), logits.argmax(-1)))
    beside.load_state_dict(plain.state_dict())
    expected, found = (vitscope.load(m.eval()).explain(PHOTO, method="relevance") for m in (plain, beside))
    np.testing.assert_allclose(found.map, expected.map, atol=1e-7)
    assert found.predictions == expected.predictions


def _resized(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image.resize((45, 37)), np.float32)).permute(2, 0, 1) / 255


def test_a_size_that_the_model_refuses_is_told_as_that() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, dynamic_img_size=True
    )
    with raises(LayoutError, "models.pixels-refused", "models.pixels-refused.hint") as caught:
        vitscope.load(nn.Sequential(model.eval()), processor=_resized)
    assert "divisible by patch size" in str(caught.value)
