"""[datasets/scenes] The zoo's scenes.
[datasets/grid_mosaics] The data of the grid pointing game.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from attribkit import zoo
from attribkit.core.errors import InvalidInput
from attribkit.datasets.dataset import Dataset
from attribkit.datasets.geometry import Prepared
from attribkit.datasets.sample import ImageSource, Mask, MaskSource, Sample


@dataclass(frozen=True)
class _DrawnImage(ImageSource):
    seed: int

    def read(self) -> Image.Image:
        return Image.fromarray(_scene(self.seed).image)

    def stamp(self) -> str:
        return f"scene {self.seed} drawn by scikit-image {version('scikit-image')}, numpy {np.__version__}"


@dataclass(frozen=True)
class _DrawnMask(MaskSource):
    seed: int

    def read(self) -> Mask:
        return _scene(self.seed).target.mask

    def stamp(self) -> str:
        return f"target of scene {self.seed}"


@dataclass(frozen=True)
class Scenes(Dataset):
    """Drawn scenes whose truth is exact, with the classes of the zoo's models; needs no file."""

    kind: ClassVar[str] = "scenes"

    count: int = 100
    seed: int = 0  # scene i is that of seed + i

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise InvalidInput(f"count={self.count} must be a number from 1, seed={self.seed} one from 0.")

    def read(self) -> Iterator[Sample]:
        for seed in range(self.seed, self.seed + self.count):
            target = _scene(seed).target
            yield Sample(
                id=f"scene {seed}",
                group=f"scene {seed}",
                image_source=_DrawnImage(seed),
                label=target.label,
                boxes=np.array([target.box], dtype=np.float64),
                mask_source=_DrawnMask(seed),
                category=zoo.SHAPES[target.label],
            )


@lru_cache(maxsize=1)  # its image and its mask are asked for one after the other
def _scene(seed: int) -> zoo.Scene:
    return zoo.scene(seed)


def grid_mosaics(
    images: Sequence[Prepared],
    probabilities: Float[Tensor, "b classes"],
    *,
    cells: int = 3,
    least: float = 0.99,
    count: int = 500,
    seed: int = 0,
) -> Iterator[Prepared]:
    """Mosaics of images of distinct classes, for models that take images of any size (Rao et al., CVPR 2022).

    images: of one size. probabilities: of the model's classes for each. cells: along a side. least: probability of an
    image's class, its label or else the predicted one; others are left out. Gives count mosaics, each once for each of
    its cells: the cell is the mask and its class the label. The share of the positive part of a map that lies on the
    mask, `relevance_mass`, is the game's score; a map that is the same everywhere has 1 / cells².
    """
    if len(images) != len(probabilities) or len({each.x.shape for each in images}) > 1:
        raise InvalidInput(
            f"Mosaics are made of images of one size with a row of probabilities each, got {len(images)} images of "
            f"{sorted({tuple(each.x.shape) for each in images})} and {len(probabilities)} rows."
        )
    by_class = _sure(images, probabilities, least)
    if cells < 1 or count < 1 or len(by_class) < cells**2:
        raise InvalidInput(
            f"{count} mosaics of {cells}x{cells} need as many classes with an image of probability {least} and more, "
            f"got {len(by_class)}: give more images, smaller mosaics or a lower `least`."
        )
    mosaics = (_drawn(images, by_class, cells, (seed, number)) for number in range(count))
    return (question for number, chosen in enumerate(mosaics) for question in _questions(chosen, cells, number))


def _sure(images: Sequence[Prepared], probabilities: Float[Tensor, "b classes"], least: float) -> dict[int, list[int]]:
    """The images that the model is sure of, by class."""
    by_class: dict[int, list[int]] = {}
    predicted = probabilities.argmax(1).tolist()
    wanted = [guess if each.label is None else each.label for each, guess in zip(images, predicted, strict=True)]
    rows = torch.arange(len(wanted), device=probabilities.device)
    sure = probabilities[rows, torch.tensor(wanted, device=rows.device)] >= least
    for place in sure.nonzero().flatten().tolist():
        by_class.setdefault(wanted[place], []).append(place)
    return by_class


def _drawn(
    images: Sequence[Prepared], by_class: dict[int, list[int]], cells: int, seed: tuple[int, int]
) -> list[tuple[int, Prepared]]:
    """A class and an image of it for each cell; mosaic i of a seed is the same whatever the count."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(sorted(by_class))[: cells**2].tolist()
    return [(label, images[int(rng.choice(by_class[label]))]) for label in chosen]


def _questions(chosen: list[tuple[int, Prepared]], cells: int, number: int) -> Iterator[Prepared]:
    """The mosaic, once for each cell."""
    rows = [torch.cat([each.x for _, each in chosen[start : start + cells]], 2) for start in range(0, cells**2, cells)]
    x = torch.cat(rows, 1)
    height, width = chosen[0][1].x.shape[1:]
    for cell, (label, image) in enumerate(chosen):
        row, column = divmod(cell, cells)
        mask = torch.zeros(x.shape[1:], dtype=torch.bool, device=x.device)
        mask[row * height : (row + 1) * height, column * width : (column + 1) * width] = True
        yield Prepared(
            id=f"mosaic {number} cell {cell}",
            group=f"mosaic {number}",
            x=x,
            mask=mask,
            boxes=None,
            pixel=image.pixel,
            label=label,
            category=None,
            subsets=frozenset(),
        )
