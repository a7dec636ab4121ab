"""What the sources declare, without torch, is what the registry holds."""

import pytest

from tests.helpers.errors import raises
from vitscope.errors import UnknownNameError, UsageError
from vitscope.methods import declared
from vitscope.methods.base import METHODS


def test_names_options_and_defaults_are_those_of_the_registry():
    registered = {name: method for name, method in METHODS if method.run.__module__.startswith("vitscope.")}
    found = declared.declared_options()
    assert set(found) == set(registered)
    for name, method in registered.items():
        assert {one.name: one.default for one in found[name].values()} == {
            one.name: one.default for one in method.options.values()
        }
        for option in found[name].values():  # an alias from another folder is not known: nothing is refused for it
            assert option.choices in ((), method.options[option.name].choices)
    assert found["rollout"]["head_fusion"].choices == ("mean", "max", "min")


@pytest.mark.parametrize(
    ("methods", "options", "error", "code"),
    [
        (["rolout"], {}, UnknownNameError, "errors.unknown-name"),
        (["rollout"], {"layrs": 1}, UnknownNameError, "errors.unknown-name"),
        (["rollout"], {"head_fusion": "men"}, UnknownNameError, "errors.unknown-name"),
        (["rollout"], {"residual_weight": "much"}, UsageError, "methods.not-a-number"),
        (["auto"], {"layrs": 1}, UnknownNameError, "errors.unknown-name"),
        (["attention", "rollout"], {"stride": 1}, UnknownNameError, "errors.unknown-name"),
        (["attention", "rollout"], {"residual_weight": "much"}, UsageError, "methods.not-a-number"),
        (["auto"], {"head_fusion": "men"}, UnknownNameError, "errors.unknown-name"),
    ],
)
def test_mistakes_are_refused(methods, options, error, code):
    with raises(error, code):
        declared.check_declared(methods, options)


def test_what_exists_passes():
    declared.check_declared(["auto"], {"stride": 1})
    declared.check_declared(["attention", "rollout"], {"head": 1, "residual_weight": 0.3})
    declared.check_declared(["gradcam"], {"at": "input"})
    for method, options in declared.declared_options().items():  # what fits one method fits any that is chosen
        declared.check_declared([method, "auto"], {name: one.default for name, one in options.items()})


def test_nothing_is_refused_that_a_plug_in_may_bring(monkeypatch):
    monkeypatch.setattr(declared, "entry_points", lambda group: [group])
    declared.check_declared(["theirs"], {"any": 1})
    declared.check_declared(["auto"], {"any": 1})
    with raises(UnknownNameError, "errors.unknown-name"):
        declared.check_declared(["rollout"], {"layrs": 1})


def test_nothing_is_refused_where_the_sources_are_not_at_hand(monkeypatch):
    monkeypatch.setattr(declared, "declared_options", dict)
    declared.check_declared(["rolout"], {"any": 1})
