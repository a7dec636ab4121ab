"""Calibrations made by hand, as if they had been measured."""

from vitscope._version import __version__
from vitscope.engine.calibration import SCHEMA, Answer, Calibration, Row, Setting, identity
from vitscope.metrics.resampling import Difference, Estimate


def calibration_of(scope, question, default, choice, outcome="better", **fields):
    """Return a calibration of a scope's model that chose `choice` over `default`, both `Setting`s."""
    score, more = {"score": Estimate(0.9, 0.85, 0.95, 40)}, Difference(0.2, 0.1, 0.3, 0.001, False)
    rows = [Row(str(default), score), Row(str(choice), score, more, 0.001)]
    answer = Answer(outcome, "planted", searched=9, tune=12, report=40, default=default, choice=choice, rows=rows)
    known = {"schema": SCHEMA, "made": "2026-11-29T04:00:00Z", "version": __version__, "model": "m", "seconds": 1.0}
    options = {"quick": True, "seed": 0, "size": None, "images": None}
    return Calibration(**known | identity(scope.adapter) | {"options": options, "answers": {question: answer}} | fields)


ROLLOUT = Setting("rollout", {"layers": "last2"})


def evidence_of(scope, choice=ROLLOUT, **fields):
    """Return one of a classifier whose default is `evidence-walk`."""
    return calibration_of(scope, "evidence", Setting("evidence-walk"), choice, **fields)
