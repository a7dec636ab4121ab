"""A map against a mask, by hand."""

import numpy as np
import pytest


class TestKnown:
    """A map against a mask, by hand and against the library's own `localise` on maps made one by one."""

    def test_a_map_on_the_object(self, explained):
        from vitscope.metrics.ground_truth import compare_with_mask

        values = np.zeros((8, 8))
        values[1:3, 5:8] = 1
        e = explained(values, (64, 64))
        mask = np.zeros((64, 64), bool)
        mask[8:24, 40:64] = True
        got = compare_with_mask(e, mask)
        assert got.share == pytest.approx(mask.mean())
        assert got["pixel-auc"].value > 0.99
        assert got["pixel-auc"].verdict == "better than random"
        assert got["pixel-auc"].random == pytest.approx(0.5, abs=0.1)
        half = compare_with_mask(e, np.indices((64, 64))[1] >= 32)["pointing"]
        assert (half.value, half.verdict) == (1, "undecided")  # many a random map points at it as well
        assert got["mass-inside"].value > 0.7
        assert "above a blob in the middle in 4" in got.sentence()
        off = np.zeros((64, 64), bool)
        off[40:, :24] = True
        worse = compare_with_mask(e, off)
        assert worse["mass-inside"].value < 0.01
        assert "better than random" not in worse.sentence()

    def test_beside_what(self, explained):
        from vitscope.metrics.ground_truth import compare_with_mask
        from vitscope.metrics.localisation import localise

        rng = np.random.default_rng(1)
        e = explained(rng.normal(size=(5, 7)), (35, 25))
        mask = rng.random((25, 35)) < 0.3
        got = compare_with_mask(e, mask, seed=2)
        blob = [
            [np.exp(-(((r + 0.5) / 5 - 0.5) ** 2 + ((c + 0.5) / 7 - 0.5) ** 2) / 0.125) for c in range(7)]
            for r in range(5)
        ]
        middle = localise(explained(blob, (35, 25)).heat(), mask)
        own = localise(e.heat(), mask)
        flat = e.map.ravel()
        order = np.argsort(-flat, kind="stable")
        randoms = []
        for number in range(39):
            shuffled = np.empty_like(flat)
            shuffled[np.random.default_rng([2, number]).permutation(35)] = flat[order]
            randoms.append(localise(explained(shuffled.reshape(5, 7), (35, 25)).heat(), mask))
        fields = {"pixel-auc": "auc", "average-precision": "ap", "pointing": "pointing", "mass-inside": "inside"}
        for name, field in fields.items():
            values = [getattr(one, field) for one in randoms]
            number = got[name]
            assert number.value == getattr(own, field)
            assert number.detail["centre"] == pytest.approx(getattr(middle, field), rel=1e-5)
            assert (number.low, number.high, number.draws) == (sorted(values)[1], sorted(values)[-2], 39)
            assert number.random == pytest.approx(np.mean(values))
        before = e.map.tobytes()
        assert compare_with_mask(e, mask, seed=2) == got
        assert e.map.tobytes() == before
