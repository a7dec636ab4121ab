"""Ctrl-C between any two lines: the model, this thread's torch and the process are left as they were."""

import gc

import numpy as np
import pytest
import torch

import vitscope
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.interrupts import OURS, Interrupted, interrupted
from tests.helpers.model_state import differences, model_state, surroundings

pytestmark = pytest.mark.usefixtures("as_shipped")
FEW, MANY = 6, 400
FAST = ("rollout", "gradcam", "attnlrp", "occlusion", "token-removal", "logit-lens", "capture", "without")


def capture_alone(scope):
    with torch.no_grad(), vitscope.capture(scope.model) as captured:
        scope.model(torch.zeros(1, 3, 32, 32))
    assert captured.attention


def by(method, **options):
    return lambda scope: scope.explain(PHOTOS[0], method=method, **options)


WORKS = {
    "rollout": by("rollout"),
    "gradcam": by("gradcam"),
    "attnlrp": by("attnlrp"),
    "integrated-gradients": by("integrated-gradients", steps=2),
    "occlusion": by("occlusion", window=4),
    "token-removal": by("token-removal", samples=2),
    "logit-lens": by("logit-lens"),
    "refined": by("legrad", refine="affinity"),
    "load": lambda scope: vitscope.load(scope.model).explain(PHOTOS[0], method="layercam"),
    "capture": capture_alone,
    "sanity": lambda scope: scope.measure(scope.explain(PHOTOS[0], method="rollout"), metrics=["sanity"]),
    "statistics": lambda scope: scope.statistics(PHOTOS[0], importance=True),
    "without": lambda scope: scope.predict_without(PHOTOS[0], [3], "drop"),
    "all": lambda scope: scope.methods(),
}


def check(family, work, count, inside=OURS, aside=()):
    """Interrupt at `count` places, evenly spread; return the places after which something had changed, and what."""
    model = make(family).train(work != "capture")
    scope = vitscope.load(model)
    run = WORKS[work]
    run(scope)
    before, around = model_state(model), surroundings()
    total = interrupted(lambda: run(scope), -1, inside)
    left = {}
    for place in sorted({int(n) for n in np.linspace(1, total, min(count, total))}):
        try:
            interrupted(lambda: run(scope), place, inside)
        except Interrupted as error:
            changed = differences(before, model_state(model)) + differences(around, surroundings())
            changed = [name for name in changed if name not in aside]
            if changed:
                frames, at = [], error.__traceback__
                while at is not None:
                    frames.append(f"{at.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{at.tb_lineno}")
                    at = at.tb_next
                left[place] = frames[-3:], changed[:4]
    gc.collect()
    assert differences(before, model_state(model)) == []
    return total, left


@pytest.mark.parametrize("work", FAST)
def test_an_interrupt_at_some_places_leaves_everything_as_it_was(work):
    total, left = check("transformers", work, FEW)
    assert total > FEW
    assert left == {}


@pytest.mark.slow
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("family", ["generic", "timm", "transformers"])
def test_an_interrupt_at_many_places_leaves_everything_as_it_was(family, work):
    assert check(family, work, MANY)[1] == {}


@pytest.mark.slow
@pytest.mark.parametrize("work", ["gradcam", "logit-lens", "sanity", "capture"])
def test_an_interrupt_in_torch_and_python_itself_leaves_everything_as_it_was(work):
    # torch takes a mode off its stack in a Python generator, and an interrupt in there brings it back much later
    assert check("generic", work, MANY, "", ["function modes"])[1] == {}
