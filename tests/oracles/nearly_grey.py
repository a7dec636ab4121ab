"""The photo below a map, in float64 and one difference, cell and column at a time."""

import numpy as np
from PIL import Image

LIGHTNESS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def dense_colour_weights(photo):
    cells = _cells(photo)
    rows, columns = cells.shape[:2]
    products, count = np.zeros((3, 3)), 0
    for far in (2, 4, 8):
        for y in range(rows):
            for x in range(columns):
                for down, right in ((y + far, x), (y, x + far)):
                    if down < rows and right < columns:
                        difference = cells[down, right] - cells[y, x]
                        products += np.outer(difference, difference)
                        count += 1
    contrast = products / max(count, 1)
    channels = np.diag(contrast).mean()
    strength = 2 * max(0.0, 1 - LIGHTNESS @ contrast @ LIGHTNESS / channels) if channels > 0 else 0.0
    beside = np.eye(3) - np.ones((3, 1)) * LIGHTNESS
    weights = np.linalg.svd(beside @ contrast @ beside.T)[0][:, 0] @ beside
    return weights * strength * (1 if weights @ contrast @ LIGHTNESS >= 0 else -1)


def dense_nearly_grey(photo):
    photo = np.asarray(photo)
    added = dense_colour_weights(photo)
    height, width = photo.shape[:2]
    values = _blurred(_blurred(_cells(photo) @ added).T).T
    values = np.stack([_resized(row, width) for row in values])
    large = np.stack([_resized(column, height) for column in values.T], 1)
    grey = (photo @ LIGHTNESS + photo @ added - large).clip(0, 255)
    return 0.3 * photo + 0.7 * grey[..., None]


def _cells(photo):
    height, width = photo.shape[:2]
    size = [max(1, round(side * 64 / max(height, width))) for side in (width, height)]
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX), float)


def _blurred(values):
    out = np.zeros_like(values)
    for to in range(len(values)):
        weights = [np.exp(-((to - one) ** 2) / 128) for one in range(len(values))]
        out[to] = sum(weight * row for weight, row in zip(weights, values, strict=True)) / sum(weights)
    return out


def _resized(line, length):
    return np.interp((np.arange(length) + 0.5) * len(line) / length - 0.5, np.arange(len(line)), line)
