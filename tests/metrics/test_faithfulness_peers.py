"""Faithfulness as others compute it, where definitions agree: torchcam, captum, and Quantus in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.faithfulness import numbers_of
from vitscope.metrics.faithfulness import MEASURES, MeasureSettings
from vitscope.metrics.perturb import Probe
from vitscope.metrics.ranking import rank_map
from vitscope.metrics.stability import NOISE_SAMPLES, stability

QUANTUS = Path(__file__).parents[2] / ".cache" / "quantus"  # put there by tests/helpers/beside.sh
OF = {measure.name: measure for measure in MEASURES}


class Interacting:
    """`tanh(x' within x) + linear' x` of the 64 pixels of one channel; a patch is 2 x 2 of them, 0 when gone."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.within, self.linear = rng.normal(size=(64, 64)) / 30, rng.normal(size=64) / 8
        self.x = rng.uniform(0.2, 1, (1, 1, 8, 8))
        right = (self.linear * self.x.ravel()).reshape(4, 2, 4, 2).sum((1, 3))
        self.map = (right + rng.normal(size=(4, 4)) / 20).astype(np.float32)
        pixels = torch.from_numpy(self.x[0]).expand(3, -1, -1)
        self.probe = Probe(lambda pixels, _: self.score(pixels[:, :1]), pixels, torch.zeros_like(pixels), (4, 4))

    def score(self, x):
        x = x.flatten(1)
        within, linear = (torch.from_numpy(weight).to(x.dtype) for weight in (self.within, self.linear))
        return torch.einsum("bi,ij,bj->b", x, within, x).tanh() + x @ linear

    def found(self, name, **options):
        """What is measured here, and the sets of patches that it was made from."""
        plan = MeasureSettings((4, 4), **options)
        one = rank_map(self.map, plan.seed)
        masks = OF[name].masks(one, plan)
        ((scores,), _) = self.probe.scores([masks])
        return OF[name].value(one, scores, plan), masks

    @staticmethod
    def pixels_of(patches):
        """Of patches `(..., 16)` the pixels `(..., 8, 8)`."""
        return patches.reshape(*patches.shape[:-1], 4, 4).repeat(2, -2).repeat(2, -1)


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_deletion_and_insertion_of_torchcam(baseline):
    """torchcam ranks pixels: with a map that is flat inside patches and a step for each patch it must agree."""
    from torchcam.metrics import DeletionInsertionMetric

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(4 * 144, 5)
    ).double()
    pixels = torch.randn(3, 12, 12, dtype=torch.float64)
    values = torch.rand(4, 3, dtype=torch.float64).float()

    class Extractor:
        def __init__(self):
            self.model = model

        def __call__(self, *_args, **_kwargs):
            return [values.repeat_interleave(3, 0).repeat_interleave(4, 1)[None]]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return contextlib.nullcontext()

    fill = torch.full_like(pixels, baseline)
    theirs = DeletionInsertionMetric(Extractor(), lambda x: x.softmax(-1), steps=12, baseline=fill[None])
    theirs.update(pixels[None], class_idx=2)
    probe = Probe(lambda x, _: model(x).softmax(-1)[:, 2], pixels, fill, (4, 3))
    ours = numbers_of(values.numpy(), probe, steps=12)
    assert theirs.summary() == pytest.approx(
        {"deletion_auc": ours["deletion"], "insertion_auc": ours["insertion"]}, abs=1e-6
    )


@pytest.mark.parametrize("seed", [0, 2, 3, 4])  # those whose map says something of these squares
def test_infidelity_of_captum(seed):
    """captum's, with the best scale, for the same squares, with its best zero."""
    from captum.metrics import infidelity

    case = Interacting(seed)
    got, masks = case.found("infidelity")
    gone = torch.from_numpy(case.pixels_of(masks[1:]))[:, None]
    x = torch.from_numpy(case.x)
    moved = case.map.ravel().astype(float) + got.detail["offset"]
    told = torch.from_numpy(case.pixels_of(moved))[None, None] / 4  # a patch has four pixels

    def perturbed(repeated):
        assert len(repeated) == len(gone)
        return gone.to(repeated.dtype), repeated * ~gone

    wanted = infidelity(case.score, perturbed, x, told, n_perturb_samples=len(gone), normalize=True)
    assert got.detail["beta"] > 0
    assert got.detail["absolute"] == pytest.approx(float(wanted), rel=1e-6)


def test_max_sensitivity_of_captum():
    from captum.metrics import sensitivity_max

    pixels = torch.rand(3, 6, 6, dtype=torch.float64)
    mixed = torch.randn(36, 108, dtype=torch.float64)
    seen = []

    def explain(x):  # captum hands over a tuple once, and takes one
        x = x[0] if isinstance(x, tuple) else x
        return ((x.flatten(1) @ mixed.T).tanh(),)

    def again(pixels):
        seen.append(pixels)
        return explain(pixels[None])[0].numpy().reshape(6, 6)

    own = again(pixels)
    seen.clear()
    worst, _ = stability(own, again, pixels, torch.ones_like(pixels), seed=2)
    noisy = torch.stack(seen)

    def perturbed(repeated):
        assert len(repeated) == NOISE_SAMPLES
        return (noisy,)

    wanted = sensitivity_max(explain, pixels[None], perturb_func=perturbed, n_perturb_samples=NOISE_SAMPLES)
    assert worst.value == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.slow
def test_curves_and_correlations_of_quantus(tmp_path):
    """Its PixelFlipping, RegionPerturbation (most and least relevant first) and FaithfulnessCorrelation, one map."""
    if not (QUANTUS / "whole").exists() and not os.environ.get("CI"):
        pytest.skip("no Quantus on this machine: run tests/helpers/beside.sh")
    case = Interacting(5)
    sensitivity, sets = case.found("sensitivity-n", n_subsets=30)
    middle = 2  # the third n
    sets = case.pixels_of(sets[1 + 30 * middle : 31 + 30 * middle]).reshape(30, 64)
    chosen = np.stack([np.flatnonzero(one) for one in sets])
    np.savez(
        tmp_path / "in.npz",
        x=case.x,
        a=case.pixels_of(case.map.ravel())[None, None],
        within=case.within,
        linear=case.linear,
        sets=chosen,
    )
    subprocess.run(
        [
            sys.executable,
            Path(__file__).parents[1] / "helpers" / "quantus_asked.py",
            tmp_path / "in.npz",
            tmp_path / "out.json",
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": str(QUANTUS)},
        timeout=280,
    )
    theirs = json.loads((tmp_path / "out.json").read_text())
    whole = float(case.score(torch.from_numpy(case.x)))
    single = {"abs": 2e-5}  # it computes in single precision
    deletion, _ = case.found("deletion", steps=16)
    assert deletion.y[1:] == pytest.approx(theirs["flipping"], **single)
    aopc, _ = case.found("aopc", steps=16)
    assert aopc.y[1:] == pytest.approx(theirs["first"][: len(aopc.y) - 1], **single)
    for name, order in (("positive", "first"), ("negative", "last")):
        found, masks = case.found(name)
        assert found.y == pytest.approx([whole - theirs[order][mask.sum() - 1] for mask in masks], **single)
    assert sensitivity.y[middle] == pytest.approx(theirs["correlation"], abs=1e-4)
