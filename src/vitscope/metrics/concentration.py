"""How concentrated a map is, in three numbers."""

import numpy as np

from vitscope.explanation import Explanation


def concentration(explanation: Explanation) -> dict[str, float]:
    """Compute three numbers that distinguish a broad map from one dominated by a few tokens.

    Returns:
        `effective_patches`: exp of the entropy of the patches' shares, in [1, gh * gw]: a uniform map over n patches
        has n. `largest_share`: the largest patch's share of the patches' sum, in [0, 1]. `prefix_share`: the prefix
        tokens' share of the sum over all tokens, in [0, 1]. Negative values count as zero; a map without positive
        values has the uniform map's numbers.
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
