"""Every method against its dense twin, on transformers' own eager attention."""

import numpy as np
import pytest
import torch

from tests.helpers.errors import raises
from tests.models import toys as zoo
from tests.oracles import attention as oracles
from vitscope.attention import AttentionStore, Dense
from vitscope.attention.capture import capture
from vitscope.errors import LayoutError, MethodError, UnknownNameError, UsageError
from vitscope.geometry import TokenLayout
from vitscope.methods.attention import attention
from vitscope.methods.base import METHODS
from vitscope.methods.head_fusion import fuse_heads
from vitscope.methods.notebook_recipe import notebook_recipe
from vitscope.methods.rollout import rollout
from vitscope.models.transformers.adapter import TransformersAdapter

CHUNKS = (None, 1, 7, 1000)


@pytest.fixture(scope="module", params=zoo.ROWS, ids=lambda row: row.name)
def seen(request):
    """(store, eager attentions, readout row) of a batch of two, for each model of the zoo."""
    row = request.param
    model = row.model()
    adapter, pixels = TransformersAdapter(model), zoo.pixels(row, 2)
    with torch.no_grad(), capture(model) as captured:
        adapter.forward(pixels)
    store = captured.store(adapter.layout(row.size), depth=adapter.depth)
    return store, eager(model, adapter, pixels), expected_readout(row)


def eager(model, adapter, pixels):
    """The library's own attention, from its own explicit softmax."""
    model.set_attn_implementation("eager")
    stretched = adapter.config.model_type == "vit" and pixels.shape[2] != pixels.shape[3]
    options = {"interpolate_pos_encoding": True} if stretched else {}
    with torch.no_grad():
        attentions = model(pixel_values=pixels, output_attentions=True, **options).attentions
    model.set_attn_implementation("sdpa")
    return list(attentions)


def expected_readout(row):
    n, p = len(row.prefix) + row.grid[0] * row.grid[1], len(row.prefix)
    weights = torch.zeros(n, dtype=torch.float64)
    if row.readout == "mean":
        weights[p:] = 1 / (n - p)
    elif row.readout == "both":
        weights[:2] = 0.5
    else:
        weights[0] = 1
    return weights


def close(got, wanted, tolerance=1e-5):
    torch.testing.assert_close(got.double(), wanted.double(), rtol=tolerance, atol=tolerance * 0.1)


def same(run, store, wanted):
    """The method gives the twin's values, whatever number of queries it works on at a time."""
    for chunk in CHUNKS:
        close(run(store if chunk is None else store.in_chunks(chunk)), wanted)


def test_raw_attention_is_the_librarys_own(seen):
    store, attentions, _ = seen
    assert len(store) == len(attentions)
    for block, wanted in zip(store, attentions, strict=True):
        close(block.rows(), wanted)
        close(block.rows([0, 3, -1]), wanted[:, :, [0, 3, -1]])
        close(block.rows().sum(-1), torch.ones(wanted.shape[:3]))


def test_the_eager_attention_is_far_from_uniform(seen):
    """Otherwise the comparisons below would compare nothing."""
    _, attentions, _ = seen
    assert all(a.amax(-1).mean() > 2.0 / a.shape[-1] for a in attentions)


def test_rollout(seen):
    store, attentions, readout = seen
    same(lambda s: rollout(s), store, oracles.rollout(attentions, readout))


@pytest.mark.covering
@pytest.mark.parametrize("head_fusion", ["max", "min", 2, -1])
def test_rollout_with_other_fusions(seen, head_fusion):
    store, attentions, readout = seen
    same(
        lambda s: rollout(s, head_fusion=head_fusion),
        store,
        oracles.rollout(attentions, readout, head_fusion=head_fusion),
    )


@pytest.mark.covering
@pytest.mark.parametrize(("head_fusion", "discard_ratio"), [("mean", 0.5), ("mean", 0.9), ("max", 0.3), (1, 0.7)])
def test_rollout_that_discards(seen, head_fusion, discard_ratio):
    store, attentions, readout = seen
    prefix = len(store.layout.prefix)
    wanted = oracles.rollout(attentions, readout, head_fusion=head_fusion, discard_ratio=discard_ratio, prefix=prefix)
    same(lambda s: rollout(s, head_fusion=head_fusion, discard_ratio=discard_ratio), store, wanted)


@pytest.mark.covering
@pytest.mark.parametrize("residual_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("layers", "numbers"), [("0-1", [0, 1]), ("last2", [1, 2]), (-1, [2]), ([0, 2], [0, 2])])
def test_rollout_over_some_layers(seen, layers, numbers, residual_weight):
    store, attentions, readout = seen
    wanted = oracles.rollout(attentions, readout, layers=numbers, residual_weight=residual_weight)
    close(rollout(store, layers=layers, residual_weight=residual_weight), wanted)


def test_start_layer_is_a_range_to_the_last(seen):
    store, attentions, readout = seen
    close(rollout(store, start_layer=1), oracles.rollout(attentions, readout, layers=[1, 2]))
    with raises(UsageError, "methods.two-layer-choices"):
        rollout(store, start_layer=1, layers="0-1")


@pytest.mark.covering
@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("head", ["mean", "max", "min", 3])
def test_attention(seen, layer, head):
    store, attentions, readout = seen
    wanted = oracles.attention(attentions, readout, layer, head)
    same(lambda s: attention(s, layer=layer, head=head), store, wanted)


def test_notebook_recipe(seen):
    store, attentions, _ = seen
    same(notebook_recipe, store, oracles.notebook_recipe(attentions))


def test_maps_are_distributions(seen):
    store, _, _ = seen
    for relevance in (
        rollout(store),
        rollout(store, head_fusion="max", discard_ratio=0.4),
        attention(store),
        attention(store, head=1),
    ):
        assert (relevance >= 0).all()
        torch.testing.assert_close(relevance.sum(-1), torch.ones(2), rtol=0, atol=1e-5)


def test_order_of_layers_by_hand():
    """Two layers of two tokens, whole numbers of halves: (A2/2 + I/2)(A1/2 + I/2), not the other way round."""
    first = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    store = AttentionStore(
        (Dense("first", first.expand(1, 1, 2, 2)), Dense("second", second.expand(1, 1, 2, 2))),
        TokenLayout(("cls",), (1, 1)),
    )
    # A2' = [[1, 0], [.5, .5]], A1' = [[.5, .5], [.5, .5]]; row 0 of A2' A1' = [.5, .5]
    assert rollout(store).tolist() == [[0.5, 0.5]]
    # from the other token (mean pooling over the one patch): row 1 of A2' A1' = [.5, .5], of A1' A2' = [.75, .25]
    assert torch.equal(
        torch.tensor([[0.75, 0.25]]), (first / 2 + torch.eye(2) / 2)[1:] @ (second / 2 + torch.eye(2) / 2)
    )
    mean = AttentionStore(store.blocks, TokenLayout(("cls",), (1, 1), "mean"))
    assert rollout(mean).tolist() == [[0.5, 0.5]]
    # notebook-recipe: column 0 of A1' A2', one minus it
    assert notebook_recipe(store).tolist() == [[0.25, 0.25]]


def test_discard_by_hand():
    """Prefix kept, two weakest of four patches gone, the rest divided by what is left; the earlier of equals goes."""
    rows = torch.tensor([0.2, 0.1, 0.3, 0.1, 0.3]).reshape(1, 1, 1, 5)
    fuse = fuse_heads(Dense("block", rows), "mean", discard_ratio=0.5, prefix=1)
    torch.testing.assert_close(fuse(rows), torch.tensor([[[0.25, 0, 0.375, 0, 0.375]]]))
    torch.testing.assert_close(fuse(torch.full((1, 1, 1, 5), 0.2)), torch.tensor([[[1 / 3, 0, 0, 1 / 3, 1 / 3]]]))


def test_heads_can_be_permuted(seen):
    store, _, _ = seen
    order = [2, 0, 3, 1]
    mixed = AttentionStore(tuple(Dense(b.name, b.rows()[:, order]) for b in store), store.layout)
    close(rollout(mixed), rollout(store))
    close(rollout(mixed, head_fusion="max"), rollout(store, head_fusion="max"))


def test_methods_cannot_tell_factored_from_dense(seen):
    store, _, _ = seen
    dense = AttentionStore(tuple(Dense(b.name, b.rows()) for b in store), store.layout)
    for _, method in METHODS:
        if (
            method.supports_layout(store.layout) and "gradient" not in method.requires and not method.runs_model
        ):  # tested elsewhere
            close(method.run(dense), method.run(store))


@pytest.mark.parametrize(
    "bad",
    [
        {"residual_weight": 1.5},
        {"residual_weight": -0.1},
        {"discard_ratio": 1.0},
        {"head_fusion": 4},
        {"layers": "0-3"},
        {"layers": "x"},
    ],
)
def test_options_out_of_range_are_refused(seen, bad):
    store, _, _ = seen
    with pytest.raises(UsageError):
        rollout(store, **bad)


def test_without_a_layout_there_is_no_map(seen):
    store, _, _ = seen
    with raises(LayoutError, "attention.no-layout"):
        rollout(AttentionStore(store.blocks))


def test_the_notebook_recipe_needs_a_cls_token():
    assert "no CLS token" in METHODS.get("notebook-recipe").supports_layout(TokenLayout((), (2, 2), "mean")).reason
    assert METHODS.get("notebook-recipe").supports_layout(TokenLayout(("cls",), (2, 2)))


def test_every_method_is_documented():
    """Meaning, formula, range, cost, limits and source are there for each."""
    for name, method in METHODS:
        text = method.run.__doc__
        assert method.summary.endswith("."), name
        assert method.source, name
        for part in ("Formula:", "Returns:", "Cost:", "Limits:"):
            assert part in text, (name, part)


def test_options_are_checked_by_name():
    rollout_method = METHODS.get("rollout")
    assert rollout_method.check({})["residual_weight"] == 0.5
    with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant"):
        rollout_method.check({"residual_wieght": 1})
    with raises(UnknownNameError, "errors.unknown-name"):
        rollout_method.check({"head_fusion": "median"})
    with raises(UnknownNameError, "errors.unknown-name"):
        rollout_method.check({"head_fusion": True})
    with raises(UnknownNameError, "errors.unknown-name"):
        METHODS.get("gradcam").check({"at": 1})
    for number in (float("nan"), float("inf")):
        with raises(UsageError, "methods.not-a-number"):
            rollout_method.check({"discard_ratio": number})
    with raises(UnknownNameError, "errors.unknown-name", "errors.unknown-name.meant"):
        METHODS.get("rolout")


def test_transposing_picture_and_weights_transposes_the_map():
    """A tall picture through a transposed model gives the transposed map of the wide picture."""
    row = next(r for r in zoo.ROWS if r.name == "vit-wide")
    model, turned = row.model(), row.model()
    with torch.no_grad():
        kernel = turned.vit.embeddings.patch_embeddings.projection.weight
        kernel.copy_(kernel.transpose(2, 3).clone())
        table = turned.vit.embeddings.position_embeddings
        patches = table[:, 1:].reshape(1, 4, 4, -1).transpose(1, 2).reshape(1, 16, -1).clone()
        table[:, 1:] = patches
    pixels = zoo.pixels(row)
    maps = []
    for one, x in ((model, pixels), (turned, pixels.transpose(2, 3))):
        adapter = TransformersAdapter(one)
        with torch.no_grad(), capture(one) as captured:
            adapter.forward(x)
        layout = adapter.layout(tuple(x.shape[2:]))
        maps.append(layout.patches(rollout(captured.store(layout))))
    assert maps[0].shape == (1, 4, 7)
    np.testing.assert_allclose(maps[1].transpose(1, 2), maps[0], rtol=1e-4, atol=1e-7)


def test_refusing_names_what_applies(monkeypatch):
    from vitscope.scope import Scope

    row = next(r for r in zoo.ROWS if r.name == "ijepa")
    scope = Scope(TransformersAdapter(row.model()), torch.device("cpu"), torch.float32)
    photo = np.zeros((20, 20, 3), np.uint8)
    with raises(MethodError, "engine.method"):
        scope.explain(photo, method="notebook-recipe")


@pytest.mark.parametrize(
    "bad", [{"residual_weight": "abc"}, {"residual_weight": None}, {"residual_weight": True}, {"discard_ratio": "x"}]
)
def test_an_option_of_another_kind_is_refused(bad):
    with raises(UsageError, "methods.not-a-number"):
        METHODS.get("rollout").check(bad)
    with raises(UsageError, "methods.not-a-whole-number"):
        METHODS.get("attention").check({"layer": 1.5})


def test_a_device_without_numbers_is_refused():
    from vitscope.models.loading import pick_device

    with raises(UsageError, "models.meta-device"):
        pick_device("meta")
