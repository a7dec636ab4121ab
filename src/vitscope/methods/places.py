"""Targets that say where: a class over a part of the photo, or one query of a detector."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope._messages import Message, msg
from vitscope._numbers import number, whole_number
from vitscope.errors import MethodError, UsageError
from vitscope.geometry import ImageRegion

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class RegionTarget:
    """The mean score of a class over a part of the photo; `region` makes it.

    Attributes:
        which: the class, by number or name, or a contrast of two.
        box: `(left, top, right, bottom)` in pixels of the photo; None where there is a mask.
        mask: the pixels of the photo that count; None where there is a box.
        regions: what part of its photo each image of a batch shows; None until it is known, empty for everywhere.
        grid: rows and columns of the patches, for an answer with a score for each patch token.
    """

    which: int | str
    box: Box | None
    mask: Bool[np.ndarray, "H W"] | None
    regions: tuple[ImageRegion, ...] | None = None
    grid: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return self.describe(str(self.which))

    def describe(self, name: str) -> Message:
        """Say what is scored, with the class by its name."""
        if self.box is not None:
            return msg("methods.target-in-box", "{name} in the box {box}", name=name, box=_numbers(self.box))
        count = 0 if self.mask is None else int(self.mask.sum())
        return msg("methods.target-in-mask", "{name} in a mask of {count} pixels", name=name, count=count)

    def read(self, answer: Tensor, images: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n C"]:
        """Return the mean scores over the part of the photo.

        Args:
            answer: `(n, C, H, W)`, or `(n, N, C)` with one row for each patch.
            images: the number of the image that each row belongs to; None where row i is image i.

        Raises:
            UsageError: an answer without places, a mask of another size than the photo, or a part that the model does
                not see.
        """
        if self.regions is None:
            problem = msg(
                "methods.unknown-region", "where the photo of the target '{target}' lies is not known", target=self
            )
            raise MethodError(problem, msg("methods.unknown-region.hint", "pass the target to Scope.explain"))
        if answer.ndim == 3 and self.grid is not None and answer.shape[1] == self.grid[0] * self.grid[1]:
            answer = answer.mT.reshape(len(answer), -1, *self.grid)
        if answer.ndim != 4:
            raise UsageError.coded(
                "methods.no-map",
                "the target '{target}' names a part of the photo, and the model's answer ({shape}) is no map",
                "name a class, a query of a detector, or choose a map by {@output}",
                target=self,
                shape=_shape(answer),
            )
        size = answer.shape[2:]
        found = [self._weights(region, size[0], size[1]) for region in self.regions] or [np.ones(size)]
        weights = torch.from_numpy(np.stack([w / w.sum() for w in found])).to(answer)
        if len(weights) > 1 and images is not None:
            weights = weights[images]
        return (answer * weights[:, None]).sum((2, 3))

    def _weights(self, region: ImageRegion, rows: int, columns: int) -> Float[np.ndarray, "h w"]:
        """Return the area of each cell of a map that counts, in pixels of the photo."""
        (width, height), (left, top, right, bottom) = region.size, region.box
        ys, xs = np.linspace(top, bottom, rows + 1), np.linspace(left, right, columns + 1)
        if self.box is not None:
            down, across = _overlap(ys, self.box[1::2]), _overlap(xs, self.box[::2])
            weights = down @ across.T
        else:
            assert self.mask is not None
            if self.mask.shape != (height, width):
                problem = msg(
                    "methods.mask-size",
                    "the target's mask has {mask} pixels, the photo {photo}",
                    mask=f"{self.mask.shape[1]} x {self.mask.shape[0]}",
                    photo=f"{width} x {height}",
                )
                raise UsageError(problem, msg("methods.mask-size.hint", "a mask has the size of its upright photo"))
            weights = _overlap(ys, np.arange(height + 1)) @ self.mask @ _overlap(xs, np.arange(width + 1)).T
        if weights.sum() <= 0:
            raise UsageError.coded(
                "methods.region-not-seen",
                "nothing of the target '{target}' lies in the part of the photo that the model sees, {box}",
                "boxes and masks are in pixels of the photo: left, top, right, bottom",
                target=self,
                box=_numbers(region.box),
            )
        found: np.ndarray = weights
        return found

    def anywhere(self, grid: tuple[int, int]) -> "RegionTarget":
        """Return the same class over the whole map, to check it before any photo is read."""
        return replace(self, regions=(), grid=grid)


@dataclass(frozen=True, eq=False, repr=False)
class QueryTarget:
    """The score of a class at one query of a detector; `query` makes it.

    Attributes:
        index: the number of the query, its row in the answer `(B, Q, C)`.
        which: the class, by number or name, or a contrast of two.
    """

    index: int
    which: int | str

    def __repr__(self) -> str:
        return self.describe(str(self.which))

    def describe(self, name: str) -> Message:
        """Say what is scored, with the class by its name."""
        return msg("methods.target-of-query", "{name} at query {index}", name=name, index=self.index)

    def read(self, answer: Tensor, images: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n C"]:
        """Return the scores of the query.

        Raises:
            UsageError: an answer without queries, or with fewer.
        """
        if answer.ndim != 3:
            raise UsageError.coded(
                "methods.no-queries",
                "the target '{target}' names a query, and the model's answer ({shape}) has none",
                "queries are the rows of an answer (B, queries, classes)",
                target=self,
                shape=_shape(answer),
            )
        if not 0 <= self.index < answer.shape[1]:
            raise UsageError(
                msg("methods.no-such-query", "query {index} does not exist", index=self.index),
                msg("methods.no-such-query.hint", "queries are 0 to {last}", last=answer.shape[1] - 1),
            )
        return answer[:, self.index]


def region(which: Any, place: Any = None, *, box: Any = None, mask: Any = None) -> RegionTarget:
    """Make the target "this class, in this part of the photo", for segmentation and other maps of scores.

    The score is the mean of the class over that part; a cell of the map counts by the share of it that lies there.

    Args:
        which: the class, by number or name, or a contrast "A - B".
        place: a box or a mask; the same as `box=` or `mask=`.
        box: `(left, top, right, bottom)` in pixels of the photo, fractions allowed.
        mask: an array, tensor or Pillow image of the photo's size; pixels that are not 0 count.

    Raises:
        UsageError: neither a box nor a mask or both, an empty one, or one of another shape.
    """
    if place is not None:
        is_box = hasattr(place, "__len__") and len(place) == 4 and not np.ndim(place[0])
        box, mask = (place if is_box else box), (mask if is_box else place)
    if (box is None) == (mask is None):
        raise UsageError(
            msg("methods.box-or-mask", "a region is given by a box or by a mask"),
            msg("methods.box-or-mask.hint", "write vitscope.region(class, box=(left, top, right, bottom)) or mask=..."),
        )
    if mask is not None:
        return RegionTarget(_class(which), None, _mask(mask))
    try:
        left, top, right, bottom = map(_edge, box)
    except (TypeError, ValueError):
        raise _no_box(box) from None
    if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
        raise _no_box(box)
    return RegionTarget(_class(which), (left, top, right, bottom), None)


def query(index: Any, which: Any) -> QueryTarget:
    """Make the target "this class, at this query", for detectors such as YOLOS and DETR.

    Args:
        index: the number of the query, as in the model's `logits[:, index]`.
        which: the class, by number or name, or a contrast "A - B".

    Raises:
        UsageError: an index that is no whole number.
    """
    number = _integer(index)
    if number is None:
        problem = msg("methods.query-index", "a query is a whole number, not {index}", index=repr(index))
        hint = msg("methods.query-index.hint", "write query:3:cat, in Python vitscope.query(3, 'cat')")
        raise UsageError(problem, hint)
    return QueryTarget(number, _class(which))


def parse_place(kind: str, rest: str) -> "RegionTarget | QueryTarget":
    """Parse what follows `region:` or `query:` in a flag."""
    if kind == "query":
        index, _, which = rest.partition(":")
        found = whole_number(index)
        return query(index.strip() if found is None else found, which.strip())
    which, _, numbers = rest.rpartition(":")
    return region(which.strip(), box=numbers.split(","))


def place_of_text(words: str) -> RegionTarget | QueryTarget | None:
    """Return the target that these words describe; None for a mask, or anything else."""
    if found := re.fullmatch(r"(.+) at query ([0-9]{1,18})", words, re.DOTALL):
        return query(int(found[2]), found[1])
    if found := re.fullmatch(r"(.+) in the box \(([^()]+)\)", words, re.DOTALL):
        return region(found[1], box=found[2].split(","))
    return None


def placed(target: Any, regions: Sequence[ImageRegion], grid: tuple[int, int]) -> Any:
    """Return a target, or a list with one for each image, that knows where the photos of a batch lie."""
    if isinstance(target, list):
        return [placed(one, [where], grid) for one, where in zip(target, regions, strict=True)]
    if isinstance(target, RegionTarget) and target.regions is None:
        return replace(target, regions=tuple(regions), grid=grid)
    return target


def _edge(value: Any) -> float:
    found = number(value) if isinstance(value, str) else value
    if found is None:
        raise ValueError(value)
    return float(found)


def _class(which: Any) -> int | str:
    """Return a class number or name as plain Python has it."""
    found = which if isinstance(which, str) and which else _integer(which)
    if found is None:
        problem = msg("methods.place-class", "a class is a number or a name, not {which}", which=repr(which))
        hint = msg(
            "methods.place-class.hint",
            "write the class, such as 3 or 'cat'; as a flag query:INDEX:CLASS or region:CLASS:LEFT,TOP,RIGHT,BOTTOM",
        )
        raise UsageError(problem, hint)
    return found


def _integer(value: Any) -> int | None:
    """Return a whole number of Python, numpy or torch; None for anything else, truth values included."""
    if isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _mask(mask: Any) -> Bool[np.ndarray, "H W"]:
    values = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    found = np.asarray(np.nan_to_num(values) != 0) if values.dtype.kind in "biuf" else np.zeros(0, bool)
    if found.ndim != 2 or not found.any():
        raise UsageError.coded(
            "methods.bad-mask",
            "a mask is an array (H, W) that is not 0 everywhere, not {kind}",
            "pixels of the photo that count are not 0, all others are 0",
            kind=_kind(mask, values),
        )
    return found


def _kind(mask: Any, values: np.ndarray) -> str:
    return f"{values.dtype} {values.shape}" if values.ndim else type(mask).__name__


def _no_box(box: object) -> UsageError:
    return UsageError.coded(
        "methods.bad-box",
        "a box is left, top, right, bottom with left < right and top < bottom, not {box}",
        "write region:CLASS:LEFT,TOP,RIGHT,BOTTOM, in pixels of the photo",
        box=",".join(map(str, box)) if isinstance(box, list) else repr(box),
    )


def _overlap(edges: np.ndarray, others: Any) -> Float[np.ndarray, "n m"]:
    """Return the length that each interval between `edges` shares with each between `others`."""
    ends = np.asarray(others, float)
    low, high = np.maximum(edges[:-1, None], ends[None, :-1]), np.minimum(edges[1:, None], ends[None, 1:])
    length: np.ndarray = np.clip(high - low, 0, None)
    return length


def _numbers(box: Sequence[float]) -> str:
    return f"({', '.join(format(edge, '.10g') for edge in box)})"


def _shape(answer: Tensor) -> str:
    return " x ".join(map(str, ("B", *answer.shape[1:])))
