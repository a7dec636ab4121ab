"""Which parametrisations stay in the fast tier."""

from types import SimpleNamespace

from tests.helpers.tiers import beyond_a_cover, beyond_a_share


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


def test_each_test_keeps_a_third_of_its_values_and_each_value_a_third_of_the_tests():
    tests = [[(test, value) for value in range(7)] for test in range(6)]
    left = beyond_a_share(tests)
    kept = [one for members in tests for one in members if one not in left]
    assert [sum(test == number for test, _ in kept) for number in range(6)] == [3, 2, 2] * 2
    assert [sum(value == number for _, value in kept) for number in range(7)] == [2] * 7
    assert beyond_a_share([["alone"], ["first", "second"], ["a", "b"]]) == ["first", "b"]
