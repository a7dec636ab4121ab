"""What holds for every method that there is, and for those that will be added: none is named here without a reason."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import zoo
from vitscope.families.transformers import Transformers
from vitscope.pipeline import Scope
from vitscope.registry import METHODS

PHOTOS = [np.random.default_rng(seed).integers(0, 256, (44, 36, 3), dtype=np.uint8) for seed in range(3)]
QUICKER = {
    "rise": {"masks": 40},
    "integrated-gradients": {"steps": 8},
    "smoothgrad": {"samples": 4},
    "token-removal": {"samples": 32},
}
MODELS = ("vit", "dinov2-registers", "ijepa", "deit-teacher")
NAMES = [name for name, _ in METHODS]
REFUSED = {("ijepa", "article"): "no CLS token"}
every_method = pytest.mark.parametrize("name", NAMES)
every_pair = pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model in MODELS for name in NAMES if (model, name) not in REFUSED]
)
_known = {}


def scope_of(model, dtype=torch.float64, attention="sdpa"):
    if (model, dtype, attention) not in _known:
        row = next(row for row in zoo.ROWS if row.name == model)
        made = row.model().to(dtype)
        made.set_attn_implementation(attention)
        _known[model, dtype, attention] = Scope(Transformers(made, weights="none"), torch.device("cpu"), dtype)
    return _known[model, dtype, attention]


def values(e):
    return np.concatenate([e.prefix, e.map.ravel()])


def explained(scope, photos, name, **options):
    return scope.explain(photos, method=name, **QUICKER.get(name, {}), **options)


def close(got, wanted, tolerance=1e-5):
    """To `tolerance` of the largest value: maps are stored as float32."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("model", MODELS)
def test_every_method_applies_to_a_plain_vit_but_for_those_named(model):
    refused = {method.name: reason for method, reason in scope_of(model).methods() if reason}
    assert set(refused) == {name for other, name in REFUSED if other == model}
    assert all(REFUSED[model, name] in reason for name, reason in refused.items())


@every_pair
def test_a_batch_is_its_singles(model, name):
    scope = scope_of(model)
    together = explained(scope, PHOTOS, name)
    alone = [explained(scope, photo, name) for photo in PHOTOS]
    for e, single in zip(together, alone, strict=True):
        close(values(e), values(single))
        assert (e.score, single.score) == (None, None) or e.score == pytest.approx(single.score, rel=1e-6)
    if name not in ("random", "rise"):  # from the seed alone; with few masks mostly the score times what they covered
        assert np.abs(alone[0].map - alone[1].map).max() > 0.01 * np.ptp(alone[0].map)


@every_method
def test_a_map_can_be_repeated_to_the_digit(name):
    scope = scope_of("vit")
    first, second = (explained(scope, PHOTOS[0], name, seed=3) for _ in range(2))
    assert values(first).tobytes() == values(second).tobytes()
    assert np.ptp(first.map) > 0


@every_pair
def test_fused_attention_is_eager_attention(model, name):
    close(
        values(explained(scope_of(model), PHOTOS[0], name)),
        values(explained(scope_of(model, attention="eager"), PHOTOS[0], name)),
    )


@every_method
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_number_of_queries_at_a_time_changes_nothing(name, chunk, monkeypatch):
    scope = scope_of("dinov2-registers" if name != "article" else "vit")
    wanted = values(explained(scope, PHOTOS[0], name))
    forward, used = Scope._forward, []

    def in_chunks(self, *args, **kwargs):
        made = forward(self, *args, **kwargs)
        used.append(chunk)
        return replace(made, store=made.store.in_chunks(chunk))

    monkeypatch.setattr(Scope, "_forward", in_chunks)
    close(values(explained(scope, PHOTOS[0], name)), wanted)
    assert used


def with_heads_moved(order):
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
    return model


@every_method
def test_the_order_of_heads_changes_nothing(name):
    moved = Scope(Transformers(with_heads_moved([2, 0, 3, 1]), weights="none"), torch.device("cpu"), torch.float64)
    plain = scope_of("vit")
    first = plain.attention(PHOTOS[0])[0].rows()
    torch.testing.assert_close(moved.attention(PHOTOS[0])[0].rows(), first[:, [2, 0, 3, 1]])
    close(values(explained(moved, PHOTOS[0], name)), values(explained(plain, PHOTOS[0], name)))


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model", ["vit", "dinov2-registers"])
def test_half_precision_gives_finite_maps(model, name, dtype):
    scope = scope_of(model, dtype)
    e = explained(scope, PHOTOS[0], name)
    assert np.isfinite(values(e)).all()
    assert np.ptp(e.map) > 0


@every_method
def test_the_target_changes_maps_that_use_it_and_no_others(name):
    scope, method = scope_of("vit"), METHODS.get(name)
    first, second = explained(scope, PHOTOS[0], name, target=[0, 1])
    same = np.array_equal(values(first), values(second))
    assert same != method.uses_target
    told = [note for note in first.provenance["notes"] if "class-agnostic" in note]
    assert bool(told) != method.uses_target
    assert (first.target is not None) == method.uses_target


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


@every_method
def test_an_explanation_says_what_was_done(name):
    e = explained(scope_of("vit"), PHOTOS[0], name)
    assert e.method == name
    assert set(QUICKER.get(name, {}).items()) <= set(e.provenance["options"].items())
    method = METHODS.get(name)
    assert method.source
    assert method.passes.startswith("1 ")
    if method.sums_to_one:
        assert values(e).sum() == pytest.approx(1, abs=1e-5)
        assert (values(e) >= 0).all()
