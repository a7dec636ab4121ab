"""Small models and probes whose measures are known."""

import numpy as np
import torch

from tests.models import toys as zoo
from vitscope.metrics.faithfulness import MEASURES, MeasureSettings
from vitscope.metrics.perturb import Probe
from vitscope.metrics.ranking import rank_map
from vitscope.models.transformers.adapter import TransformersAdapter
from vitscope.scope import Scope

NAMES = [measure.name for measure in MEASURES]
BETTER = {measure.name: measure.better for measure in MEASURES}


def photo(size=(40, 40), seed=0):
    """Blocks of colour and a little noise: patches differ, so that replacing them does something."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 5, 3)).repeat(size[0] // 5, 0).repeat(size[1] // 5, 1)
    return (blocks + rng.integers(-9, 10, blocks.shape)).clip(0, 255).astype(np.uint8)


def scope_of(name="vit", dtype=torch.float64):
    row = next(row for row in zoo.ROWS if row.name == name)
    model = row.model().to(dtype)
    with torch.no_grad():  # a freshly made model hardly looks at its picture
        for key, parameter in model.named_parameters():
            if "projection.weight" in key or "v_proj.weight" in key:
                parameter.mul_(10)
    return Scope(TransformersAdapter(model, weights="none"), torch.device("cpu"), dtype)


def additive(parts, grid):
    """A probe whose score is the sum of what each patch that is there brings: `parts`, one number per patch."""
    parts = torch.as_tensor(np.asarray(parts, np.float64)).reshape(grid)
    pixels = parts.repeat_interleave(3, 0).repeat_interleave(2, 1).expand(3, -1, -1)

    def run(pixels, _kept):
        return pixels[:, 0].unflatten(1, (grid[0], 3)).unflatten(3, (grid[1], 2)).mean((2, 4)).sum((1, 2))

    return Probe(run, pixels, torch.zeros_like(pixels), grid, 5)


def numbers_of(values, probe, **options):
    """Every measure of one map on a probe."""
    plan = MeasureSettings(probe.grid, **options)
    one = rank_map(np.asarray(values, np.float32).reshape(probe.grid), plan.seed)
    masks = [measure.masks(one, plan) for measure in MEASURES]
    scores, _ = probe.scores(masks)
    return {m.name: m.value(one, s, plan).value for m, s in zip(MEASURES, scores, strict=True)}


def state(model):
    """Everything about a model that a measurement could leave changed."""
    return {
        name: (
            module.training,
            *(len(getattr(module, hooks)) for hooks in sorted(vars(module)) if "hooks" in hooks),
            tuple(
                (id(p), p.data_ptr(), p.requires_grad, p.grad is None, p._version, p.detach().numpy().tobytes())
                for p in module.parameters(recurse=False)
            ),
            tuple(b.numpy().tobytes() for b in module.buffers(recurse=False)),
        )
        for name, module in model.named_modules()
    }
