"""The random walk written slowly: every step's matrix, summed until nobody is left walking; in float64."""

import numpy as np


def steps(z, temperature):
    """`T (P, P)`: the chance that a walker on patch i goes to patch j."""
    alike = np.empty((len(z), len(z)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            alike[i, j] = np.exp((a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) - 1) / temperature)
    return alike / alike.sum(1, keepdims=True)


def walked(s, z, restart=0.05, temperature=0.1, detail=0.5):
    """`x_j (P s_j)^detail` less its mean, `x = sum_t c (1 - c)^t T^t s`, c the chance to stop."""
    t, arrived, still, x = steps(z, temperature), np.asarray(s, np.float64), 1.0, np.zeros(len(z))
    while still > 1e-14:
        x += restart * still * arrived
        arrived, still = t @ arrived, still * (1 - restart)
    p = np.array([a * (len(z) * b) ** detail for a, b in zip(x, s, strict=True)])
    return p - p.mean()
