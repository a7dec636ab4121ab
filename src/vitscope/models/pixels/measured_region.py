"""The region of the image that a processor's pixels show, measured with images whose stripes say where they are.

A probe is black and white: stripes of uneven widths along x, times stripes along y. It goes through the processor
together with its negative, and the difference of the two changes its sign where the stripes' edges lie, whatever the
processor does to colours: mixed channels, and rising or falling curves, move no edge.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

from vitscope._messages import Message, msg
from vitscope.errors import ImageError

log = logging.getLogger(__name__)

Run = Callable[[UInt8[np.ndarray, "H W 3"]], Float[np.ndarray, "C Hi Wi"]]
Box = tuple[float, float, float, float]

_LEVELS = ((0, 255), (30, 110), (140, 220))  # of the stripes: what folds or clips the ends may keep the middle
_TRIES = 16  # pairs of probes
_SHORT = 16  # pixels; along shorter sides there are too few stripes
_MOST = 40_000_000  # pixels of a probe
_PIXELS_PER_STRIPE = 4.5
_MOST_STRIPES = 20_000
_CLEAR = 0.35  # of the largest difference: a stripe that is seen
_STRAIGHT = 0.8  # pixels that an edge may lie off the line through all edges
_AGREE = 0.75  # pixels that two measurements may lie apart
_BENT = 1.0  # pixels that an edge may lie elsewhere in one third of the pixels than in another
_LEAST = 3  # pixels of a third
_EXACT = 0.15  # pixels
_STEP = 0.3  # of the larger side of an edge, the smaller one is at least
_WHOLE = 0.75  # pixels: an end so near to the image's is the image's


class Lost(Exception):
    """The region cannot be measured; the message says why."""

    def __init__(self, message: Message) -> None:
        super().__init__(message)
        self.message = message


class TurnedError(Lost):
    """The pixels show the image mirrored or turned: no region says so."""


class _UnseenError(Lost):
    """A probe and its negative become the same pixels."""


@dataclass(frozen=True)
class _Line:
    """Where a side of the image lies in the output: `output = start + scale * image`, in pixels."""

    start: float
    scale: float

    def ends(self, made: int) -> tuple[float, float]:
        """Return where the outer edges of the first and the last pixel lie on the image."""
        return -self.start / self.scale, (made - self.start) / self.scale


def find_box(run: Run, size: tuple[int, int], made: tuple[int, int], repeats: int = 2) -> Box:
    """Return the box `(left, top, right, bottom)` of a `(W, H)` image that `(Hi, Wi)` pixels show.

    Args:
        run: the processor, on arrays.
        size: of the image.
        made: of the pixels.
        repeats: measurements with other stripes, which must agree.

    Raises:
        Lost: the pixels are no resized box of the image, or mirrored, or turned.

    Cost: two runs for each measurement, more where much is cropped or padded, and for images of few pixels.
    """
    for dark, bright in _LEVELS[:-1]:
        try:
            return _box(_between(run, dark, bright), size, made, repeats)
        except _UnseenError:
            log.debug("stripes of %d and %d are not told apart", dark, bright)
    return _box(_between(run, *_LEVELS[-1]), size, made, repeats)


def _between(run: Run, dark: int, bright: int) -> Run:
    if (dark, bright) == (0, 255):  # as probes are
        return run
    return lambda image: run(np.where(image > 0, np.uint8(bright), np.uint8(dark)))


def _box(run: Run, size: tuple[int, int], made: tuple[int, int], repeats: int) -> Box:
    if min(size) >= _SHORT:
        return _repeated(run, size, made, repeats)
    factor = -(-_SHORT // min(size))
    if 4 * factor**2 * size[0] * size[1] > _MOST:
        raise _too_thin(size)
    boxes = []
    for more in (factor, 2 * factor):  # what is cut off or added must grow with the image
        try:
            box = _repeated(run, (size[0] * more, size[1] * more), made, repeats)
        except ImageError:  # of the enlarged image too many pixels are made
            raise _too_thin(size) from None
        boxes.append(np.array(box) / more)
    scale = np.array(made[::-1]) / (boxes[1][2:] - boxes[1][:2])
    if (np.abs(boxes[0] - boxes[1]) * np.tile(scale, 2)).max() > 2 * _AGREE:
        raise Lost(
            msg(
                "models.processor-region.small",
                "of an image of {width} x {height} pixels it shows another part than of the same image enlarged",
                width=size[0],
                height=size[1],
            )
        )
    left, top, right, bottom = (float(end) for end in boxes[1])
    return left, top, right, bottom


def _too_thin(size: tuple[int, int]) -> Lost:
    return Lost(
        msg(
            "models.processor-region.thin",
            "it is measured on larger images of the same shape, and of {width} x {height} pixels they are too large",
            width=size[0],
            height=size[1],
        )
    )


def _repeated(run: Run, size: tuple[int, int], made: tuple[int, int], repeats: int) -> Box:
    """Measure several times with other stripes, and twice as often where values between black and white are lost."""
    found: list[tuple[_Line, _Line]] = []
    for allowed in (_AGREE, 2 * _AGREE):
        measured = [_lines(run, size, made, len(found) + i) for i in range(repeats)]
        found += [two for two, _ in measured]
        ends = np.array([[e for line, n in zip(two, made[::-1], strict=True) for e in line.ends(n)] for two in found])
        scales = np.repeat([line.scale for line in found[0]], 2)
        if (scales < 0).any():
            raise TurnedError(msg("models.processor-region.mirrored", "it mirrors the image"))
        if (np.abs(ends - np.median(ends, axis=0)) * scales).max() <= allowed:
            _require_steps(run, size, made, found[0])
            if any(bent for _, bent in measured):
                raise _lost()
            break
    else:
        raise Lost(msg("models.processor-region.unlike", "measured several times, it is another one each time"))
    (left, right), (top, bottom) = (
        _settled(_Line(*np.mean([(two[i].start, two[i].scale) for two in found], axis=0)), size[i], made[1 - i])
        for i in range(2)
    )
    return left, top, right, bottom


def _require_steps(run: Run, size: tuple[int, int], made: tuple[int, int], lines: tuple[_Line, _Line]) -> None:
    """Raise Lost where one edge along each side is not a step from one sign to the other at its place.

    A slope filter answers an edge with a bump, so that its sign changes between two edges, half a stripe beside each.
    """
    for side, (line, n, length) in enumerate(zip(lines, made[::-1], size, strict=True)):
        low, high = np.clip(line.ends(n), 0, length)
        edges = [np.array([], int), np.array([], int)]
        edges[side] = np.array([round((low + high) / 2)])
        seen = _difference(run, size, edges)
        profiles = seen if isinstance(seen, int) else _profiles(seen)
        if not isinstance(profiles, int):
            clear = np.where(np.abs(profiles[side]) > _CLEAR, profiles[side], 0)
            at, reach = line.start + line.scale * edges[side][0], line.scale * (high - low) / 4
            places = [max(0, round(place)) for place in (at - reach, at, at + reach)]
            before, after = (clear[a:b].sum() for a, b in pairwise(places))
            if before * after < 0 and min(abs(before), abs(after)) > _STEP * max(abs(before), abs(after)):
                continue
        raise Lost(
            msg(
                "models.processor-region.bumps",
                "it shows an edge as a bump or not at all, not as a step, as filters for slopes do, or a crop by what "
                "an image holds",
            )
        )


def _lines(run: Run, size: tuple[int, int], made: tuple[int, int], seed: int) -> tuple[tuple[_Line, _Line], bool]:
    """Measure both sides of the image, with coarser or finer stripes until their edges are seen.

    Returns:
        A line for each side, and whether an edge runs askew or bent.
    """
    rng = np.random.default_rng(seed)
    counts = [
        _Count(int(np.clip(n // _PIXELS_PER_STRIPE, 4, 40)), min(length // 2, _MOST_STRIPES))
        for n, length in zip(made[::-1], size, strict=True)
    ]
    turns, unseen = 0, True
    for _ in range(_TRIES):
        edges = [_edges(length, count.now, rng) for length, count in zip(size, counts, strict=True)]
        seen = _difference(run, size, edges)
        profiles = seen if isinstance(seen, int) else _profiles(seen)
        if isinstance(profiles, int):
            unseen &= not profiles
            for count in counts:
                if not count.found or all(c.found for c in counts):
                    count.change(profiles or -1)
            continue
        unseen = False
        straight = [_match(profiles[i], edges[i], size[i]) for i in range(2)]
        turned = [_match(profiles[i], edges[1 - i], size[1 - i])[0] for i in range(2)]
        for count, (line, change) in zip(counts, straight, strict=True):
            count.found = line is not None
            count.change(change)
        (across, _), (down, _) = straight
        if across and down and None in turned:
            assert not isinstance(seen, int)
            return (across, down), _bent(seen, size, (across, down))
        turns += not (across and down) and None not in turned
        if turns > 1:
            raise TurnedError(msg("models.processor-region.turned", "it turns the image: rows become columns"))
    if unseen:
        raise _UnseenError(
            msg(
                "models.processor-region.unseen",
                "of test stripes and their negative it makes the same pixels, as filters for edges do",
            )
        )
    raise _lost()


def _lost() -> Lost:
    return Lost(
        msg(
            "models.processor-region.lost",
            "the edges of test stripes are not found in them as after resizing, cropping and padding: it blurs, "
            "distorts or turns what it shows, repeats parts of it, or cuts by what an image holds",
        )
    )


def _bent(seen: Float[np.ndarray, "Hi Wi"], size: tuple[int, int], lines: tuple[_Line, _Line]) -> bool:
    """Return whether an edge runs askew or bent: elsewhere in the first third of what is shown than in another."""
    for picture, line, length in ((seen, lines[1], size[1]), (seen.T, lines[0], size[0])):
        first, last = np.clip([line.start, line.start + line.scale * length], 0, len(picture)).round().astype(int)
        if (third := (last - first) // 3) < _LEAST:
            continue
        start, *others = (
            _crossings(right / np.abs(right).max())[0]
            for at in (first, first + third, last - third)
            for right in (np.linalg.svd(picture[at : at + third], full_matrices=False)[2][0],)
        )
        for other in others:
            few, many = sorted((start, other), key=len)
            if len(few) and np.abs(few[:, None] - many).min(1).max() > _BENT:
                return True
    return False


class _Count:
    """How many stripes to try along one side: more where few edges are seen, fewer where they blur."""

    def __init__(self, first: int, most: int) -> None:
        self.now, self.most, self.found = max(3, min(first, most)), max(3, most), False
        self._few, self._many, self._first = 0, 0, first

    def change(self, direction: int) -> None:
        """Take more stripes (1), fewer (-1) or as many (0); below three, nothing was seen because there are too few."""
        if direction < 0 and self.now == 3:
            self._few, self._many, self.now = self._first, 0, min(self._first * 3, self.most)
        elif direction < 0:
            self._many = self.now
            self.now = max(3, round((self.now * self._few) ** 0.5) if self._few else int(self.now / 1.6))
        elif direction > 0:
            self._few = self.now
            self.now = round((self.now * self._many) ** 0.5) if self._many > self.now else self.now * 3
            self.now = min(self.now, self.most)


def _edges(length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return where the colour changes along a side: whole pixels, unevenly spaced."""
    widths = rng.uniform(0.6, 1.6, count)
    widths = 1.4 ** np.arange(count) * rng.uniform(0.9, 1.1, count) if count < 5 else widths  # left is not right
    places = np.unique(np.round(np.cumsum(widths)[:-1] / widths.sum() * length).astype(int))
    return places[(places > 0) & (places < length)]


def _difference(run: Run, size: tuple[int, int], edges: list[np.ndarray]) -> Float[np.ndarray, "Hi Wi"] | int:
    """Return the difference of stripes along x and y and their negative, as they are seen.

    Where they are not told apart, 1 for finer ones, 0 where nothing is seen at all.
    """
    odd = [np.searchsorted(e, np.arange(n), "right") % 2 for e, n in zip(edges, size, strict=True)]
    probe = ((odd[0] == odd[1][:, None]) * np.uint8(255))[..., None].repeat(3, 2)
    white, black = run(probe), run(255 - probe)
    if white.shape != black.shape:
        raise Lost(msg("models.processor-region.sizes", "it makes pixels of different sizes of images of one size"))
    seen = white - black
    seen = np.nan_to_num(seen[seen.std((1, 2)).argmax()])
    if abs(np.sign(seen).sum()) == seen.size and np.abs(seen).min() > 0.5 * np.abs(seen).max():  # within one stripe
        return 1
    reach = np.abs(white).max() + np.abs(black).max()
    seen = seen - (seen.max() + seen.min()) / 2  # each image may be normalised by its own mean
    return seen if seen.max() > 0.02 * reach else 0


def _profiles(seen: Float[np.ndarray, "Hi Wi"]) -> list[np.ndarray] | int:
    """Return what is seen of stripes along x and y, largest value 1; -1 where coarser ones are needed."""
    left, strength, right = np.linalg.svd(seen, full_matrices=False)
    if strength[0] ** 2 < 0.85 * (strength**2).sum():
        return -1
    return [profile / np.abs(profile).max() for profile in (right[0], left[:, 0])]


def _match(profile: np.ndarray, edges: np.ndarray, length: int) -> tuple[_Line | None, int]:
    """Return the line through the edges that are seen; else 1 where finer stripes are needed, -1 for coarser ones."""
    seen, (low, high) = _crossings(profile)
    known = edges.astype(float)
    if low is not None and high is not None and len(seen) == len(known):  # padding: the image's own ends are seen
        seen, known = np.array([low, *seen, high]), np.array([0.0, *known, length])
    if len(seen) > len(known):
        return None, -1
    if len(seen) < 3 + (len(known) > len(seen)):
        return None, 1 if (np.abs(profile) > _CLEAR).mean() > 0.5 else -1
    places = np.lib.stride_tricks.sliding_window_view(known, len(seen))
    places = np.concatenate([places, places[:, ::-1]])  # which edges are seen, from left to right or mirrored
    middle = places.mean(1, keepdims=True)
    scales = ((places - middle) @ (seen - seen.mean())) / ((places - middle) ** 2).sum(1)
    starts = seen.mean() - scales * middle[:, 0]
    off = np.abs(starts[:, None] + scales[:, None] * places - seen).max(1)
    best, second = (float(one) for one in np.partition(off, 1)[:2])
    if best > (_STRAIGHT if len(seen) > 3 else _STRAIGHT / 2):
        return None, -1
    if second < max(2.5 * best, 0.25):  # two places fit: other stripes may tell
        return None, 0
    found = int(off.argmin())
    return _Line(float(starts[found]), float(scales[found])), 0


def _crossings(profile: np.ndarray) -> tuple[np.ndarray, tuple[float | None, float | None]]:
    """Return where a profile changes its sign, and where the image begins and ends between two paddings."""
    clear = np.flatnonzero(np.abs(profile) > _CLEAR)
    places = []
    for a, b in pairwise(clear):
        if profile[a] * profile[b] < 0:
            inside = profile[a : b + 1]
            change = a + int(np.flatnonzero(np.sign(inside[:-1]) != np.sign(inside[1:]))[0])
            here, there = profile[change], profile[change + 1]
            places.append(change + 0.5 + here / (here - there))
    if len(clear) == 0:
        return np.array(places), (None, None)
    return np.array(places), (
        _bound(profile, int(clear[0])),
        _mirror(_bound(profile[::-1], len(profile) - 1 - int(clear[-1])), len(profile)),
    )


def _bound(profile: np.ndarray, first: int) -> float | None:
    """Return where the image begins after padding, of which there is at least one pixel."""
    size = np.abs(profile)
    plateau = size[first : first + 3].max()
    flat = np.flatnonzero(size[: first + 1] < 0.1)
    if len(flat) == 0:
        return None
    start = int(flat[-1])
    rise = size[start : first + 3] / plateau
    up = int(np.flatnonzero(rise >= 0.5)[0])
    return float(start + up + 0.5 - (rise[up] - 0.5) / max(rise[up] - rise[up - 1], 1e-9))


def _mirror(place: float | None, length: int) -> float | None:
    return None if place is None else length - place


def _settled(line: _Line, length: int, made: int) -> tuple[float, float]:
    """Return the ends of the box, exact where whole numbers of pixels fit: a size resized to, an offset, a box cut."""
    raw = line.ends(made)
    resized, start = round(line.scale * length), round(line.start)
    cut = round(raw[0]), round(raw[1])
    choices = [
        (0.0, float(length)),
        (-start * length / max(resized, 1), (made - start) * length / max(resized, 1)),
        cut,
    ]
    misses = [max(abs(a - b) for a, b in zip(choice, raw, strict=True)) * line.scale for choice in choices]
    if misses[0] < _WHOLE:
        return choices[0]
    best = 1 if misses[1] < _EXACT else 2  # a box cut fits often by chance, where pixels of the image are small
    return (float(choices[best][0]), float(choices[best][1])) if misses[best] < 2 * _EXACT else raw
