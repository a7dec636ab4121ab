"""Interrupts between two lines: a trace function that raises where Python could deliver Ctrl-C."""

import gc
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import vitscope
from tests.bench.toys_calibration import scenes
from tests.engine.toys_families import PHOTOS, make
from tests.helpers.model_state import differences, model_state, surroundings
from vitscope.bench import calibrate, calibration_cases
from vitscope.engine import calibration
from vitscope.engine.animation import map_sequence
from vitscope.methods.base import METHODS

OURS = str(Path(__file__).parents[2] / "src" / "vitscope")


class Interrupted(KeyboardInterrupt):
    """Raised by `interrupted`."""


def interrupted(work: Callable[[], object], at: int, inside: str = OURS) -> int:
    """Run a function, and raise at the `at`-th place in the Python files inside a folder, from 1.

    Places are the beginnings of lines and of calls. Returns how many places were passed.

    Raises:
        Interrupted: the place was reached.
    """

    def reached(place: int) -> None:
        if place == at:
            sys.settrace(None)
            raise Interrupted

    return _traced(work, reached, inside)


def _traced(work: Callable[[], object], reached: Callable[[int], object], inside: str) -> int:
    """Run a function, and call another one with the number of each place; return how many there were."""
    passed = 0

    def local(_frame: Any, event: str, _value: Any) -> Any:
        nonlocal passed
        if event == "line":
            passed += 1
            reached(passed)
        return local

    def trace(frame: Any, event: str, _value: Any) -> Any:
        nonlocal passed
        if not frame.f_code.co_filename.startswith(inside):
            return None
        passed += 1
        reached(passed)
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return passed


def capture_alone(scope):
    with torch.no_grad(), vitscope.capture(scope.model) as captured:
        scope.model(torch.zeros(1, 3, 32, 32))
    assert captured.attention


def by(method, **options):
    return lambda scope: scope.explain(PHOTOS[0], method=method, **options)


def calibrate_few(scope):
    """Calibrate by the two methods and few cases that show every stage."""
    left_out = {name for name, _ in METHODS} - {"rollout", "input-x-gradient"}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for owner, name, value in (
            (calibration_cases.planted, "scenes", scenes),
            (calibrate, "QUICK", ((1,), 2, 1)),
            (calibrate, "_LEFT_OUT", left_out),
            (calibration, "folder", lambda: Path(folder)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        scope.calibrate(quick=True)


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
    "evidence-walk": by("evidence-walk"),
    "random-walk": by("random-walk"),
    "measures": lambda scope: scope.measure(
        scope.explain(PHOTOS[0], method="rollout"), metrics=["deletion", "infidelity"], n_random_maps=2, steps=4
    ),
    "view": lambda scope: scope.view(PHOTOS[0], methods=["rollout", "gradcam"], measure=False, top=2),
    "recipe": lambda scope: scope.recipe(PHOTOS[0], measured=False),
    "view-two": lambda scope: scope.view(PHOTOS[0], other=PHOTOS[1], methods=["rollout"], top=0, measure=True),
    "view-beside": lambda scope: scope.view(PHOTOS[0], beside=scope, methods=["attention"], top=0, measure=False),
    "compare": lambda scope: scope.compare(*PHOTOS),
    "compare-layers": lambda scope: scope.compare_layers(scope, PHOTOS[0]),
    "animate": lambda scope: map_sequence(scope.engine, PHOTOS[0], "rollout", progress=lambda *_: None),
    "calibrate": calibrate_few,
    "recipe-measured": lambda scope: scope.recipe(PHOTOS[0], seconds=0.01, progress=lambda *_: None),
    "attribute": lambda scope: scope.attribute(torch.zeros(1, 3, 32, 32), method="relevance"),
}
IN_PLACE = ("calibrate",)  # which removes files at its end, as a child must not
SHORT = 40_000  # places: a run of so few is over before a fork is


def check(family, work, count, inside=OURS, aside=(), first=1):
    """Interrupt at `count` places, evenly spread, from the `first` on.

    Returns how many there were, and those after which something had changed, with where and what.
    """
    run, changed = _prepared(family, work, aside)
    return _again(run, changed, _spread(first, interrupted(run, -1, inside), count), inside)


def check_forked(family, work, count, inside=OURS, aside=(), first=1, patience=120):
    """Do as `check` within one run: at each place a child of this process is interrupted, and this one goes on.

    A place costs its own unwinding and not the run before it, so that all places of a work can be tried. Places are
    those of this run: a few more or less than in the one that they were counted in.
    """
    run, changed = _prepared(family, work, aside)
    return _within(run, changed, _spread(first, interrupted(run, -1, inside), count), inside, patience)


def check_quickly(family, work, count, first=1):
    """Do as `check` or `check_forked`, whichever costs less."""
    run, changed = _prepared(family, work, ())
    total = interrupted(run, -1)
    again = work in IN_PLACE or total <= SHORT
    return (_again if again else _within)(run, changed, _spread(first, total, count))


def _again(run, changed, places, inside=OURS):
    """Run once for each place, and look after each."""
    interrupts, left = 0, {}
    for place in places:
        raised, found = _tried(lambda place=place: interrupted(run, place, inside), changed)
        interrupts += raised
        if found:
            left[place] = found
    return interrupts, left


def _within(run, changed, places, inside=OURS, patience=120):
    """Run once, and at each place fork a child that is interrupted there and looks."""
    interrupts, left, pipe, places = 0, {}, None, set(places)

    def reached(place):
        nonlocal interrupts, pipe
        if place not in places:
            return
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            pipe = writing
            sys.settrace(None)
            raise Interrupted
        os.close(writing)
        raised, found = _said(child, reading, patience)
        interrupts += raised
        if found:
            left[place] = found

    try:
        found = _tried(lambda: _traced(run, reached, inside), changed)
        if pipe is not None:
            os.write(pipe, json.dumps(found).encode())
        elif found[1]:
            left[0] = found[1]  # by the run that nobody interrupted
    finally:
        if pipe is not None:
            os._exit(0)
    return interrupts, left


def _prepared(family, work, aside):
    """Return a work as a function, and a function that returns what has changed since."""
    model = make(family).train(work != "capture")
    scope = vitscope.load(model)
    WORKS[work](scope)
    before, around = model_state(model), surroundings()

    def changed() -> list[str]:
        now = differences(before, model_state(model)) + differences(around, surroundings())
        return [name for name in now if name not in aside][:4]

    gc.collect()
    gc.freeze()  # so that the collections after each place are quick
    return lambda: WORKS[work](scope), changed


def _spread(first, total, count):
    return sorted({int(n) for n in np.linspace(first, total, min(count, total))})


def _tried(run, changed):
    """Return whether a run was interrupted, and where and what had changed then; None for nothing."""
    raised = False
    try:
        run()
    except Interrupted as error:
        raised = True
        if names := changed():
            return raised, (_frames(error), names)
    gc.collect()  # what an interrupt kept from ending ends now, and must not bring back the state of its time
    names = changed()
    return raised, (["when collected"], names) if names else None


def _said(child, reading, patience):
    """Return what a child found, and wait for its end."""
    said = b""
    while select.select([reading], [], [], patience)[0] and (more := os.read(reading, 1 << 16)):
        said += more
    os.close(reading)
    os.kill(child, signal.SIGKILL)  # which it has most often done without
    os.waitpid(child, 0)
    return json.loads(said) if said else (True, ([], ["hung, or ended by itself"]))


def _frames(error: BaseException) -> list[str]:
    """Return where an error was raised, innermost last."""
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(f"{at.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{at.tb_lineno}")
        at = at.tb_next
    return frames[-3:]
