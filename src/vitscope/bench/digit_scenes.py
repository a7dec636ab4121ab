"""Composes scenes of one to three handwritten digits on clutter, with a mask for each digit.

The digits are scikit-learn's: 1,797 real ones of 8×8 pixels, from the UCI set "Optical Recognition of Handwritten
Digits". They are split into training and held-out images before any scene is composed, so that a held-out scene shows
only digits that no training scene shows, whole or in pieces.

A scene is a square RGB image. Its background is a colour gradient with smooth blotches, strokes, torn pieces of digits
and pixel noise; over it stand digits of different classes, each enlarged (bicubic) to a random size, in a random
colour that differs from the background, at a random place whose frame hardly overlaps the others'.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from vitscope.errors import require_package

SIZE = 60
MOST = 3
CLASSES = 10
FRAMES = (19.0, 25.0)  # sides of a digit's enlarged 8×8 frame, in scene pixels
INK = 0.3  # the share of a digit's colour from which on a pixel belongs to the digit
WINDOW = 32  # side of the square in which a digit is drawn before it is pasted; holds every frame, also a turned one


@dataclass(frozen=True)
class Digits:
    """Digit images, N×8×8 in [0, 1] with ink at 1, and their classes."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes, each with up to three digits, filled from the first slot.

    Attributes:
        images: B×H×W×3, uint8.
        targets: B×10, float32: one for each class present.
        labels: B×3, int64: the class in each slot, −1 where the slot is empty.
        boxes: B×3×4, int64: left, top, right, bottom of the digit's visible ink, the last two exclusive; zeros where
            the slot is empty.
        masks: B×3×H×W, bool: the pixels of each digit. A pixel covered by a later slot's digit is not the earlier's.
    """

    images: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray


def split_digits(held_out: float = 0.2, seed: int = 0) -> tuple[Digits, Digits]:
    """Split scikit-learn's digits into training and held-out images. Both have the same proportion of every class."""
    require_package("sklearn", "scikit-learn", extra="bench")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images / 16).astype(np.float32)
    train, test = train_test_split(
        np.arange(len(images)), test_size=held_out, random_state=seed, stratify=data.target, shuffle=True
    )
    return Digits(images[train], data.target[train]), Digits(images[test], data.target[test])


def scenes(
    digits: np.ndarray,
    labels: np.ndarray,
    count: int,
    seed: int,
    *,
    size: int = SIZE,
    warp: float = 0.0,
    clutter: float = 1.0,
    shares: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3),
) -> Scenes:
    """Compose `count` scenes from 8×8 `digits` of classes `labels`.

    Equal arguments give equal scenes.

    Args:
        digits: N×8×8 in [0, 1], ink at 1.
        labels: their N classes.
        count: how many scenes.
        seed: of everything random.
        size: side of a scene in pixels.
        warp: how strongly digits are turned, sheared, stretched and bent for augmentation; 0 only enlarges them.
        clutter: 1 for scenes as described above; towards 0 clutter is weaker and more of
            the scenes are light digits on dark ground, to learn on.
        shares: of scenes with one, two and three digits.
    """
    rng = torch.Generator().manual_seed(seed)
    ink, classes = torch.from_numpy(digits).float(), torch.from_numpy(labels).long()

    number = 1 + torch.multinomial(torch.tensor(shares), count, replacement=True, generator=rng)
    present = torch.arange(MOST) < number[:, None]
    chosen = _different_classes(classes, count, rng)
    frames = _uniform(rng, count, MOST, low=FRAMES[0], high=FRAMES[1])
    centres = _apart(frames, present, size, rng)

    light = torch.rand(count, 1, generator=rng) >= clutter
    images = _background(ink, count, size, clutter, light, rng)
    alphas = _paste(_draw(ink[chosen.flatten()], frames.flatten(), warp, rng), centres, size, rng)
    alphas = alphas * present[:, :, None, None]
    masks = alphas >= INK
    for slot in range(MOST):
        alpha = alphas[:, slot, None]
        colour = torch.where(light, 0.9, _contrasting(images, alpha, rng))
        images = images + alpha * (colour[:, :, None, None] - images)
        masks[:, :slot] &= ~masks[:, slot, None]
    noise = clutter * _uniform(rng, count, 1, 1, 1, low=0.01, high=0.06)
    images = images + noise * torch.randn(images.shape, generator=rng)

    slots = torch.where(present, classes[chosen], -1)
    targets = torch.zeros(count, CLASSES + 1).scatter_(1, torch.where(present, slots, CLASSES), 1.0)[:, :CLASSES]
    return Scenes(
        images=(images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy(),
        targets=targets.numpy(),
        labels=slots.numpy(),
        boxes=_boxes(masks).numpy(),
        masks=masks.numpy(),
    )


def _uniform(rng: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _different_classes(classes: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return the indices of three digits of three different classes for each scene."""
    wanted = torch.rand(count, CLASSES, generator=rng).argsort(1)[:, :MOST]
    order = classes.argsort(stable=True)
    totals = torch.bincount(classes, minlength=CLASSES)
    starts = totals.cumsum(0) - totals
    within = (torch.rand(count, MOST, generator=rng) * totals[wanted]).long()
    return order[starts[wanted] + within]


def _apart(frames: Tensor, present: Tensor, size: int, rng: torch.Generator, tries: int = 96) -> Tensor:
    """Return centres (y, x) of frames that hardly overlap: of many random triples, the first of least overlap."""
    count = len(frames)
    room = size - frames[:, None, :, None]
    centres = frames[:, None, :, None] / 2 + room * torch.rand(count, tries, MOST, 2, generator=rng)
    gaps = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        distance = (centres[:, :, first] - centres[:, :, second]).abs().amax(-1)
        gap = distance - 0.9 * (frames[:, first] + frames[:, second])[:, None] / 2
        gaps.append(torch.where((present[:, first] & present[:, second])[:, None], gap, torch.inf))
    narrowest = torch.stack(gaps).amin(0)
    best = narrowest.clamp(max=0).argmax(1)
    return centres[torch.arange(count), best]


def _draw(ink: Tensor, frames: Tensor, warp: float, rng: torch.Generator) -> Tensor:
    """Enlarge 8×8 digits to their frames in a window: M×WINDOW×WINDOW in [0, 1]."""
    count = len(ink)
    spread = warp * torch.randn(count, 5, generator=rng).clamp(-2, 2)
    angle, shear = 0.12 * spread[:, 0], 0.12 * spread[:, 1]
    across, down = torch.exp(0.07 * spread[:, 2]), torch.exp(0.07 * spread[:, 3])
    zoom = WINDOW / frames
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    zero = torch.zeros_like(zoom)
    rows = torch.stack(
        [
            torch.stack([cos * across, (shear * cos - sin) * across, zero], -1),
            torch.stack([sin * down, (shear * sin + cos) * down, zero], -1),
        ],
        1,
    )
    grid = F.affine_grid(rows, [count, 1, WINDOW, WINDOW], align_corners=False)
    if warp:
        bend = 0.07 * warp * torch.randn(count, 2, 5, 5, generator=rng)
        grid = grid + F.interpolate(bend, WINDOW, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        ink = ink * (1 + 0.15 * spread[:, 4, None, None])
    drawn = F.grid_sample(ink[:, None], grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return drawn[:, 0].clamp(0, 1)


def _paste(drawn: Tensor, centres: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Put the windows at their centres, one scene-sized layer per digit."""
    count, slots = centres.shape[:2]
    layers = torch.zeros(count * slots, size + 2 * WINDOW, size + 2 * WINDOW)
    corner = (centres.reshape(-1, 2) - WINDOW / 2).round().long() + WINDOW
    span = torch.arange(WINDOW)
    ys, xs = corner[:, 0, None] + span, corner[:, 1, None] + span
    layers[torch.arange(len(layers))[:, None, None], ys[:, :, None], xs[:, None, :]] = drawn
    inner = layers[:, WINDOW : WINDOW + size, WINDOW : WINDOW + size].reshape(count, slots, size, size)
    return inner * _uniform(rng, count, slots, 1, 1, low=0.75)


def _contrasting(images: Tensor, alpha: Tensor, rng: torch.Generator, choices: int = 8) -> Tensor:
    """Return for each scene the one of a few random colours that differs most from what is behind the digit."""
    behind = (images * alpha).sum((2, 3)) / alpha.sum((2, 3)).clamp(min=1e-6)
    colours = torch.rand(len(images), choices, 3, generator=rng)
    best = (colours - behind[:, None]).norm(dim=-1).argmax(1)
    return colours[torch.arange(len(images)), best]


def _background(ink: Tensor, count: int, size: int, clutter: float, light: Tensor, rng: torch.Generator) -> Tensor:
    """Draw gradients, blotches, strokes and torn pieces of digits: B×3×H×W."""
    base = _uniform(rng, count, 3, low=0.1, high=0.9)[:, :, None, None]
    line = torch.linspace(-1, 1, size)
    slope = _uniform(rng, 2, count, 3, 1, 1, low=-0.15, high=0.15)
    images = torch.where(light[:, :, None, None], 0.2, base) + clutter * (slope[0] * line + slope[1] * line[:, None])
    blotches = torch.randn(count, 3, 8, 8, generator=rng) * _uniform(rng, count, 1, 1, 1, low=0.02, high=0.12)
    images = images + clutter * F.interpolate(blotches, size, mode="bicubic", align_corners=True)

    for _ in range(3):
        shape = _strokes(count, size, rng) * (torch.rand(count, 1, 1, generator=rng) < 0.6)
        images = _tint(images, shape, clutter, rng)
    for _ in range(2):
        images = _tint(images, _pieces(ink, count, size, rng), clutter, rng)
    return images


def _tint(images: Tensor, shape: Tensor, clutter: float, rng: torch.Generator) -> Tensor:
    """Blend a random colour into the images at the shape, by a random strength."""
    colour = torch.rand(len(images), 3, 1, 1, generator=rng)
    strength = clutter * _uniform(rng, len(images), 1, 1, 1, low=0.2, high=0.7)
    return images + strength * shape[:, None] * (colour - images)


def _strokes(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw one straight soft stroke per scene."""
    start, end = size * torch.rand(2, count, 2, generator=rng)
    width = _uniform(rng, count, 1, 1, low=0.5, high=1.5)
    along = end - start
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1) + 0.5
    offset = places - start[:, None, None]
    share = (offset * along[:, None, None]).sum(-1) / along.square().sum(-1).clamp(min=1.0)[:, None, None]
    distance: Tensor = (offset - share.clamp(0, 1)[..., None] * along[:, None, None]).norm(dim=-1)
    return (width + 0.5 - distance).clamp(0, 1)


def _pieces(ink: Tensor, count: int, size: int, rng: torch.Generator) -> Tensor:
    """Draw one torn piece of a digit per scene: a square of 3×3 of the digit's pixels, enlarged like a digit."""
    images = ink[torch.randint(len(ink), (count,), generator=rng)]
    top, left = torch.randint(0, 6, (2, count, 1, 1), generator=rng)
    span = torch.arange(8)
    kept = ((span[:, None] - top).clamp(0, 2) == span[:, None] - top) & ((span - left).clamp(0, 2) == span - left)
    frames = _uniform(rng, count, low=FRAMES[0], high=FRAMES[1])
    drawn = _draw(images * kept, frames, 0.0, rng)
    centres = size * torch.rand(count, 1, 2, generator=rng)
    return _paste(drawn, centres, size, rng)[:, 0]


def _boxes(masks: Tensor) -> Tensor:
    """Return left, top, right and bottom of every mask."""
    size = masks.shape[-1]
    span = torch.arange(size)
    columns, rows = masks.any(-2), masks.any(-1)
    edges = [
        torch.where(columns, span, size).amin(-1),
        torch.where(rows, span, size).amin(-1),
        torch.where(columns, span + 1, 0).amax(-1),
        torch.where(rows, span + 1, 0).amax(-1),
    ]
    boxes: Tensor = torch.stack(edges, -1) * masks.any((-2, -1))[..., None]
    return boxes
