"""What Quantus says of one map: `quantus_asked.py IN OUT`, run by `test_faithfulness_peers.py` in a process of its own.

IN is an npz file: `x (1, 1, 8, 8)`, `a` a map of the same shape, `within` and `linear` of the model, `sets (n, k)` the
pixels of each random set. OUT gets its answers as JSON.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.simplefilter("ignore")
import quantus  # noqa: E402


class Model(torch.nn.Module):
    """`tanh(x' within x) + linear' x`, and its negative as a second class."""

    def __init__(self, within, linear):
        super().__init__()
        self.within, self.linear = torch.Tensor(within), torch.Tensor(linear)

    def forward(self, x):
        x = x.flatten(1)
        score = torch.einsum("bi,ij,bj->b", x, self.within, x).tanh() + x @ self.linear
        return torch.stack([score, -score], 1)


def main() -> None:
    told = np.load(sys.argv[1])
    size = told["sets"].shape[1]
    given = {"model": Model(told["within"], told["linear"]).eval(), "x_batch": told["x"], "y_batch": np.array([0])}
    given |= {"a_batch": told["a"], "softmax": False, "channel_first": True, "device": "cpu"}
    options = {"normalise": False, "abs": False, "perturb_baseline": 0.0, "disable_warnings": True}
    regions = {"patch_size": 2, "regions_evaluation": 16, **options}
    answers = {
        "flipping": quantus.PixelFlipping(features_in_step=4, **options)(**given)[0],
        "first": quantus.RegionPerturbation(order="morf", **regions)(**given)[0],
        "last": quantus.RegionPerturbation(order="lerf", **regions)(**given)[0],
    }
    waiting = iter(told["sets"])
    np.random.choice = lambda *_args, **_kwargs: next(waiting)  # the same sets for both
    correlation = quantus.FaithfulnessCorrelation(
        nr_runs=len(told["sets"]), subset_size=size, return_aggregate=False, **options
    )
    answers["correlation"] = correlation(**given)[0]
    Path(sys.argv[2]).write_text(json.dumps(answers, default=lambda array: np.asarray(array).tolist()))


if __name__ == "__main__":
    main()
