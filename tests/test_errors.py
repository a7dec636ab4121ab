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


def ask(name):
    return METHODS.get(name)


def _same(one, other):
    assert type(other) is type(one)
    assert (other.message, other.hint, other.code, str(other)) == (one.message, one.hint, one.code, str(one))
    assert other.spoken("cli") == one.spoken("cli")
