"""Checks of a processor: is its region the same on a photo as on test images, and does it change each colour alone?"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from vitscope._messages import msg
from vitscope.geometry import ImageRegion
from vitscope.models.pixels.measured_region import Lost, Run, find_box

Pair: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]  # a photo with marks, with others, and signs of the marks
Mark: TypeAlias = tuple[int, int, float]  # first and last pixel of the photo, and the middle in pixels of the input

_KNOWN = frozenset(
    (
        *("Compose", "Sequential", "Resize", "CenterCrop", "Pad", "Grayscale", "ToTensor", "PILToTensor", "ToImage"),
        *("ToDtype", "ToPureTensor", "ConvertImageDtype", "Normalize", "MaybeToTensor", "MaybePILToTensor"),
        "ImageClassification",
    )
)
_LIBRARIES = ("torchvision.", "timm.", "torch.")
# off even places, for so many marks along a side, in shares of their distance: mirrored or moved, few fall on others
_UNEVEN = ((), (-0.25,), (-0.25, -0.25), (-0.25, 0.2, -0.15), (-0.25, 0.15, 0.2, -0.1))
_MARKS = len(_UNEVEN) - 1  # along each side
_APART = 8  # pixels of the input between two marks, at least
_FLAT = 24  # grey values: a photo with less between its darkest and brightest holds nothing to mark
_FAINT = 12  # grey values
_SEEN = {False: 0.6, True: 0.3}  # of the marks, at least: opposite faint ones, and those alone
_NEAR = 1.25  # pixels of the input between a mark and where it is found
_MOVED = {False: 2.0, True: 0.25}  # of what marks change: opposite faint ones, and those alone
_COMPARED = 64  # pixels far from marks, at least
_ALIKE = 0.8  # correlation of what lies far from marks, with and without them
_COLOURS = 24  # that are followed, at least
_TRIAL = 256  # pixels: side of the image whose colours are followed


def is_known(process: Any) -> bool:
    """Return whether a processor is made of library parts alone that do the same to every image."""
    return all(
        type(part).__module__.startswith(_LIBRARIES) and type(part).__name__ in _KNOWN for part in _parts(process)
    )


def random_part(process: Any) -> str | None:
    """Return the name of a part that is applied to some images only, by a probability `p`, or None."""
    for part in _parts(process):
        chance = getattr(part, "p", None)
        if isinstance(chance, (float, torch.Tensor)) and 0 < float(chance) < 1:
            return f"{type(part).__name__}(p={float(chance):g})"
    return None


def _parts(process: Any) -> Iterator[Any]:
    yield process
    inner = getattr(process, "transforms", None)
    for part in (
        inner
        if isinstance(inner, (list, tuple, torch.nn.ModuleList))
        else process
        if isinstance(process, torch.nn.Sequential)
        else ()
    ):
        yield from _parts(part)


def shows_region(
    run: Run, photo: UInt8[np.ndarray, "H W 3"], pixels: Float[np.ndarray, "C Hi Wi"], region: ImageRegion
) -> bool:
    """Return whether the pixels of a photo show the region: small marks on the photo must change them where it says.

    Marks are faint first, lighter and darker in turns, so that what follows the photo follows it as without them; where
    they are not found, four such patterns together decide, and pixels of one value may change alike, as they do where
    colours are equalised. Where few of them change anything, as above and below a threshold, they are as dark and as
    bright as the photo, then black and white. A photo without contrast passes: it holds nothing to mark, and nothing
    that a processor could follow.

    Args:
        run: the processor.
        photo: the image.
        pixels: what the processor made of it.
        region: the region to check.
    """
    grey, sides = photo.mean(2), _sides(region)
    if grey.max() - grey.min() < _FLAT:
        return True
    rows, columns = (_marks(*side) for side in sides)
    spots = np.array([(y, x) for *_, y in rows for *_, x in columns])
    sizes = np.array([_mark_size(side) for side in sides])
    reach = [
        max(1.5, 0.5 * min((abs(a - b) for a in places for b in places if a != b), default=2 * _APART))
        for places in ([y for *_, y in rows], [x for *_, x in columns])
    ]

    def verdict(pairs: list[Pair], seen: float, moved_most: float) -> bool | None:
        """Return whether marks are where the region says; None where few of them are seen."""
        made = [(run(one), pixels if other is photo else run(other), signs) for one, other, signs in pairs]
        if {part.shape for one, other, _ in made for part in (one, other)} != {pixels.shape}:
            return False
        change = np.nan_to_num(np.abs(np.mean([signs * (one - other) for one, other, signs in made], 0)).sum(0))
        moved = np.nan_to_num(np.mean([one + other - 2 * pixels for one, other, _ in made], 0))
        moved = np.abs(moved if len(made) == 1 else _beyond_colours(moved, np.nan_to_num(pixels))).sum(0)
        far = _far(moved.shape, spots, sizes)
        if moved[far].sum() > moved_most * change.sum():  # without marks it shows another part
            return False
        runs = [part for one, other, _ in made for part in (one, other) if part is not pixels]
        if any(_unlike(np.nan_to_num(part), np.nan_to_num(pixels), far) for part in runs):
            return False
        change = _smoothed(np.clip(change - np.median(change), 0, None), sizes)
        found = np.array([_strength_and_miss(change, spot, reach) for spot in spots])
        visible = found[:, 0] > 0.25 * np.quantile(found[:, 0], 1 - seen / 2)
        if visible.mean() < seen:
            return None
        clear, near = visible & np.isfinite(found[:, 1]), np.hypot(*found[:, 1:].T) <= _NEAR
        enough = (visible & near).sum() >= 0.7 * visible.sum()
        return bool(enough and _miss(spots[clear], found[clear, 1:].clip(-2, 2), pixels.shape) <= 1)

    faint = _faint_marks(photo, rows, columns, pixels.shape)
    found = verdict([next(faint)], _SEEN[False], _MOVED[False])
    if found is False:  # colours follow the photo's own, and marks change those: what differs by pattern averages out
        return verdict([*_faint_marks(photo, rows, columns, pixels.shape)], _SEEN[False], _MOVED[False]) is True
    bright = _bright_marks(photo, grey, rows, columns)
    while found is None:
        pair = next(bright, None)
        found = False if pair is None else verdict([pair], _SEEN[True], _MOVED[True])
    return found


def _faint_marks(
    photo: UInt8[np.ndarray, "H W 3"], rows: list[Mark], columns: list[Mark], shape: tuple[int, ...]
) -> Iterator[Pair]:
    """Iterate over pairs of the photo with opposite faint marks, whose signs are orthogonal patterns."""
    up, down = np.minimum(photo.max() - photo.max(2), _FAINT), np.minimum(photo.min(2) - photo.min(), _FAINT)
    nearest = [
        np.abs(np.arange(n)[:, None] + 0.5 - [middle for *_, middle in marks]).argmin(1)
        for n, marks in zip(shape[1:], (rows, columns), strict=True)
    ]
    for across, along in ((1, 1), (2, 1), (1, 2), (2, 2)):
        signs = [(-1) ** (np.arange(len(marks)) // n) for n, marks in ((across, rows), (along, columns))]
        sheet = np.zeros(photo.shape[:2], np.int16)
        for (top, bottom, _), row in zip(rows, signs[0], strict=True):
            for (left, right, _), column in zip(columns, signs[1], strict=True):
                sheet[top:bottom, left:right] = row * column
        lighter, darker = (
            photo + np.where(sign * sheet > 0, up, 0)[..., None] - np.where(sign * sheet < 0, down, 0)[..., None]
            for sign in (1, -1)
        )
        yield (
            lighter.astype(np.uint8),
            darker.astype(np.uint8),
            np.outer(signs[0][nearest[0]], signs[1][nearest[1]]),
        )


def _bright_marks(
    photo: UInt8[np.ndarray, "H W 3"], grey: np.ndarray, rows: list[Mark], columns: list[Mark]
) -> Iterator[Pair]:
    """Iterate over pairs of the photo with marks as dark and as bright as itself, then black and white, and without."""
    sheet, bright = np.zeros(grey.shape, bool), np.zeros(grey.shape, bool)
    for top, bottom, _ in rows:
        for left, right, _ in columns:
            sheet[top:bottom, left:right] = True
            bright[top:bottom, left:right] = grey[top:bottom, left:right].mean() >= (grey.min() + grey.max()) / 2
    own = [photo.reshape(-1, photo.shape[2])[place] for place in (grey.argmin(), grey.argmax())]
    for dark, light in (own, (0, 255)):
        marked = np.where(bright[..., None], dark, light)
        yield np.where(sheet[..., None], marked, photo).astype(np.uint8), photo, np.ones((1, 1), int)


def _beyond_colours(
    change: Float[np.ndarray, "C Hi Wi"], pixels: Float[np.ndarray, "C Hi Wi"]
) -> Float[np.ndarray, "C Hi Wi"]:
    """Return what is left of a change of pixels where pixels of one value, of 64 levels, change alike."""
    left = np.empty_like(change)
    for part, values, out in zip(change, pixels, left, strict=True):
        levels = ((values - values.min()) / max(np.ptp(values), 1e-12) * 63).round().astype(int)
        counts, sums = (np.bincount(levels.ravel(), weights, 64) for weights in (None, part.ravel()))
        out[:] = part - (sums / np.maximum(counts, 1))[levels]
    return left


def _miss(spots: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...]) -> float:
    """Return how far the edges of the pixels are from where the marks say, in pixels of the input."""
    worst = 0.0
    for axis in range(2):
        places, off = spots[:, axis], offsets[:, axis]
        line = np.polyfit(places, off, 1 if np.ptp(places) > 0 else 0)
        worst = max(worst, *np.abs(np.polyval(line, [0, shape[1 + axis]])))
    return worst


def _unlike(
    marked: Float[np.ndarray, "C Hi Wi"], plain: Float[np.ndarray, "C Hi Wi"], far: Bool[np.ndarray, "Hi Wi"]
) -> bool:
    """Return whether far from all marks another picture is seen than without marks, whatever became of its colours.

    Strong marks on a dull photo outweigh all that such a photo holds: here what it holds is compared with itself.
    """
    agree = []
    for one, other in zip(marked, plain, strict=True):
        a, b = one[far] - np.median(one[far]), other[far] - np.median(other[far])
        agree.append((a @ b, (a @ a * (b @ b)) ** 0.5))
    same, most = np.sum(agree, 0)
    return bool(far.sum() >= _COMPARED and most > 0 and abs(same) < _ALIKE * most)


def _far(shape: tuple[int, ...], spots: np.ndarray, sizes: np.ndarray) -> Bool[np.ndarray, "Hi Wi"]:
    """Return which pixels lie further than two pixels from every mark."""
    far = np.ones(shape, bool)
    for place in spots:
        (top, left), (bottom, right) = ((place + sign * (sizes / 2 + 2)).round().astype(int) for sign in (-1, 1))
        far[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = False
    return far


def _smoothed(change: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the mean over blocks as large as a mark: single pixels on the edge of a threshold count for less."""
    reach = [int(np.clip(size // 2, 1, 8)) for size in sizes]
    kernel, padding = tuple(2 * n + 1 for n in reach), tuple(reach)
    mean = torch.nn.functional.avg_pool2d(
        torch.from_numpy(change)[None], kernel, stride=1, padding=padding, count_include_pad=False
    )
    return np.asarray(mean[0])


def _mark_size(side: tuple[float, float, int, int]) -> float:
    """Return how long a mark is along a side, in pixels of the input."""
    low, high, _, made = side
    per_pixel = (high - low) / made
    return max(1, round(3 * per_pixel)) / per_pixel


def _sides(region: ImageRegion) -> list[tuple[float, float, int, int]]:
    (width, height), (left, top, right, bottom) = region.size, region.box
    return [(top, bottom, height, region.input[0]), (left, right, width, region.input[1])]


def _marks(low: float, high: float, length: int, made: int) -> list[Mark]:
    """Place marks along one side, unevenly: an image and its mirror image differ, and so does one moved by a mark."""
    per_pixel = (high - low) / made
    start, stop = max(low, 0.0), min(high, float(length))
    count = int(np.clip((stop - start) / per_pixel / _APART, 1, _MARKS))
    size = max(1, round(3 * per_pixel))
    marks = []
    for i in range(count):
        middle = start + (i + 0.5 + _UNEVEN[count][i]) / count * (stop - start)
        first = int(np.clip(round(middle - size / 2), 0, max(length - size, 0)))
        last = min(first + size, length)
        marks.append((first, last, ((first + last) / 2 - low) / per_pixel))
    return marks


def _strength_and_miss(change: np.ndarray, spot: np.ndarray, reach: list[float]) -> tuple[float, float, float]:
    """Return how strong the change is near a spot, and how far down and right of it; infinite where it is spread."""
    (y, x), (height, width) = spot, change.shape
    top, bottom = max(0, int(y - reach[0])), min(height, int(np.ceil(y + reach[0])))
    left, right = max(0, int(x - reach[1])), min(width, int(np.ceil(x + reach[1])))
    window = change[top:bottom, left:right]
    if window.size == 0 or window.max() <= 0:
        return 0.0, np.inf, np.inf
    weight = np.clip(window - 0.3 * window.max(), 0, None)
    ys, xs = np.arange(top, bottom) + 0.5, np.arange(left, right) + 0.5
    total = weight.sum()
    at = (weight.sum(1) @ ys) / total, (weight.sum(0) @ xs) / total
    far = [max(4.0, length / 2) for length in reach]  # of a blurred or enlarged mark
    near = np.hypot((ys[:, None] - at[0]) / far[0], (xs - at[1]) / far[1]) <= 1
    if weight[near].sum() < 0.8 * total or ((weight > 0).mean() > 0.5 and weight.size > 64):
        return float(window.max()), np.inf, np.inf
    return float(window.max()), float(at[0] - y), float(at[1] - x)


def fit_colours(run: Run, known: bool) -> tuple[Float[Tensor, "3 C"], Float[Tensor, " C"]]:
    """Return matrix and offset of a processor that changes each colour by itself: `rgb @ matrix + offset`.

    Images of flat blocks, whose colours stay within a part of the range, go through it: what stretches, equalises
    or normalises each image by its own values fits no such rule.

    Raises:
        Lost: it does something else to colours.
    """
    size, rng = (_TRIAL, _TRIAL), np.random.default_rng(0)
    made = run(np.zeros((_TRIAL, _TRIAL, 3), np.uint8)).shape
    region = ImageRegion(size, find_box(run, size, (made[1], made[2]), 1 if known else 2), (made[1], made[2]))
    left, top, right, bottom = np.clip(region.box, 0, _TRIAL)
    colours, answers = [], []
    count = max(1, min(6, made[1] // 8, made[2] // 8))
    for i in range(max(2, _COLOURS // count**2)):
        low, high = ((20, 150), (90, 250))[i % 2]
        blocks = rng.integers(low, high, (count, count, 3), np.uint8)
        ys, xs = (
            np.clip(((np.arange(_TRIAL) + 0.5 - a) / (b - a) * count).astype(int), 0, count - 1)
            for a, b in ((top, bottom), (left, right))
        )
        pixels = run(blocks[ys][:, xs])
        rows, columns = (
            ((a + (np.arange(count) + 0.5) / count * (b - a) - start) / (end - start) * n).astype(int)
            for a, b, start, end, n in (
                (top, bottom, region.box[1], region.box[3], made[1]),
                (left, right, region.box[0], region.box[2], made[2]),
            )
        )
        colours.append(blocks.reshape(-1, 3) / 255)
        answers.append(pixels[:, rows][:, :, columns].reshape(len(pixels), -1).T)
    given = np.concatenate([np.concatenate(colours), np.ones((len(colours) * count * count, 1))], 1)
    wanted = np.concatenate(answers)
    solution = np.linalg.lstsq(given, wanted, rcond=None)[0]
    spread = np.ptp(wanted, axis=0).max()
    if not np.abs(given @ solution - wanted).max() <= max(0.012 * spread, 1e-12) or spread <= 0:
        raise Lost(
            msg(
                "models.colours-not-affine",
                "the colour of a pixel is no weighted sum of the image's own red, green and blue",
            )
        )
    return torch.from_numpy(solution[:-1]).float(), torch.from_numpy(solution[-1]).float()
