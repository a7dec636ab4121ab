"""Capture sees all attention, changes nothing, and leaves nothing behind."""

import gc
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

import vitscope
from tests.helpers.errors import raises
from tests.models import toys as zoo
from vitscope.attention import CallSite
from vitscope.attention.head_scaling import scale_heads
from vitscope.attention.model_modes import eval_mode
from vitscope.errors import CaptureError, LayoutError, UsageError
from vitscope.geometry import TokenLayout


class Attention(nn.Module):
    """Self-attention by the fused kernel, in the plainest way."""

    def __init__(self, dim=8, heads=2, dropout=0.0, causal=False, groups=None):
        super().__init__()
        self.heads, self.dropout, self.causal, self.groups = heads, dropout, causal, groups or heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim * self.groups // heads)
        self.to_v = nn.Linear(dim, dim * self.groups // heads)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, heads in ((self.to_q(x), self.heads), (self.to_k(x), self.groups), (self.to_v(x), self.groups))
        )
        out = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal,
            enable_gqa=self.groups != self.heads,
        )
        return x + out.transpose(1, 2).flatten(2)


class Encoder(nn.Module):
    """A few such blocks, and nothing that vitscope knows."""

    def __init__(self, depth=2, fail=False, **options):
        super().__init__()
        self.layers = nn.ModuleList(Attention(**options) for _ in range(depth))
        self.fail = fail

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        if self.fail:
            raise RuntimeError("broken on purpose")
        return x


def state(model):
    """Everything about a model that a capture could leave changed."""
    return {
        name: (
            module.training,
            *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
            tuple(
                (p.data_ptr(), p.requires_grad, p.grad is None, p._version) for p in module.parameters(recurse=False)
            ),
        )
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("row", zoo.ROWS, ids=lambda row: row.name)
def test_the_output_is_the_same_to_the_last_bit(row):
    from vitscope.models.transformers.adapter import TransformersAdapter

    model = row.model()
    adapter, pixels = TransformersAdapter(model), zoo.pixels(row, 2)
    outputs = []

    def keep(_module, _args, output):
        outputs.append(output[0] if isinstance(output, tuple) else next(iter(output.values())))

    handle = model.register_forward_hook(keep)
    before = state(model)
    implementation = model.config._attn_implementation
    with torch.no_grad():
        adapter.forward(pixels)
        with vitscope.capture(model) as captured:
            adapter.forward(pixels)
    assert torch.equal(*outputs)
    assert len(captured.store(depth=3)) == 3
    assert state(model) == before
    assert model.config._attn_implementation == implementation
    handle.remove()


def test_any_module_that_calls_the_kernel():
    model = Encoder()
    with vitscope.capture(model) as captured:
        model(torch.randn(1, 5, 8))
    store = captured.attention
    assert [block.name for block in store] == ["layers.0", "layers.1"]
    assert store[-1].rows(slice(None)).shape == (1, 2, 5, 5)
    with_layout = captured.store(TokenLayout(("cls",), (2, 2)))
    assert with_layout.readout_weights().tolist() == [[1, 0, 0, 0, 0]]


def test_a_forward_with_gradients_keeps_them():
    model = Encoder()
    x = torch.randn(1, 5, 8, requires_grad=True)
    plain = torch.autograd.grad(model(x).sum(), x)[0]
    with vitscope.capture(model):
        captured = torch.autograd.grad(model(x).sum(), x)[0]
    assert torch.equal(plain, captured)


def test_masks_and_grouped_heads():
    torch.manual_seed(0)
    model = Encoder(depth=1, dim=16, heads=4, groups=2)
    x = torch.randn(2, 5, 16)
    with torch.no_grad(), vitscope.capture(model) as captured:
        model(x)
    layer = model.layers[0]
    q = layer.to_q(x).unflatten(-1, (4, 4)).transpose(1, 2)
    k = layer.to_k(x).unflatten(-1, (2, 4)).transpose(1, 2)[:, [0, 0, 1, 1]]
    torch.testing.assert_close(captured.attention[0].rows(), (q @ k.mT / 2).softmax(-1), atol=1e-6, rtol=1e-5)


def test_a_boolean_mask_hides_its_tokens():
    class MaskedPrediction(nn.Module):
        def forward(self, x):
            seen = torch.tensor([True, True, False, True])
            return functional.scaled_dot_product_attention(x, x, x, attn_mask=seen.expand(4, 4))

    model = MaskedPrediction()
    with vitscope.capture(model) as captured:
        model(torch.randn(1, 2, 4, 8))
    rows = captured.attention[0].rows()
    assert (rows[..., 2] == 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 4))


class TestLeavesNothingBehind:
    @pytest.mark.parametrize("fail", [False, True])
    def test_after_success_and_after_an_exception_in_the_forward(self, fail):
        model = Encoder(fail=fail)
        model.layers[1].train(False)
        model.layers[0].to_q.weight.requires_grad_(False)
        before, kernel = state(model), functional.scaled_dot_product_attention
        x = torch.randn(1, 5, 8)
        try:
            with eval_mode(model), vitscope.capture(model):
                model(x)
        except RuntimeError as error:
            assert fail
            assert "on purpose" in str(error)
        else:
            assert not fail
        assert state(model) == before
        assert functional.scaled_dot_product_attention is kernel
        assert torch._C._len_torch_function_stack() == 0

    def test_after_an_exception_of_the_caller(self):
        model = Encoder()
        before = state(model)
        with pytest.raises(KeyboardInterrupt), vitscope.capture(model):
            raise KeyboardInterrupt
        assert state(model) == before

    def test_every_submodule_gets_its_own_mode_back(self):
        model = Encoder()
        model.train()
        model.layers[0].eval()
        modes = [module.training for module in model.modules()]
        with eval_mode(model):
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model.modules()] == modes

    def test_a_switch_to_training_mode_meanwhile_is_told_and_stays(self):
        model = Encoder().eval()
        told = raises(UsageError, "attention.switched-to-training", "attention.switched-to-training.hint")
        with told, eval_mode(model):
            model.train()  # as another thread may
        assert all(module.training for module in model.modules())

    def test_what_a_forward_stores_in_the_model_is_as_before(self):
        model = Encoder()
        model.layers[0].window, model.layers[1].use_checkpoint = 7, True
        with eval_mode(model):
            assert model.layers[1].use_checkpoint is False
            model.layers[0].window = 4  # as Swin does on a small image
        assert (model.layers[0].window, model.layers[1].use_checkpoint) == (7, True)


class TestIsLoud:
    def test_when_nothing_was_seen(self):
        model = nn.Linear(4, 4)
        with vitscope.capture(model) as captured:
            model(torch.randn(2, 4))
        with raises(CaptureError, "attention.no-call", "attention.no-call.hint"):
            captured.store()

    def test_when_no_forward_ran(self):
        with vitscope.capture(Encoder()) as captured:
            pass
        with raises(CaptureError, "attention.no-forward", "attention.no-forward.hint"):
            captured.store()

    def test_when_another_number_of_blocks_was_seen(self):
        model = Encoder()
        with vitscope.capture(model) as captured:
            model(torch.randn(1, 5, 8))
        with raises(CaptureError, "attention.wrong-depth") as caught:
            captured.store(depth=3)
        assert "layers.0, layers.1" in caught.value.hint

    def test_when_two_forwards_ran(self):
        model = Encoder()
        with vitscope.capture(model) as captured:
            model(torch.randn(1, 5, 8))
            model(torch.randn(1, 5, 8))
        with raises(CaptureError, "attention.several-forwards") as caught:
            captured.store()
        assert "2 forwards" in str(caught.value)

    def test_when_the_layout_does_not_fit(self):
        model = Encoder()
        with vitscope.capture(model, layout=TokenLayout(("cls",), (3, 3))) as captured:
            model(torch.randn(1, 5, 8))
        with raises(LayoutError, "geometry.wrong-token-count") as caught:
            captured.store()
        assert "layers.0 has 5 tokens" in str(caught.value)

    def test_when_weights_are_dropped(self):
        model = Encoder(dropout=0.1).train()
        with raises(CaptureError, "attention.dropout"), vitscope.capture(model):
            model(torch.randn(1, 5, 8))


def test_causal_attention_is_recorded_with_its_mask():
    torch.manual_seed(0)
    model, x = Encoder(causal=True).eval(), torch.randn(1, 5, 8)
    expected = model(x)
    with vitscope.capture(model) as captured:
        found = model(x)
    torch.testing.assert_close(found, expected)
    rows = captured.attention[0].rows()
    assert torch.equal(rows.triu(1), torch.zeros_like(rows))
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]))


def test_two_threads_do_not_see_each_others_attention():
    """Both forwards are inside their captures at the same time, held there by a barrier in their last layers."""
    together = threading.Barrier(2, timeout=30)

    class Waiting(Encoder):
        def forward(self, x):
            together.wait()
            x = super().forward(x)
            together.wait()
            return x

    models = [Waiting(depth=2), Waiting(depth=5)]
    stores = [None, None]

    def look(i):
        with torch.no_grad(), vitscope.capture(models[i]) as captured:
            models[i](torch.randn(1, 3 + i, 8))
        stores[i] = captured.attention

    threads = [threading.Thread(target=look, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(store) for store in stores] == [2, 5]
    assert [store[0].shape[-1] for store in stores] == [3, 4]


def test_one_model_in_two_threads_is_seen_by_the_one_that_looks():
    model, entered, done = Encoder(), threading.Event(), threading.Event()

    def other():
        entered.wait(30)
        with torch.no_grad():
            model(torch.randn(1, 9, 8))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with torch.no_grad(), vitscope.capture(model) as captured:
        entered.set()
        done.wait(30)
        model(torch.randn(1, 4, 8))
    thread.join()
    assert [block.shape for block in captured.attention] == [(1, 2, 4, 4)] * 2


@pytest.mark.parametrize(
    "attend", [nn.functional.scaled_dot_product_attention, lambda q, k, v: (q @ k.mT).softmax(-1) @ v]
)
def test_attention_inside_vmap_is_refused(attend):
    class Mapped(nn.Module):
        def forward(self, x):
            return torch.vmap(attend)(x, x, x)

    with (
        raises(CaptureError, "attention.in-torch-func", "attention.in-torch-func.hint"),
        vitscope.capture(Mapped()) as seen,
    ):
        seen._model(torch.rand(2, 2, 5, 4))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
def test_attention_of_nested_tensors_is_recorded_where_all_are_of_one_length():
    class Ragged(nn.Module):
        def forward(self, *images):
            nested = torch.nested.nested_tensor([x.transpose(0, 1) for x in images], layout=torch.jagged).transpose(
                1, 2
            )
            return nn.functional.scaled_dot_product_attention(nested, nested, nested)

    x = torch.rand(2, 2, 5, 4)
    assert Ragged()(*x).is_nested
    with vitscope.capture(Ragged()) as seen:
        seen._model(*x)
    torch.testing.assert_close(seen.attention[0].rows(), (x @ x.mT / 2).softmax(-1))
    for images, options in (((x[0], x[1, :, :3]), {}), (x, {"gradients": True})):
        with (
            raises(CaptureError, "attention.nested", "attention.nested.hint"),
            vitscope.capture(Ragged(), **options) as seen,
        ):
            seen._model(*images)


def test_a_capture_that_another_thread_ends_leaves_nothing_once_the_next_one_begins():
    model = Encoder()
    one = vitscope.capture(model)
    one.__enter__()
    thread = threading.Thread(target=one.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with vitscope.capture(model):
        pass
    assert torch._C._len_torch_function_stack() == 0
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "watch", [vitscope.capture, lambda model: scale_heads(model, CallSite(0, 1), torch.ones(1, 2))]
)
def test_a_capture_that_is_collected_leaves_the_gradient_mode_of_that_time(watch):
    # where an interrupt kept a `with` from ending, what it held is collected later, in the midst of other code
    with torch.no_grad():
        one = watch(Encoder())
        one.__enter__()
    assert torch.is_grad_enabled()
    del one
    gc.collect()
    assert torch.is_grad_enabled()
    assert torch._C._len_torch_function_stack() == 0


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence with itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)[0]


class Written(nn.Module):
    """Attention that is written out."""

    def forward(self, x):
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return ((heads @ heads.mT).softmax(-1) @ heads).transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("kind", [Attention, SelfAttention, Written])
def test_nested_captures_see_what_each_sees_alone(kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(kind(), kind()).eval(), torch.randn(1, 5, 8)
    with torch.no_grad():
        with vitscope.capture(model) as alone:
            told = model(x)
        with vitscope.capture(model) as outer, vitscope.capture(model) as inner:
            assert torch.equal(model(x), told)
    for captured in (outer, inner):
        assert len(captured.attention) == len(alone.attention) == 2
        for mine, other in zip(captured.attention, alone.attention, strict=True):
            assert torch.allclose(mine.rows(slice(None)), other.rows(slice(None)), atol=1e-7)
