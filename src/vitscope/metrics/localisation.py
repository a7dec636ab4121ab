"""Localisation: whether a map lies on a known object, by one mask, pixel by pixel. Numpy only.

Pixels that the model did not see (NaN in the upsampled map) do not count.
"""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Num

from vitscope._messages import msg
from vitscope.errors import UsageError


@dataclass(frozen=True)
class Localisation:
    """One map compared with one mask. All numbers but the counts are in [0, 1], higher is better.

    Attributes:
        auc: area under the ROC curve: the probability that a random pixel of the object has a higher value than a
            random pixel of the background, ties half; .5 is chance.
        ap: average precision, `sum_t (R_t - R_{t-1}) P_t` over the map's distinct values as thresholds, without
            interpolation; chance is the object's share of the pixels.
        pointing: 1 where the map's highest pixel lies on the object (Zhang et al. 2018); of several highest pixels, the
            share that does.
        inside: of the map's positive values, the share on the object; without a positive value its share of the pixels.
        iou_best: intersection over union of the object with `m >= t`, for the best t of all.
        iou_mean: the same with `m > mean(m)`.
        accuracy: the share of pixels that `m > mean(m)` classifies correctly.
        ap_both: average precision of object and background together, as Chefer, Gur, Wolf 2021 compute it:
            `unit_average_precision`.
        counts: pixels `(on and above the mean, off and above, on and below, off and below)`, for `pool_counts`.
    """

    auc: float
    ap: float
    pointing: float
    inside: float
    iou_best: float
    iou_mean: float
    accuracy: float
    ap_both: float
    counts: tuple[int, int, int, int]

    def to_dict(self) -> dict[str, float | tuple[int, int, int, int]]:
        """Return everything, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PooledScores:
    """Scores of many maps whose pixels are counted together.

    Attributes:
        accuracy: the share of all pixels that the means of their maps classify correctly.
        miou: `(IoU of the objects + IoU of the backgrounds) / 2`, each over all pixels of all images.
    """

    accuracy: float
    miou: float


def localise(
    heat: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], *, tolerance: float | int = 0.0
) -> Localisation:
    """Compare a map, upsampled to its image, with the object's mask.

    Args:
        heat: `Explanation.heat()`: the map on the image, NaN where the model saw nothing.
        mask: the object's pixels.
        tolerance: pointing also counts within so many pixels of the object; the paper's 15 are for photos of its time.

    Raises:
        UsageError: shapes that differ, or a mask without object or background in the region that the model saw.

    Cost: two sorts of the pixels.
    """
    if heat.shape != mask.shape:
        raise UsageError.coded(
            "metrics.shapes-differ", "the map has {heat} pixels and the mask {mask}", heat=heat.shape, mask=mask.shape
        )
    visible = np.isfinite(heat)
    values, truth = heat[visible].astype(np.float64), mask[visible]
    on = int(truth.sum())
    if not 0 < on < truth.size:
        raise UsageError(
            msg("metrics.no-object", "the mask has no object in the region that the model saw")
            if on == 0
            else msg("metrics.no-background", "the mask has no background in the region that the model saw"),
            msg("metrics.mask.hint", "leave this image out"),
        )
    tp, count = _above(values, truth)
    above = values > values.mean()
    counts = (
        int((above & truth).sum()),
        int((above & ~truth).sum()),
        int((~above & truth).sum()),
        int((~above & ~truth).sum()),
    )
    hit, false, missed, right = counts
    return Localisation(
        auc=_area(tp / on, (count - tp) / (truth.size - on)),
        ap=_average_precision(tp, count, on),
        pointing=pointing(heat, mask, tolerance),
        inside=inside(heat, mask),
        iou_best=float((tp / (on + count - tp)).max()),
        iou_mean=hit / (hit + false + missed),
        accuracy=(hit + right) / truth.size,
        ap_both=unit_average_precision(values, truth),
        counts=counts,
    )


def pointing(heat: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], tolerance: float | int = 0.0) -> float:
    """Return the share of the map's highest pixels on the mask or within `tolerance` pixels (Euclidean) of it."""
    highest = np.argwhere(heat == np.nanmax(heat))
    hits = mask[tuple(highest.T)]
    if tolerance > 0 and not hits.all():
        reach = int(tolerance)
        down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        disc = down**2 + right**2 <= tolerance**2
        padded = np.pad(mask, reach)
        hits = np.array(
            [bool((padded[r : r + 2 * reach + 1, c : c + 2 * reach + 1] & disc).any()) for r, c in highest.tolist()]
        )
    return float(hits.mean())


def inside(
    heat: Float[np.ndarray, "H W"], mask: Bool[np.ndarray, "H W"], among: Bool[np.ndarray, "H W"] | None = None
) -> float:
    """Return the share of the map's positive values on the mask; the mask's share of pixels where none is positive.

    Args:
        heat: the map on the image.
        mask: the object.
        among: count only these pixels, which contain the mask: of several objects, the share on one.
    """
    counted = np.isfinite(heat) if among is None else np.isfinite(heat) & among
    positive = np.where(counted, np.clip(heat, 0, None), 0).astype(np.float64)
    total = positive.sum()
    if total > 0:
        return float(positive[mask].sum() / total)
    return float((counted & mask).sum() / max(counted.sum(), 1))


def unit_average_precision(values: Float[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Return the average precision of two classes ranked together: `x` for the object, `1 - x` for the background.

    Source: Chefer, Gur, Wolf 2021, the mAP of the segmentation test, where x is the map scaled to [0, 1]; each pixel
    counts twice, once for each class. A flat map is x = 0.
    """
    low, high = float(values.min()), float(values.max())
    x = (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.size)
    both, right = np.concatenate([x, 1 - x]), np.concatenate([truth, ~truth])
    return _average_precision(*_above(both, right), int(right.sum()))


def pool_counts(counts: Num[np.ndarray, "n 4"]) -> PooledScores:
    """Compute accuracy and mean IoU over the pixels of many maps, as Chefer, Gur, Wolf 2021 do.

    Args:
        counts: `Localisation.counts` of each map.
    """
    hit, false, missed, right = (float(v) for v in np.asarray(counts).sum(0))
    objects, grounds = hit / max(hit + false + missed, 1.0), right / max(right + false + missed, 1.0)
    return PooledScores((hit + right) / max(hit + false + missed + right, 1.0), (objects + grounds) / 2)


def _above(
    values: Float64[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """Return for each distinct value, highest first, how many true pixels and how many pixels have at least it."""
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), values.size - 1)
    return np.cumsum(truth[order])[last], last + 1


def _area(high: Float64[np.ndarray, " t"], across: Float64[np.ndarray, " t"]) -> float:
    """Return the area under the curve from (0, 0), by trapezoids."""
    x, y = np.concatenate([[0.0], across]), np.concatenate([[0.0], high])
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def _average_precision(tp: Int[np.ndarray, " t"], count: Int[np.ndarray, " t"], on: int) -> float:
    return float((np.diff(tp, prepend=0) / on * (tp / count)).sum())
