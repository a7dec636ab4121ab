"""Maps for Weights & Biases: the overlay as an image with its caption, its concentration as curves."""

from typing import Any

from vitscope.errors import MissingDependencyError
from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration

__all__ = ["logger"]


def logger(run: Any, **style: Any) -> Any:
    """A function `log(tag, explanation, step)` that logs into a run of wandb; vitscope itself sends nothing.

    Args:
        run: what `wandb.init` gave.
        style: how to draw, as for `Explanation.overlay`.

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
        # the trainer's own step counter may be ahead: ours goes beside the map instead of into `step=`
        run.log({tag: picture, f"{tag}/step": step, **numbers})

    return log
