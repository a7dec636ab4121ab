"""Which parametrisations stay in the fast tier."""

from types import SimpleNamespace

from tests.helpers.tiers import beyond_a_cover


def test_each_value_of_each_parameter_keeps_one_test():
    product = [
        SimpleNamespace(
            callspec=SimpleNamespace(params={"model": model, "method": method, "options": {"layer": layer}})
        )
        for model in "abc"
        for method in range(5)
        for layer in (0, 1)
    ]
    left = beyond_a_cover(product)
    kept = [item.callspec.params for item in product if item not in left]
    assert len(kept) == 5  # as many as the longest parameter has values
    assert {one["model"] for one in kept} == {*"abc"}
    assert {one["method"] for one in kept} == {*range(5)}
    assert {one["options"]["layer"] for one in kept} == {0, 1}
    assert beyond_a_cover([item for item in product if item not in left]) == []
