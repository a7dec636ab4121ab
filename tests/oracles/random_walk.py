"""The random walk written slowly: every step's matrix, summed until nobody is left walking; in float64."""

import numpy as np
from sklearn.cross_decomposition import PLSRegression


def steps(z, temperature):
    """`T (P, P)`: the chance that a walker on patch i goes to patch j."""
    alike = np.empty((len(z), len(z)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            alike[i, j] = np.exp((a @ b / np.sqrt(a @ a) / np.sqrt(b @ b) - 1) / temperature)
    return alike / alike.sum(1, keepdims=True)


def walked(s, z, restart=0.05, temperature=0.1, detail=0.0, linear=0.75, near=0.1, shape=None):
    """`q_j = x_j (P s_j)^detail`, `x = sum_t c (1 - c)^t T^t s`, with `linear` of its component near it, cut in two."""
    t, arrived, still, x = steps(z, temperature), np.asarray(s, np.float64), 1.0, np.zeros(len(z))
    while still > 1e-14:
        x += restart * still * arrived
        arrived, still = t @ arrived, still * (1 - restart)
    q = np.array([a * (len(z) * b) ** detail for a, b in zip(x, s, strict=True)])
    if linear:
        y = component(q, z)
        v = (y - y.min()) * found_nearby(q, shape, near)
        q = q + linear * np.std(q) * (v - v.mean()) / np.std(v)
    return q - cut(q)


def found_nearby(q, shape, near):
    """For each patch the sum of q over all patches, weighed by a Gaussian of their distance."""
    places = np.array(list(np.ndindex(*shape)))
    away = np.array([[np.linalg.norm(one - other) for other in places] for one in places])
    return np.exp(-(away**2) / (2 * (near * max(shape)) ** 2)) @ q


def component(q, z):
    """The first component of partial least squares of q on the tokens' directions, with variance 1, by scikit-learn."""
    unit = z / np.sqrt((z * z).sum(1, keepdims=True))
    scores = PLSRegression(1, scale=False).fit(unit, q).transform(unit)[:, 0]
    return scores / np.std(scores) * np.sign(scores @ (q - q.mean()))


def cut(p):
    """The middle of the two neighbouring values between which p is cut so that both parts vary least within."""
    ordered = sorted(p)
    within = [n * np.var(ordered[:n]) + (len(p) - n) * np.var(ordered[n:]) for n in range(1, len(p))]
    at = int(np.argmin(within))
    return (ordered[at] + ordered[at + 1]) / 2


def evidence(z, gradient, shape, restart=0.05, temperature=0.1, sigma=0.03):
    """`y` less its mean, y the blurred `x = c (I - (1 - c) T)^-1 e`, e clipped: CAMs by own and mean gradients."""
    own = z - z.mean(0)
    parts = [np.einsum("jd,jd->j", own, gradient), own @ gradient.mean(0)]
    e = sum(part / np.linalg.norm(part, 1) for part in parts)
    most = np.quantile(np.abs(e), 0.99)
    x = np.linalg.solve(np.eye(len(z)) - (1 - restart) * steps(z, temperature), restart * np.clip(e, -most, most))
    y = found_nearby(x, shape, sigma) / found_nearby(np.ones(len(x)), shape, sigma) if sigma else x
    return y - y.mean()
