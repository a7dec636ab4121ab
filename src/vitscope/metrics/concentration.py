"""How concentrated a map is: plain numbers that go beside its picture."""

import numpy as np

from vitscope.explanation import Explanation

__all__ = ["concentration"]


def concentration(explanation: Explanation) -> dict[str, float]:
    """Three numbers that tell a broad map from one that a few tokens swallow.

    Returns:
        `effective_patches`: exp of the entropy of the patches' shares, in [1, gh * gw]; what a uniform map over that
        many patches would have. `largest_share`: of the patches' sum, the share of the largest, in [0, 1].
        `prefix_share`: of the sum over all tokens, the share of the prefix tokens, in [0, 1]. Negative values count
        as zero; a map without positive values gives the uniform map's numbers.
    """
    patches = np.clip(explanation.map.astype(np.float64).ravel(), 0, None)
    prefix = float(np.clip(explanation.prefix.astype(np.float64), 0, None).sum())
    total = patches.sum()
    share = patches / total if total > 0 else np.full(patches.size, 1 / patches.size)
    entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
    return {
        "effective_patches": float(np.exp(entropy)),
        "largest_share": float(share.max()),
        "prefix_share": prefix / (prefix + total) if prefix + total > 0 else 0.0,
    }
