"""Logs maps to TensorBoard: the overlay as an image, its concentration as curves."""

from typing import Any

import numpy as np

from vitscope.explanation import Explanation
from vitscope.metrics.concentration import concentration


def logger(writer: Any, **style: Any) -> Any:
    """Return a function `log(tag, explanation, step)` for a `SummaryWriter`.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter` or one with the same `add_image` and `add_scalar`.
        style: options of `Explanation.overlay`.
    """

    def log(tag: str, explanation: Explanation, step: int) -> None:
        writer.add_image(tag, np.asarray(explanation.overlay(**style)), step, dataformats="HWC")
        for name, value in concentration(explanation).items():
            writer.add_scalar(f"{tag}/{name}", value, step)

    return log
