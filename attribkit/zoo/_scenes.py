"""Generated scenes with known ground truth: textured shapes over photographs, the labelled one outlined in white."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_dilation
from skimage import color, data, draw, transform

from attribkit._display.representations import short_repr

Polygon = Float[np.ndarray, "points 2"]  # (row, column) of each corner

_TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_DISC = np.stack([np.sin(_TURN), np.cos(_TURN)], axis=1)
_STAR = np.where(np.arange(10) % 2, 0.42, 1.0)[:, None] * _DISC[::6]
_CROSS = np.array(
    [(-1, -0.35), (-1, 0.35), (-0.35, 0.35), (-0.35, 1), (0.35, 1), (0.35, 0.35),
     (1, 0.35), (1, -0.35), (0.35, -0.35), (0.35, -1), (-0.35, -1), (-0.35, -0.35)]
)  # fmt: skip
_HEART = np.stack(
    [13 * np.cos(_TURN) - 5 * np.cos(2 * _TURN) - 2 * np.cos(3 * _TURN) - np.cos(4 * _TURN), 16 * np.sin(_TURN) ** 3],
    axis=1,
)  # a classical parametric curve, 17 units at its widest

# Polygons inside the unit disc, to fill (True) or to cut out (False) in order; the order of the keys is that of labels.
SILHOUETTES: dict[str, tuple[tuple[Polygon, bool], ...]] = {
    "circle": ((0.9 * _DISC, True),),
    "ring": ((_DISC, True), (0.5 * _DISC, False)),
    "square": ((_DISC[::15], True),),
    "triangle": ((_DISC[::20], True),),
    "star": ((_STAR, True),),
    "cross": ((0.94 * _CROSS, True),),
    "heart": ((_HEART / 17, True),),
    "crescent": ((_DISC, True), (0.8 * _DISC + np.array([0.0, 0.5]), False)),
}


SIDE = 128  # pixels; height and width of a scene
SHAPES = tuple(SILHOUETTES)  # the classes, in label order
OUTLINE = 3  # pixels; width of the outlines: white for the marked object, black for the others

ScenePicture = UInt8[np.ndarray, "h w 3"]
SceneMask = Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene.

    Args:
        label: Class of the shape, an index into SHAPES.
        box: Left, top, right and bottom edge in pixels; right and bottom are exclusive.
        mask: True on the shape and its outline, (h, w).
        marked: Whether the outline is white: the class of this shape is the label of the scene.
    """

    label: int
    box: tuple[int, int, int, int]
    mask: SceneMask
    marked: bool

    __repr__ = short_repr


@dataclass(frozen=True)
class Scene:
    """A picture with its ground truth.

    Args:
        seed: Seed of the scene.
        image: The picture, (h, w, 3).
        objects: The shapes, the marked one first.
    """

    seed: int
    image: ScenePicture
    objects: tuple[SceneObject, ...]

    __repr__ = short_repr

    @property
    def target(self) -> SceneObject:
        """Return the marked object."""
        return self.objects[0]

    @property
    def label(self) -> int:
        """Return the class of the marked object, an index into SHAPES."""
        return self.target.label


def scene(seed: int) -> Scene:
    """Draw a scene of 3 or 4 objects of different classes that do not touch, the first of them marked.

    Args:
        seed: Seed of everything in the scene.
    """
    rng = np.random.default_rng(seed)
    image = _background(rng)
    count = int(rng.integers(3, 5))
    labels = rng.permutation(len(SHAPES))[:count]
    objects = [
        _draw(image, int(label), centre, radius, marked=i == 0, rng=rng)
        for i, (label, (centre, radius)) in enumerate(zip(labels, _disc_layout(count, rng), strict=True))
    ]
    return Scene(seed, np.round(255 * image).astype(np.uint8), tuple(objects))


def scenes(count: int, seed: int = 0) -> Iterator[Scene]:
    """Draw scenes one after the other.

    Args:
        count: Number of scenes.
        seed: Seed of the first scene; scene i has the seed `seed + i`.
    """
    return (scene(seed + i) for i in range(count))


def _disc_layout(count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Return centres and radii in pixels of discs that do not touch each other or the border."""
    discs: list[tuple[np.ndarray, float]] = []
    while len(discs) < count:
        radius = rng.uniform(16, 24)
        centre = rng.uniform(radius + OUTLINE, SIDE - radius - OUTLINE, size=2)
        if all(np.hypot(*(centre - other)) > radius + r + 2 * OUTLINE for other, r in discs):
            discs.append((centre, radius))
        elif rng.random() < 0.02:  # restarts layouts in which the next disc does not fit
            discs.clear()
    return discs


def _draw(
    image: Float[np.ndarray, "h w 3"],
    label: int,
    centre: Float[np.ndarray, " 2"],
    radius: float,
    *,
    marked: bool,
    rng: np.random.Generator,
) -> SceneObject:
    """Draw a shape and its outline into the image."""
    body = np.zeros((SIDE, SIDE), dtype=bool)
    angle = rng.uniform(0, 2 * np.pi)
    for points, inside in SILHOUETTES[SHAPES[label]]:
        rows, columns = _transform_polygon(points, angle, radius, centre).T
        body[draw.polygon(rows, columns, body.shape)] = inside
    mask = binary_dilation(body, iterations=OUTLINE)
    image[mask] = 1.0 if marked else 0.0
    image[body] = _texture(rng)[body]
    rows, columns = np.nonzero(mask)
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    return SceneObject(label, box, mask, marked)


def _transform_polygon(points: Polygon, angle: float, radius: float, centre: Float[np.ndarray, " 2"]) -> Polygon:
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return radius * points @ rotation.T + centre


def _background(rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Return a random square of a random photograph, randomly mirrored."""
    photo = _photographs()[rng.integers(len(_photographs()))]
    side = int(rng.integers(SIDE, min(photo.shape[:2])))
    top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
    crop = transform.resize(photo[top : top + side, left : left + side], (SIDE, SIDE), anti_aliasing=True)
    return np.ascontiguousarray(crop[:, :: rng.choice([-1, 1])])


def _texture(rng: np.random.Generator) -> Float[np.ndarray, "h w 3"]:
    """Return a random crop of a grey texture in a random colour."""
    grey = _textures()[rng.integers(len(_textures()))]
    top, left = rng.integers(0, grey.shape[0] - SIDE, size=2)
    tint = color.hsv2rgb(np.array([rng.random(), rng.uniform(0.4, 1.0), rng.uniform(0.7, 1.0)]))
    return grey[top : top + SIDE, left : left + SIDE, None] * tint


@cache
def _photographs() -> tuple[np.ndarray, ...]:
    """Return the colour photographs of scikit-image with values from 0 to 1."""
    photos = (data.astronaut(), data.cat(), data.coffee(), data.rocket(), data.stereo_motorcycle()[0])
    return tuple(photo.astype(np.float64) / 255 for photo in photos)


@cache
def _textures() -> tuple[np.ndarray, ...]:
    """Return the grey textures of scikit-image, stretched to values from 0.2 to 1."""
    greys = [grey.astype(np.float64) for grey in (data.brick(), data.grass(), data.gravel())]
    return tuple(0.2 + 0.8 * (grey - grey.min()) / (grey.max() - grey.min()) for grey in greys)
