"""Logs maps to Weights & Biases: the overlay as an image with a caption, its concentration as curves."""

from typing import Any

from vitscope.errors import MissingDependencyError
from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration


def logger(run: Any, **style: Any) -> Any:
    """Return a function `log(tag, explanation, step)` that logs into a run of wandb.

    vitscope itself sends nothing.

    Args:
        run: returned by `wandb.init`.
        style: options of `Explanation.overlay`.

    Raises:
        MissingDependencyError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise MissingDependencyError("wandb", "wandb") from None

    def log(tag: str, explanation: Explanation, step: int) -> None:
        about = f"{explanation.method} · {explanation.provenance.get('model', '')}"
        numbers = {f"{tag}/{name}": value for name, value in concentration(explanation).items()}
        picture = wandb.Image(explanation.overlay(**style), caption=about)
        # the trainer's step counter may be ahead, so the step is logged beside the map, not as `step=`
        run.log({tag: picture, f"{tag}/step": step, **numbers})

    return log
