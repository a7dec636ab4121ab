"""Errors cross process pools whole: class, message, code and hint."""

import concurrent.futures
import inspect
import multiprocessing
import pickle

import pytest

from vitscope import errors
from vitscope._messages import msg
from vitscope.errors import MissingDependencyError, UnknownNameError, UsageError, VitscopeError
from vitscope.methods.base import METHODS

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, VitscopeError)]
PLAIN = [kind for kind in KINDS if "message" in inspect.signature(kind).parameters]


@pytest.mark.parametrize("kind", PLAIN)
def test_every_kind_survives_pickling(kind):
    one = kind(msg("a.b", "no {what}", what="thing"), msg("a.b.hint", "use {@size=224}"))
    _same(one, pickle.loads(pickle.dumps(one)))


@pytest.mark.parametrize("kind", PLAIN)
def test_one_code_makes_message_and_hint(kind):
    made = kind.coded("a.b", "no {what} of {size}", "use {@size={size}} or {@*name}", what="thing", size=2, name="top")
    params = {"size": 2, "name": "top"}
    apart = kind(
        msg("a.b", "no {what} of {size}", what="thing", size=2),
        msg("a.b.hint", "use {@size={size}} or {@*name}", **params),
    )
    _same(made, apart)
    assert made.message.params == {"what": "thing", "size": 2}
    assert made.hint.code == "a.b.hint"
    assert made.hint.params == params


def test_a_hint_of_its_own_code_stays():
    shared = msg("a.shared", "ask {who}", who="them")
    assert UsageError.coded("a.b", "no", shared).hint is shared
    assert UsageError.coded("a.b", "no").hint == ""
    with pytest.raises(KeyError):
        UsageError.coded("a.b", "no {what}")


@pytest.mark.parametrize(
    "one",
    [UnknownNameError("method", "rolout", ["rollout"]), MissingDependencyError("timm", "timm"), UsageError("a", "b")],
)
def test_those_with_arguments_of_their_own_do(one):
    _same(one, pickle.loads(pickle.dumps(one)))


@pytest.mark.slow
def test_a_pool_hands_them_on():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool, pytest.raises(UnknownNameError) as far:
        pool.submit(ask, "rolout").result(timeout=120)
    with pytest.raises(UnknownNameError) as near:
        ask("rolout")
    _same(near.value, far.value)


def test_an_error_is_one_line_without_control_characters():
    inner = msg("c", "no {what}", what="\x1b[31mthing\n")
    for one in (
        UsageError(msg("a", "{source} is broken: {reason}", source="a\nb\u202e.png", reason=inner), "a\n  hint\x07"),
        UsageError("a\x1b b\n c", msg("d", "see {count} of {where}", count=3, where="x\r\ny")),
    ):
        assert str(one).isprintable()
        assert pickle.loads(pickle.dumps(one)).spoken("cli") == one.spoken("cli")
    assert UsageError(msg("a", "{source}", source="a\nb\u202e.png")).message == r"a\nb\u202e.png"
    plain = msg("a", "{source}", source="ein Maß 　猫.png")
    assert UsageError(plain).message is plain


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            True,
        ),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (ImportError("No module named 'x'"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_memory_are_known(error, memory):
    assert errors.is_out_of_memory(error) is memory
    if memory:
        assert errors.OutOfMemoryError.of(error, "x").message.startswith("x needs more memory")


def ask(name):
    return METHODS.get(name)


def _same(one, other):
    assert type(other) is type(one)
    assert (other.message, other.hint, other.code, str(other)) == (one.message, one.hint, one.code, str(one))
    assert other.spoken("cli") == one.spoken("cli")
