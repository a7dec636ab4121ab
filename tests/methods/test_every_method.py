"""What holds for every method that there is, and for those that will be added: none is named here without a reason."""

import functools
import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.models import toys as zoo
from vitscope.engine.engine import Engine
from vitscope.methods.base import METHODS
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

pytestmark = pytest.mark.spread
PHOTOS = [np.random.default_rng(seed).integers(0, 256, (44, 36, 3), dtype=np.uint8) for seed in range(2)]
QUICKER = {
    "rise": {"masks": 40},
    "integrated-gradients": {"steps": 8},
    "smoothgrad": {"samples": 4},
    "token-removal": {"samples": 32},
}
MODELS = ("vit", "dinov2-registers", "ijepa", "deit-teacher")
NAMES = [name for name, _ in METHODS]
REFUSED = {("ijepa", "notebook-recipe"): "no CLS token"}
every_method = pytest.mark.parametrize("name", NAMES)
every_pair = pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in MODELS for name in NAMES if (model, name) not in REFUSED]
)
quick = pytest.mark.usefixtures("as_shipped")  # annotations are executed by the other tests of the same methods


@functools.cache
def scope_of(model, dtype=torch.float64, attention="sdpa"):
    row = next(row for row in zoo.ROWS if row.name == model)
    made = row.model().to(dtype)
    made.set_attn_implementation(attention)
    return Scope(TransformersAdapter(made, weights="none"), torch.device("cpu"), dtype)


def values(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def explained(scope, photos, name, **options):
    return scope.explain(photos, method=name, **QUICKER.get(name, {}), **options)


@functools.cache
def plain(model, name):
    """One photo, nothing special."""
    return explained(scope_of(model), PHOTOS[0], name)


def close(got, wanted, tolerance=1e-5):
    """To `tolerance` of the largest value: maps are stored as float32."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("model", MODELS)
def test_every_method_applies_to_a_plain_vit_but_for_those_named(model):
    refused = {method.name: method.reason for method in scope_of(model).methods() if not method}
    assert set(refused) == {name for other, name in REFUSED if other == model}
    assert all(REFUSED[model, name] in reason for name, reason in refused.items())


@pytest.mark.covering
@every_pair
def test_a_batch_under_fused_attention_is_its_singles_under_eager_attention(model, name):
    together = explained(scope_of(model), PHOTOS, name)
    alone = [explained(scope_of(model, attention="eager"), photo, name) for photo in PHOTOS]
    for e, single in zip(together, alone, strict=True):
        close(values(e), values(single))
        assert (e.score, single.score) == (None, None) or e.score == pytest.approx(single.score, rel=1e-6)
    if name not in ("random", "rise"):  # from the seed alone; with few masks mostly the score times what they covered
        assert np.abs(alone[0].map - alone[1].map).max() > 0.01 * np.ptp(alone[0].map)


@every_method
@quick
def test_a_map_can_be_repeated_to_the_digit(name):
    first = plain("vit", name)
    assert values(first).tobytes() == values(explained(scope_of("vit"), PHOTOS[0], name)).tobytes()
    assert np.ptp(first.map) > 0


@pytest.mark.covering
@every_method
@pytest.mark.parametrize("chunk", [1, 7, 1000])
@quick
def test_the_number_of_queries_at_a_time_changes_nothing(name, chunk, monkeypatch):
    model = "dinov2-registers" if name != "notebook-recipe" else "vit"
    scope, wanted = scope_of(model), values(plain(model, name))
    forward, used = Engine.forward, []

    def in_chunks(self, *args, **kwargs):
        made = forward(self, *args, **kwargs)
        used.append(chunk)
        return replace(made, store=made.store.in_chunks(chunk))

    monkeypatch.setattr(Engine, "forward", in_chunks)
    close(values(explained(scope, PHOTOS[0], name)), wanted)
    assert used


@functools.cache
def with_heads_moved(*order):
    """The ViT of the zoo with its heads in another order: the same function."""
    model = next(row for row in zoo.ROWS if row.name == "vit").model().double()
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "q_proj"):
                width = module.q_proj.out_features // len(order)
                places = torch.cat([torch.arange(h * width, (h + 1) * width) for h in order])
                for part in (module.q_proj, module.k_proj, module.v_proj):
                    part.weight.copy_(part.weight[places].clone())
                    part.bias.copy_(part.bias[places].clone())
                module.o_proj.weight.copy_(module.o_proj.weight[:, places].clone())
    moved = Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), torch.float64)
    first = scope_of("vit").attention(PHOTOS[0])[0].rows()
    torch.testing.assert_close(moved.attention(PHOTOS[0])[0].rows(), first[:, list(order)])
    return moved


@every_method
def test_the_order_of_heads_changes_nothing(name):
    close(values(explained(with_heads_moved(2, 0, 3, 1), PHOTOS[0], name)), values(plain("vit", name)))


@pytest.mark.covering
@every_method
@pytest.mark.parametrize(
    ("model", "dtype"), [("vit", torch.float16), ("dinov2-registers", torch.bfloat16)], ids=["fp16", "bf16"]
)
@quick
def test_half_precision_gives_finite_maps(model, name, dtype):
    scope = scope_of(model, dtype)
    e = explained(scope, PHOTOS[0], name)
    assert np.isfinite(values(e)).all()
    assert np.ptp(e.map) > 0


@every_method
def test_the_target_changes_maps_that_use_it_and_no_others(name):
    scope, method = scope_of("vit"), METHODS.get(name)
    first, second = explained(scope, PHOTOS[0], name, targets=[0, 1])
    same = np.array_equal(values(first), values(second))
    assert same != ("target" in method.requires)
    told = [note for note in first.provenance["notes"] if "class-agnostic" in note]
    assert bool(told) != ("target" in method.requires)
    assert (first.target is not None) == ("target" in method.requires)


@every_method
def test_the_model_is_left_as_it_was(name):
    scope = scope_of("vit")
    before = {key: value.clone() for key, value in scope.model.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in scope.model.modules()]
    scope.model.train()
    explained(scope, PHOTOS[0], name)
    assert all(module.training for module in scope.model.modules())
    scope.model.eval()
    assert all(torch.equal(value, before[key]) for key, value in scope.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in scope.model.parameters())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in scope.model.modules()]
    assert torch._C._len_torch_function_stack() == 0


def sections(name):
    """What a method's docstring says under each of its headings, and the words before them."""
    first, *rest = re.split(
        r"^(Formula|Args|Returns|Raises|Cost|Limits):", inspect.getdoc(METHODS.get(name).run), flags=re.M
    )
    return first.strip(), dict(zip(rest[::2], map(str.strip, rest[1::2]), strict=True))


@every_method
def test_a_docstring_has_meaning_formula_range_sum_cost_memory_and_limits(name):
    meaning, said = sections(name)
    assert meaning.endswith(".")
    assert {"Formula", "Returns", "Cost", "Limits"} <= set(said)
    assert "`" in said["Formula"]
    assert re.search(r"each in [\[(]|signed|not negative", said["Returns"]), "no range"
    assert re.search(r"sum|mean 0|distribution", said["Returns"]), "no sum"
    assert "forward" in said["Cost"]
    assert re.search(r"memory", said["Cost"], re.I), "no memory"
    for option in METHODS.get(name).options:
        assert re.search(rf"\b{option}\b[^\n]*:", said["Args"]), f"{option} is not explained"
    if METHODS.get(name).passes.startswith("1 forward, 1 backward"):
        assert "one forward and one backward" in said["Cost"]


@every_method
def test_a_source_has_a_year_and_a_place(name):
    """Where equations have numbers, theirs; of those named here the sources have none."""
    source = METHODS.get(name).source
    if name in ("random", "notebook-recipe", "logit-lens"):
        return
    assert re.search(r"\b(19|20)\d\d\b", source)
    assert re.search(r"(equations?|section|figure|table) \d", source)


@every_method
def test_an_explanation_says_what_was_done(name):
    e = plain("vit", name)
    assert e.method == name
    assert set(QUICKER.get(name, {}).items()) <= set(e.provenance["options"].items())
    method = METHODS.get(name)
    assert method.source
    assert method.passes.startswith("1 ")
    if method.sums_to_one:
        assert values(e).sum() == pytest.approx(1, abs=1e-5)
        assert (values(e) >= 0).all()
