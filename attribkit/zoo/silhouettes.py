"""The outlines of the classes, as polygons inside the unit disc."""

import numpy as np
from jaxtyping import Float

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

# What to fill (True) and then to cut out (False); the order of the keys is the order of the labels.
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
