"""Canaries for the private parts of torch that vitscope relies on, and what happens without them."""

import copy
import traceback

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.nn.attention import SDPBackend

import vitscope
from tests.helpers.errors import raises
from vitscope.attention import Dense, Factored, _torch_private, vecmat
from vitscope.attention import capture as capturing
from vitscope.attention.gradient_rules import GradientRule
from vitscope.errors import CaptureError

Q, K, V = torch.randn(3, 2, 3, 5, 8, generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    def forward(self, q, k, v):
        return functional.scaled_dot_product_attention(q, k, v)


def multi_head():
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)


class TestFlashKernel:
    def test_canary_it_exists_and_is_what_the_public_function_chooses_on_a_cpu(self):
        assert hasattr(torch, "_fused_sdp_choice"), "torch lost _fused_sdp_choice: rollout loses its fast path"
        assert torch._fused_sdp_choice(Q, K, V, scale=None) == SDPBackend.FLASH_ATTENTION.value
        kernels = _torch_private.flash_kernels()
        assert kernels is not None, "torch renamed the flash kernel of the CPU: rollout loses its fast path"
        assert _torch_private.flash_is_chosen(Q, K, V, None)
        out, lse = kernels[0](Q, K, V, scale=None)
        assert torch.equal(out, functional.scaled_dot_product_attention(Q, K, V)), "it is another kernel now"
        torch.testing.assert_close(lse, (Q @ K.mT / 8**0.5).logsumexp(-1), msg="it returns something else beside out")

    def test_canary_its_backward_takes_what_it_returned(self):
        q, k, v = (x.clone().requires_grad_() for x in (Q, K, V))
        out = functional.scaled_dot_product_attention(q, k, v)
        expected = torch.autograd.grad(out.square().sum(), (q, k, v))
        forward, backward = _torch_private.flash_kernels()
        with torch.no_grad():
            out, lse = forward(Q, K, V, scale=None)
            found = backward(2 * out, Q, K, V, out, lse, 0.0, False, scale=None)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_without_it_the_public_function_runs_and_attention_takes_a_softmax(self, monkeypatch):
        with vitscope.capture(Fused()) as captured:
            expected = captured._model(Q, K, V)
        assert captured.attention[0].lse is not None
        monkeypatch.delattr(torch, "_fused_sdp_choice")
        with vitscope.capture(Fused()) as without:
            assert torch.equal(without._model(Q, K, V), expected)
        assert without.attention[0].lse is None
        torch.testing.assert_close(without.attention[0].rows(), captured.attention[0].rows())
        r = torch.rand(2, 5)
        torch.testing.assert_close(vecmat(without.attention[0], r), vecmat(captured.attention[0], r))

    @pytest.mark.parametrize("call", [(Q[0], K[0], V[0]), tuple(x.to("meta") for x in (Q, K, V))], ids=["3d", "meta"])
    def test_other_calls_are_left_to_the_public_function(self, call):
        assert not _torch_private.flash_is_chosen(*call, None)


class TestCudaKernels:
    """Emulated: the kernels' shapes and values, computed on the CPU."""

    @pytest.fixture(autouse=True)
    def emulated(self, monkeypatch):
        self.lse = (Q @ K.mT / 8**0.5).logsumexp(-1)
        self.runs = []
        monkeypatch.setattr(_torch_private, "_CUDA", "cpu")
        monkeypatch.setattr(_torch_private, "_returns_lse", {})
        monkeypatch.setattr(_torch_private, "flash_kernels", lambda: None)

    def choose(self, monkeypatch, backend, lse):
        name, _ = _torch_private.CUDA_KERNELS[backend.value]

        def kernel(q, k, v, *options, scale):
            self.runs.append((name, *options))
            return functional.scaled_dot_product_attention(q, k, v, scale=scale), lse, None, None

        monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_, scale: backend.value)
        monkeypatch.setattr(torch.ops.aten, name, kernel)

    def test_canary_the_kernels_take_what_they_are_given(self):
        for name, options in _torch_private.CUDA_KERNELS.values():
            arguments = getattr(torch.ops.aten, name).default._schema.arguments
            assert [one.name for one in arguments[:3]] == ["query", "key", "value"]
            assert [one.name for one in arguments[3 : 3 + len(options)]] == ["attn_bias", "compute_log_sumexp"][
                : len(options)
            ]
            returned = [one.name.replace("_", "") for one in getattr(torch.ops.aten, name).default._schema.returns]
            assert returned[:2] == ["output", "logsumexp"]

    @pytest.mark.parametrize("kind", ["plain", "padded", "a last axis"])
    @pytest.mark.parametrize("value", list(_torch_private.CUDA_KERNELS))
    def test_their_log_sum_exp_is_kept(self, value, kind, monkeypatch):
        given = {"plain": self.lse, "padded": functional.pad(self.lse, (0, 27)), "a last axis": self.lse[..., None]}
        self.choose(monkeypatch, SDPBackend(value), given[kind])
        model = Fused()
        for _ in range(2):
            with vitscope.capture(model) as captured:
                out = model(Q, K, V)
            block = captured.attention[0]
            assert torch.equal(block.lse, self.lse)
            torch.testing.assert_close(out, (Q @ K.mT / 8**0.5).softmax(-1) @ V)
        assert len(self.runs) == 2

    @pytest.mark.parametrize("wrong", ["other scale", "other order", "not finite", "empty"])
    def test_a_kernel_that_returns_another_number_is_not_trusted(self, wrong, monkeypatch):
        lse = {
            "other scale": self.lse * 8**0.5,
            "other order": self.lse.flip(-1),
            "not finite": self.lse + float("inf"),
            "empty": self.lse[..., :0],
        }
        self.choose(monkeypatch, SDPBackend.FLASH_ATTENTION, lse[wrong])
        model = Fused()
        for _ in range(2):
            with vitscope.capture(model) as captured:
                model(Q, K, V)
            assert captured.attention[0].lse is None
            torch.testing.assert_close(captured.attention[0].rows(), (Q @ K.mT / 8**0.5).softmax(-1))
        assert len(self.runs) == 1

    @pytest.mark.parametrize("width", [7, 12])
    def test_heads_that_torch_would_pad_are_left_to_it(self, width, monkeypatch):
        self.choose(monkeypatch, SDPBackend.FLASH_ATTENTION, self.lse)
        q = torch.ones(1, 1, 3, width)
        assert _torch_private.cuda_attention_with_lse((q, q, q), (q, q, q), None) is None

    def test_other_choices_are_left_to_torch(self, monkeypatch):
        monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *_, scale: SDPBackend.MATH.value)
        assert _torch_private.cuda_attention_with_lse((Q, K, V), (Q, K, V), None) is None
        monkeypatch.delattr(torch, "_fused_sdp_choice")
        assert _torch_private.cuda_attention_with_lse((Q, K, V), (Q, K, V), None) is None


class TestTraceableMultiHead:
    def test_canary_the_public_function_is_code_that_asks_has_torch_function(self):
        assert _torch_private.traceable() is not None, "multi_head_attention_forward can no longer be traced"
        model, x = multi_head()
        with vitscope.capture(model) as captured:
            model(x, x, x, need_weights=False)
        assert isinstance(captured.attention[0], Factored), "its queries and keys are no longer seen"

    @pytest.mark.parametrize("function", [len, lambda: None])
    def test_other_functions_are_not_traceable(self, function):
        assert _torch_private.traceable(function) is None

    @pytest.mark.parametrize(("need_weights", "mean"), [(False, True), (True, True), (True, False)])
    def test_without_it_the_matrix_is_recorded(self, monkeypatch, need_weights, mean):
        model, x = multi_head()
        options = {"need_weights": need_weights, "average_attn_weights": mean}
        stores, outs = [], []
        for traceable in (capturing._traceable_multi_head, None):
            monkeypatch.setattr(capturing, "_traceable_multi_head", traceable)
            with vitscope.capture(model) as captured:
                outs.append(model(x, x, x, **options))
            stores.append(captured.attention)
        assert [type(store[0]) for store in stores] == [Factored, Dense]
        torch.testing.assert_close(outs[0], outs[1])
        torch.testing.assert_close(stores[0][0].rows(), stores[1][0].rows())

    @pytest.mark.parametrize("options", [{"gradients": True}, {"gradient_rule": GradientRule("libra")}])
    def test_without_it_gradients_are_refused(self, monkeypatch, options):
        model, x = multi_head()
        monkeypatch.setattr(capturing, "_traceable_multi_head", None)
        with raises(CaptureError, "attention.opaque-multi-head"), vitscope.capture(model, **options):
            model(x, x, x)


class TestCompiled:
    def test_canary_a_compiled_module_is_recognised(self):
        one = nn.Linear(2, 2)
        wrapped = torch.compile(one, backend="eager")
        assert _torch_private.unwrap_compiled(wrapped) is one, "torch.compile hides the module elsewhere now"

    def test_canary_the_behaviour_of_compile_is_restored(self):
        before = _torch_private.compile_stance()
        assert before is not None, "torch keeps the behaviour of torch.compile elsewhere: the caller's is lost"
        torch.compiler.set_stance("force_eager")
        _torch_private.set_compile_stance(before)
        assert _torch_private.compile_stance() == before

    def test_without_it_the_default_is_restored(self, monkeypatch):
        monkeypatch.delattr(torch._dynamo.eval_frame, "_stance")
        assert _torch_private.compile_stance() is None
        monkeypatch.undo()
        torch.compiler.set_stance("force_eager")
        _torch_private.set_compile_stance(None)
        assert _torch_private.compile_stance().stance == "default"

    def test_a_plain_model_is_its_own_original(self):
        model = nn.Linear(2, 2)
        assert _torch_private.unwrap_compiled(model) is model


class TestDisableTensorSubclass:
    @pytest.mark.parametrize("context", [_torch_private.DisableTensorSubclass, torch._C.DisableTorchFunction])
    def test_canary_a_subclass_is_a_plain_tensor_within_it(self, context):
        calls = []

        class Loud(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                calls.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})

        x = torch.ones(2).as_subclass(Loud)
        x + 1
        assert calls
        calls.clear()
        with context():
            assert type(x + 1) is torch.Tensor, "this context no longer makes plain tensors"
        assert not calls


@pytest.mark.parametrize("kind", ["attention", "encoder layer"])
def test_canary_a_mode_keeps_modules_off_their_fused_path(kind):
    model, x = multi_head()
    if kind == "encoder layer":
        model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad(), vitscope.capture(model) as captured:
        model(x) if kind == "encoder layer" else model(x, x, x, need_weights=False)
    assert len(captured.blocks) == 1, "torch runs its fused path under a mode: attention is not captured there"


class TestRemoval:
    @pytest.mark.parametrize("before", [True, False])
    def test_canary_a_hook_is_called_with_its_options_and_leaves_nothing(self, before):
        model, calls = nn.Linear(2, 2), []
        untouched = {name: dict(value) for name, value in vars(model).items() if "hooks" in name}
        options = {"before": before, "with_kwargs": True} | ({} if before else {"always_call": True})
        _torch_private.add_hook(model, -5, lambda *given: calls.append(len(given)), **options)
        model(torch.ones(2))
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.ones(3))
        assert calls == [3, 3] if before else [4, 4]
        _torch_private.remove_hook(model, -5)
        _torch_private.remove_hook(model, -5)
        assert {name: dict(value) for name, value in vars(model).items() if "hooks" in name} == untouched

    def test_canary_a_mode_left_on_the_stack_is_removed_and_those_below_stay(self):
        class Mode(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                return func(*args, **(kwargs or {}))

        with Mode() as outer:
            for mode in (inner := Mode(), Mode()):
                mode.__enter__()
            _torch_private.remove_mode(inner)
            _torch_private.remove_mode(inner)
            assert torch.overrides._get_current_function_mode_stack() == [outer]

    def test_canary_inference_mode_is_left_by_a_context_in_c(self):
        with torch.inference_mode(), _torch_private.InferenceMode(False):
            assert not torch.is_inference_mode_enabled()
        assert _torch_private.InferenceMode is not torch.inference_mode, "its Python code can be interrupted at its end"

    def test_canary_checkpointing_calls_what_is_replaced(self):
        before = _torch_private.checkpoint_functions()
        assert len(before) == 2, "torch renamed what checkpoint calls: gradient methods fail inside it"
        replaced, calls = _torch_private.passing_by(before, lambda: True), []
        x = torch.ones(2, requires_grad=True)
        for reentrant in (True, False):
            try:
                _torch_private.set_checkpoint_functions(replaced)
                y = torch.utils.checkpoint.checkpoint(lambda v: calls.append(1) or v.exp(), x, use_reentrant=reentrant)
            finally:
                _torch_private.set_checkpoint_functions(before)
            torch.autograd.grad(y.sum(), x)
        assert calls == [1, 1], "a function ran again in the backward pass"

    def test_without_them_checkpointing_stays(self):
        assert _torch_private.passing_by({}, lambda: True) == {}

    def test_canary_transformations_are_noticed(self):
        seen = []
        torch.func.vmap(lambda x: (seen.append(_torch_private.transformed()), x)[1])(torch.ones(2))
        with FakeTensorMode():
            seen.append(_torch_private.transformed())
        assert [*seen, _torch_private.transformed()] == [True, True, False], "torch keeps them elsewhere now"


class TestCopies:
    def test_canary_the_dictionaries_of_hooks_are_all_known(self):
        module = nn.Linear(1, 1)
        for before, options in ((True, {"with_kwargs": True}), (False, {"with_kwargs": True, "always_call": True})):
            _torch_private.add_hook(module, -(10**9), print, before=before, **options)
        changed = {name for name, value in vars(module).items() if "hooks" in name and value}
        assert changed == set(_torch_private._HOOKS)
        hooks = copy.deepcopy(module)._forward_hooks.values()
        assert [hook(module, (), None) for hook in hooks] == [None]


def test_canary_a_module_is_called_by_this_code():
    seen = []
    module = nn.Identity()
    module.register_forward_hook(lambda *_: seen.extend(frame.f_code for frame, _ in traceback.walk_stack(None)))
    module(torch.zeros(1))
    assert _torch_private.MODULE_CALL in seen
