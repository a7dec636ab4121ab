"""The names of metrics that are known without torch are those of the metrics."""

from vitscope.evaluation import evaluate
from vitscope.metrics.faithfulness import MEASURES
from vitscope.metrics.metric_names import FAITHFULNESS, REMAKING, SEVERAL


def test_the_names_are_those_of_the_metrics():
    assert tuple(measure.name for measure in MEASURES) == FAITHFULNESS
    assert tuple(evaluate._REMAKING) == REMAKING
    assert all(evaluate.metric_names(name, "auto", "logit") for name in SEVERAL)
