"""The geometry of tokens: their order and grid, and the part of the photo that the model saw.

    photo (H, W) --ImageRegion.box--> region that the model saw
    region --ImageRegion.input--> pixels (Hi, Wi) --TokenLayout.grid--> patches (gh, gw)

Both types check their values: no grid is guessed from a square root. Numpy only: a saved explanation is laid on its
photo without torch.
"""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Float, Int

from vitscope._messages import msg
from vitscope.errors import LayoutError, UsageError

Pooling = Literal["cls", "mean", "map"]
Box = tuple[float | int, float | int, float | int, float | int]  # left, top, right, bottom
T = TypeVar("T", bound=Any)  # a numpy array or a torch tensor: both slice and reshape alike


@dataclass(frozen=True)
class TokenLayout:
    """The order of the tokens: `N = P + gh * gw`, the prefix first, then the patches row by row.

    Attributes:
        prefix: the names of the P prefix tokens in their order, such as `("cls", "register 1", "register 2")`.
        grid: rows and columns of patches, `(gh, gw)`.
        pooling: how the model reads out its answer. `cls`: from the first prefix token. `mean`: from the mean of the
            patch tokens. `map`: by attention pooling (a learned query attends to the tokens).
        pool_prefix: the prefix tokens take part in the readout: with `mean` beside the patches, with `cls` all of them
            in equal parts (DeiT with its teacher head reads the mean of CLS and distillation token).
        planes: for a clip or a volume, how many planes of patches there are: the time steps, or the slices. `grid` then
            has the rows of all planes, plane after plane, and maps have the shape `(planes, gh / planes, gw)`.
        cells: the box that the patches' cells tile evenly, `(left, top, right, bottom)` in pixels of the input; None
            where that is the whole input. It is smaller where pixels are left over, and larger where the model pads. A
            cell is as large as the stride, around the middle of what its patch sees.
        seen: the box that any patch sees, in pixels of the input; None for the cells, cut to the input.

    Raises:
        LayoutError: on an empty grid, a repeated prefix name, `cls` pooling without a prefix token, or rows that are
            not equally many in each plane.
    """

    prefix: tuple[str, ...]
    grid: tuple[int, int]
    pooling: Pooling = "cls"
    pool_prefix: bool = False
    planes: int | None = None
    cells: Box | None = field(default=None, compare=False, repr=False)
    seen: Box | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", tuple(self.prefix))
        object.__setattr__(self, "grid", tuple(self.grid))
        for name in ("cells", "seen"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise LayoutError.coded(
                "geometry.not-a-grid",
                "a token grid is two positive numbers (rows, columns), not {grid}",
                grid=self.grid,
            )
        if len(set(self.prefix)) != len(self.prefix):
            raise LayoutError(
                msg("geometry.repeated-name", "prefix tokens need different names, not {names}", names=self.prefix)
            )
        if self.pooling not in get_args(Pooling):
            choices = ", ".join(get_args(Pooling))
            raise LayoutError.coded(
                "geometry.unknown-pooling",
                "pooling is one of {choices}, not '{pooling}'",
                choices=choices,
                pooling=self.pooling,
            )
        if self.pooling == "cls" and not self.prefix:
            raise LayoutError(
                msg("geometry.cls-without-prefix", "cls pooling needs a prefix token to read from"),
                msg("geometry.cls-without-prefix.hint", "name it: prefix=('cls',)"),
            )
        if self.planes is not None and (self.planes < 1 or self.grid[0] % self.planes):
            raise LayoutError.coded(
                "geometry.uneven-planes",
                "{rows} rows of patches are not equally many in each of {planes} planes",
                rows=self.grid[0],
                planes=self.planes,
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a map: `(gh, gw)`, or `(planes, rows, columns)` of a clip or a volume."""
        return self.grid if self.planes is None else (self.planes, self.grid[0] // self.planes, self.grid[1])

    def cell_numbers(self, size: tuple[int, int]) -> tuple[Int[np.ndarray, " Hi"], Int[np.ndarray, " Wi"]]:
        """Return the row of patches that each row of pixels belongs to, and so for columns; -1 for none.

        Where patches overlap, a pixel belongs to the patch whose middle is nearest.

        Args:
            size: `(Hi, Wi)` of the input, in pixels.
        """
        if self.cells is None:
            return np.arange(size[0]) * self.grid[0] // size[0], np.arange(size[1]) * self.grid[1] // size[1]
        seen = self._seen(size)
        numbers = []
        for axis, (n, count) in enumerate(zip(size, self.grid, strict=True)):
            (low, high), (first, last) = (box[1 - axis :: 2] for box in (self.cells, seen))
            middle = np.arange(n) + 0.5
            number = np.floor((middle - low) / (high - low) * count).astype(int).clip(0, count - 1)
            numbers.append(np.where((middle > first) & (middle < last), number, -1))
        return numbers[0], numbers[1]

    def _seen(self, size: tuple[int, int]) -> Box:
        """Return the box that any patch sees, cut to an input of `(Hi, Wi)` pixels."""
        left, top, right, bottom = self.seen or self.cells or (0, 0, size[1], size[0])
        return max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])

    def patch_name(self, number: int) -> str:
        """Return where patch `number` lies: `row,column`, or `plane,row,column`, from 0."""
        return ",".join(str(int(n)) for n in np.unravel_index(number, self.shape))

    def patch_number(self, text: str) -> int:
        """Return the number of the patch at `row,column`, or `plane,row,column`, from 0.

        Raises:
            UsageError: no such patch.
        """
        names = ("plane", "row", "column")[-len(self.shape) :]
        form = r"\s*[0-9]{1,9}\s*" + r",\s*[0-9]{1,9}\s*" * (len(names) - 1)
        place = [int(n) for n in text.split(",")] if re.fullmatch(form, text) else []
        if place and all(n < size for n, size in zip(place, self.shape, strict=True)):
            return int(np.ravel_multi_index(place, self.shape))
        ranges = ", ".join(f"{name} 0..{size - 1}" for name, size in zip(names, self.shape, strict=True))
        hint = msg("geometry.no-such-patch.hint", "write {form}: {ranges}", form=",".join(names), ranges=ranges)
        raise UsageError(msg("geometry.no-such-patch", "'{text}' is not a patch", text=text), hint)

    @property
    def tokens(self) -> int:
        """The number of tokens, N."""
        return len(self.prefix) + self.grid[0] * self.grid[1]

    def check(self, tokens: int, where: str = "the model") -> None:
        """Raise LayoutError unless `tokens` equals N."""
        if tokens != self.tokens:
            raise LayoutError.coded(
                "geometry.wrong-token-count",
                "{where} has {tokens} tokens, but the layout {layout} has {expected}",
                "pass layout=TokenLayout(prefix=..., grid=(rows, columns))",
                where=where,
                tokens=tokens,
                layout=str(self),
                expected=self.tokens,
            )

    def patches(self, x: T) -> T:
        """Return the patch part of `x (..., N)` in the shape of a map: `(..., gh, gw)`; numpy or torch."""
        self.check(x.shape[-1], "the array")
        patches: T = x[..., len(self.prefix) :].reshape(*x.shape[:-1], *self.shape)
        return patches

    def readout(self) -> Float[np.ndarray, " N"]:
        """Return the weight of each token in the model's answer; the weights sum to one.

        Raises:
            LayoutError: with `map` pooling, where the readout is an attention and depends on the image.
        """
        weight = np.zeros(self.tokens, np.float32)
        first, patches = slice(None, len(self.prefix)), slice(len(self.prefix), None)
        if self.pooling == "map":
            raise LayoutError(
                msg("geometry.no-fixed-readout", "attention pooling has no fixed readout weights"),
                msg("geometry.no-fixed-readout.hint", "use AttentionStore.readout_weights()"),
            )
        if self.pooling == "cls":
            weight[first if self.pool_prefix else slice(1)] = 1
        else:
            weight[slice(None) if self.pool_prefix else patches] = 1
        weight /= weight.sum()
        return weight

    def __str__(self) -> str:
        return f"{len(self.prefix)} prefix + {' x '.join(map(str, self.shape))} patches"


@dataclass(frozen=True)
class ImageRegion:
    """The part of the photo that the model saw, the model's input, and where the patches lie.

    Attributes:
        size: `(W, H)` of the photo, upright (after its EXIF rotation), in pixels.
        box: `(left, top, right, bottom)` of that part, in pixels of the photo, fractions allowed; it may reach beyond
            the photo where the preprocessing padded.
        input: `(Hi, Wi)` of the model's input, in pixels.
        cells: the box that the patches' cells tile evenly, in pixels of the photo; None where it is `box`.

    Raises:
        LayoutError: on an empty size, box, input or cells.
    """

    size: tuple[int, int]
    box: Box
    input: tuple[int, int]
    cells: Box | None = None

    def __post_init__(self) -> None:
        for name, kind in (("size", int), ("box", float), ("input", int), ("cells", float)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        boxes = [box for box in (self.box, self.cells) if box is not None]
        empty = any(not (left < right and top < bottom) for left, top, right, bottom in boxes)
        if min(self.size) < 1 or min(self.input) < 1 or empty:
            raise LayoutError.coded(
                "geometry.empty-region",
                "an image region needs size, box and input that are not empty, not {region}",
                region=str(self),
            )

    @classmethod
    def from_resize_crop(
        cls, size: tuple[int, int], resized: tuple[int, int], crop: tuple[int, int] | None = None
    ) -> "ImageRegion":
        """Return the region of "resize to `resized (h, w)`, then crop `crop (h, w)` from the middle".

        A smaller crop starts at `(resized - crop) / 2`, rounded towards zero. Where the crop is larger than the image,
        the image is padded by `(crop - resized) // 2` before it, as in transformers.
        """
        crop = resized if crop is None else crop
        (w, h), (rh, rw), (ch, cw) = size, resized, crop
        top, left = (_offset(r, c) for r, c in ((rh, ch), (rw, cw)))
        sx, sy = w / rw, h / rh
        return cls(size, (left * sx, top * sy, (left + cw) * sx, (top + ch) * sy), crop)

    def covered(self, layout: TokenLayout) -> "ImageRegion":
        """Return the region of this input that its patches saw, and where on the photo their cells lie.

        Args:
            layout: of the tokens at this input.
        """
        if layout.cells is None:
            return self
        (left, top, right, bottom), (height, width) = self.box, self.input
        sx, sy = (right - left) / width, (bottom - top) / height

        def on_photo(box: Box) -> Box:
            return left + box[0] * sx, top + box[1] * sy, left + box[2] * sx, top + box[3] * sy

        seen, cells = on_photo(layout._seen(self.input)), on_photo(layout.cells)
        return replace(self, box=seen, cells=None if np.allclose(seen, cells, rtol=0, atol=1e-9) else cells)

    def upsample(
        self, grid: Float[np.ndarray, "gh gw"], smooth: bool = True, blur: float = 0.0
    ) -> Float[np.ndarray, "H W"]:
        """Upsample a map of patches to the photo.

        Args:
            grid: one number per patch; the patches' cells tile `cells` evenly.
            smooth: interpolate bicubically between the patches' centres (Keys 1981, a = -1/2), clipped to the map's
                range, so that no value beyond it appears; otherwise each patch is one flat block.
            blur: standard deviation of a Gaussian in pixels of the photo, applied inside the box with its edges
                repeated; 0 for none.

        Returns:
            float32, NaN where the model saw nothing. A pixel belongs to the box if its centre does.
        """
        (w, h), (left, top, right, bottom) = self.size, self.box
        cells = self.cells or self.box
        ys, xs = _inside(h, top, bottom), _inside(w, left, right)
        rows = axis_weights(ys, cells[1], cells[3], grid.shape[0], smooth)
        columns = axis_weights(xs, cells[0], cells[2], grid.shape[1], smooth)
        if blur > 0:  # placing is linear and separable, so is the blur: it acts on the few columns of the weights
            rows, columns = _blurred(rows, blur), _blurred(columns, blur)
        inside = rows @ np.asarray(grid, np.float32) @ columns.T
        out = np.full((h, w), np.nan, np.float32)
        out[ys, xs] = np.clip(inside, grid.min(), grid.max(), out=inside)
        return out

    def window(self) -> tuple[int, int, int, int]:
        """Return the box in whole pixels, `(left, top, right, bottom)`, cut to the photo; never empty."""
        (w, h), (left, top, right, bottom) = self.size, self.box
        xs, ys = _inside(w, left, right), _inside(h, top, bottom)
        return xs.start, ys.start, xs.stop, ys.stop


def _offset(resized: int, crop: int) -> int:
    return (resized - crop) // 2 if crop <= resized else -((crop - resized) // 2)


def _inside(length: int, low: float, high: float) -> slice:
    start = min(max(math.ceil(low - 0.5), 0), length - 1)
    return slice(start, max(min(math.ceil(high - 0.5), length), start + 1))


def _blurred(weights: Float[np.ndarray, "n g"], sigma: float) -> Float[np.ndarray, "n g"]:
    reach = math.ceil(4 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(weights, ((reach, reach), (0, 0)), mode="edge")
    smoothed = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T]
    return np.stack(smoothed, axis=1).astype(np.float32)


def axis_weights(pixels: slice, low: float, high: float, cells: int, smooth: bool) -> Float[np.ndarray, "n g"]:
    """Return the weights of the equal cells of [low, high) in each of these pixels; rows sum to one."""
    per_pixel = cells / (high - low)
    centre = np.clip((np.arange(pixels.start, pixels.stop) + 0.5 - low) * per_pixel, 0, cells)  # cell i is [i, i + 1)
    if not smooth:
        weight = np.zeros((centre.size, cells), np.float32)
        weight[np.arange(centre.size), np.clip(centre.astype(int), 0, cells - 1)] = 1
        return weight
    # where a pixel is wider than a cell the kernel widens with it, so that no cell is skipped
    distance = np.abs(centre[:, None] - (np.arange(cells) + 0.5)) / max(per_pixel, 1.0)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    spread: np.ndarray = weight / weight.sum(1, keepdims=True)
    return spread.astype(np.float32)
