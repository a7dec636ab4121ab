"""The built-in cut-outs and backgrounds: parts of the sample photos of scikit-image and scikit-learn.

Outlines are drawn by hand, in the photos' own pixels. The photos come with the two packages; nothing is downloaded. The
motorcycle's outline is its measured disparity: it is nearer than the floor and the wall behind it.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter

from vitscope.errors import require_package

Points: TypeAlias = "tuple[tuple[int, int], ...]"
Shape: TypeAlias = "tuple[str, Any]"

_FINE = 4  # outlines are drawn so many times larger, for soft edges

_CAT: Points = (
    *((43, 0), (34, 36), (34, 68), (32, 100), (43, 150), (57, 182), (73, 205), (91, 227), (118, 248), (150, 268)),
    *((200, 282), (245, 284), (282, 273), (300, 254), (314, 232), (332, 214), (348, 191), (356, 168), (362, 145)),
    *((362, 123), (352, 109), (350, 86), (360, 64), (377, 42), (386, 18), (399, 0)),
)
_SPOON: Points = ((397, 72), (405, 67), (418, 67), (424, 75), (422, 90), (414, 112), (405, 140), (395, 140))
_PERSON: Points = (
    *((46, 511), (38, 505), (29, 480), (26, 415), (21, 395), (27, 345), (41, 300), (56, 260), (92, 225), (118, 205)),
    *((115, 187), (126, 172), (138, 159), (161, 149), (183, 150), (181, 133), (170, 128), (158, 105), (154, 75)),
    *((166, 48), (190, 37), (202, 25), (225, 17), (255, 20), (279, 36), (294, 51), (300, 85), (296, 115), (282, 131)),
    *((269, 136), (259, 158), (255, 172), (280, 193), (299, 220), (304, 238), (324, 246), (339, 261), (354, 300)),
    *((361, 346), (380, 346), (410, 344), (440, 352), (469, 377), (489, 412), (496, 453), (504, 460), (510, 495)),
    (511, 511),
)
_SHUTTLE: Points = (
    *((414, 0), (428, 0), (436, 22), (437, 46), (444, 41), (450, 49), (454, 70), (454, 195), (455, 231), (451, 240)),
    *((457, 262), (469, 273), (465, 279), (440, 284), (400, 287), (373, 282), (369, 275), (368, 262), (376, 245)),
    *((378, 231), (355, 227), (357, 207), (377, 187), (380, 150), (382, 110), (381, 90), (381, 58), (387, 43)),
    *((395, 52), (398, 30), (402, 14)),
)
_FLOWER: Points = (
    *((317, 85), (339, 92), (361, 97), (382, 102), (407, 120), (427, 145), (432, 178), (442, 206), (445, 222)),
    *((441, 250), (430, 278), (418, 300), (402, 328), (382, 340), (356, 350), (325, 358), (300, 359), (272, 352)),
    *((244, 348), (229, 333), (207, 322), (195, 300), (184, 283), (173, 261), (171, 239), (170, 211), (176, 194)),
    *((179, 172), (190, 167), (189, 147), (205, 131), (211, 117), (233, 112), (247, 101), (272, 97), (292, 100)),
    (303, 90),
)
_CAMERAMAN: Points = (
    *((0, 511), (0, 257), (15, 240), (30, 215), (50, 185), (65, 155), (90, 136), (125, 125), (142, 110), (160, 105)),
    *((165, 92), (175, 80), (190, 70), (205, 65), (230, 68), (252, 86), (266, 102), (269, 118), (257, 131)),
    *((253, 140), (280, 142), (310, 140), (324, 140), (324, 150), (319, 155), (320, 172), (327, 169), (331, 180)),
    *((330, 197), (322, 215), (310, 227), (301, 232), (293, 243), (300, 257), (303, 272), (280, 294), (247, 311)),
    *((206, 295), (180, 330), (160, 357), (141, 377), (147, 425), (150, 511), (138, 511), (125, 490), (99, 447)),
    (90, 511),
)
_PAGODA: Points = (
    *((197, 30), (213, 30), (214, 42), (210, 49), (217, 56), (214, 62), (228, 78), (250, 92), (267, 99), (289, 108)),
    *((296, 107), (319, 118), (318, 127), (303, 135), (294, 139), (294, 160), (308, 164), (328, 170), (328, 179)),
    *((320, 186), (320, 222), (327, 227), (327, 239), (350, 250), (349, 259), (340, 267), (340, 303), (348, 307)),
    *((349, 319), (370, 331), (355, 356), (333, 372), (322, 364), (303, 358), (302, 384), (239, 392), (219, 385)),
    *((206, 368), (183, 357), (158, 344), (150, 333), (128, 333), (111, 337), (75, 340), (75, 322), (82, 319)),
    *((82, 286), (66, 275), (64, 266), (81, 253), (93, 247), (94, 233), (99, 231), (99, 189), (86, 186), (84, 175)),
    *((94, 167), (119, 158), (121, 139), (108, 138), (96, 131), (96, 108), (119, 100), (156, 92), (183, 72)),
    *((194, 61), (193, 53), (199, 47)),
)
_ROCKET: Points = (
    *((322, 127), (327, 132), (332, 143), (333, 160), (333, 178), (335, 180), (335, 340), (333, 405), (311, 405)),
    *((309, 340), (310, 180), (312, 178), (311, 160), (312, 143), (317, 132)),
)
_MOTORCYCLE: Points = (
    *((95, 195), (130, 145), (165, 142), (200, 160), (260, 165), (325, 140), (325, 115), (370, 105), (425, 110)),
    *((490, 90), (495, 30), (525, 30), (545, 100), (590, 118), (590, 140), (560, 180), (580, 258), (650, 300)),
    *((688, 380), (690, 440), (650, 455), (590, 450), (500, 340), (450, 385), (350, 385), (345, 440), (320, 440)),
    *((315, 370), (270, 380), (230, 405), (190, 405), (120, 350), (118, 290), (100, 265)),
)

# name: photo, and shapes whose union is the object
_SHAPES: Mapping[str, tuple[str, tuple[Shape, ...]]] = {
    "cat": ("chelsea", (("polygon", _CAT),)),
    "coffee cup": ("coffee", (("ellipse", (78, 48, 478, 388)), ("ellipse", (173, 18, 408, 208)), ("polygon", _SPOON))),
    "person": ("astronaut", (("polygon", _PERSON),)),
    "shuttle": ("astronaut", (("polygon", _SHUTTLE),)),
    "motorcycle": ("motorcycle", (("nearer", _MOTORCYCLE),)),
    "coin": ("coins", (("ellipse", (315, 156, 379, 218)),)),
    "flower": ("flower", (("polygon", _FLOWER),)),
    "cameraman": ("camera", (("polygon", _CAMERAMAN),)),
    "pagoda": ("china", (("polygon", _PAGODA),)),
    "retina": ("retina", (("ellipse", (14, 14, 1397, 1397)),)),
    "rocket": ("rocket", (("polygon", _ROCKET),)),
}
CUTOUTS: Mapping[str, tuple[str, ...]] = {
    "report": ("cat", "coffee cup", "coin", "motorcycle", "person", "shuttle"),
    "tune": ("cameraman", "flower", "pagoda", "retina", "rocket"),
}

# name: photo, and the part of it (left, top, right, bottom) that shows none of the cut-outs
_BACKGROUND_PARTS: Mapping[str, tuple[str, tuple[int, int, int, int] | None]] = {
    "brick": ("brick", None),
    "gravel": ("gravel", None),
    "galaxies": ("hubble", None),
    "lake": ("china", (372, 120, 640, 427)),
    "night": ("rocket", (345, 60, 640, 427)),
    "leaves": ("flower", (0, 0, 165, 427)),
    "grass": ("grass", None),
    "moon": ("moon", None),
    "tissue": ("ihc", None),
    "wood": ("coffee", (480, 40, 600, 400)),
    "garage": ("motorcycle", (0, 0, 330, 140)),
    "skyline": ("camera", (335, 0, 512, 300)),
}
BACKGROUNDS: Mapping[str, tuple[str, ...]] = {
    "report": ("brick", "galaxies", "gravel", "lake", "leaves", "night"),
    "tune": ("garage", "grass", "moon", "skyline", "tissue", "wood"),
}


@cache
def cutout(name: str) -> UInt8[np.ndarray, "H W 4"]:
    """Return a built-in cut-out as RGBA, cropped to its visible part."""
    photo, shapes = _SHAPES[name]
    pixels = _photo(photo)
    alpha = np.maximum.reduce([_DRAWERS[kind](pixels.shape[:2], data) for kind, data in shapes])
    return visible_part(pixels, alpha)


def visible_part(colours: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w 4"]:
    """Return colours and opacity as RGBA, cropped to the box of what is not wholly transparent."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.concatenate([colours[box], alpha[box][..., None]], axis=2)


@cache
def background(name: str) -> UInt8[np.ndarray, "H W 3"]:
    """Return a built-in background: a photo, or a part without any cut-out."""
    photo, box = _BACKGROUND_PARTS[name]
    pixels = _photo(photo)
    left, top, right, bottom = box or (0, 0, pixels.shape[1], pixels.shape[0])
    return pixels[top:bottom, left:right]


def sample_photos() -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """Return all photos by name, whole."""
    parts = [photo for photo, _ in (*_SHAPES.values(), *_BACKGROUND_PARTS.values())]
    return {name: _photo(name) for name in dict.fromkeys(parts)}


def _outline(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw], None]) -> UInt8[np.ndarray, "H W"]:
    """Draw soft alpha, shrunk from a fine version; the photo's own edge stays hard."""
    height, width = size
    fine = Image.new("L", (width * _FINE, height * _FINE))
    draw(ImageDraw.Draw(fine))
    return np.asarray(fine.resize((width, height), Image.Resampling.BOX))


def _polygon(size: tuple[int, int], points: Points) -> UInt8[np.ndarray, "H W"]:
    scaled = [(x * _FINE + _FINE // 2, y * _FINE + _FINE // 2) for x, y in points]
    return _outline(size, lambda draw: draw.polygon(scaled, fill=255))


def _ellipse(size: tuple[int, int], box: tuple[int, int, int, int]) -> UInt8[np.ndarray, "H W"]:
    return _outline(size, lambda draw: draw.ellipse([v * _FINE for v in box], fill=255))


def _nearer(size: tuple[int, int], points: Points) -> UInt8[np.ndarray, "H W"]:
    """Draw the pixels within the points that are nearer than the wall and the floor in the same row."""
    disparity: Float[np.ndarray, "H W"] = _stereo()[2]
    known = np.isfinite(disparity)
    floor = np.array([np.median(row[:80][there[:80]]) for row, there in zip(disparity, known, strict=True)])
    near = known & (disparity > np.maximum(38, floor + 5)[:, None]) & (_polygon(size, points) > 127)
    mask = Image.fromarray(near.astype(np.uint8) * 255)
    closed = mask.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5)).filter(ImageFilter.MedianFilter(3))
    return np.asarray(closed.filter(ImageFilter.GaussianBlur(0.6)))


_DRAWERS: Mapping[str, Callable[..., UInt8[np.ndarray, "H W"]]] = {
    "polygon": _polygon,
    "ellipse": _ellipse,
    "nearer": _nearer,
}


@cache
def _stereo() -> tuple[Any, Any, Any]:
    from skimage import data

    stereo: Callable[[], tuple[Any, Any, Any]] = data.stereo_motorcycle
    return stereo()


@cache
def _photo(name: str) -> UInt8[np.ndarray, "H W 3"]:
    require_package("skimage", "scikit-image", extra="bench")
    require_package("sklearn", "scikit-learn", extra="bench")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # raised by the packages on import
        if name in ("china", "flower"):
            from sklearn.datasets import load_sample_image

            pixels = load_sample_image(f"{name}.jpg")
        elif name == "motorcycle":
            pixels = _stereo()[0]
        else:
            from skimage import data

            names = {"ihc": "immunohistochemistry", "hubble": "hubble_deep_field"}
            pixels = getattr(data, names.get(name, name))()
    pixels = np.asarray(pixels)
    pixels = pixels[..., None].repeat(3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    return np.ascontiguousarray(pixels)
