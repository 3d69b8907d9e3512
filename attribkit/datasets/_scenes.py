"""Generated scenes with exact masks, and mosaics for the grid pointing game."""

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
from attribkit._contracts.dataset import Dataset, ImageSource, Mask, MaskSource, Sample
from attribkit._core.errors import InvalidInput
from attribkit.datasets._geometry import Prepared


@dataclass(frozen=True)
class Scenes(Dataset):
    """Generated scenes with exact masks and the classes of the zoo's models; no file is needed.

    Args:
        count: Number of scenes.
        seed: Seed of the first scene; scene i has the seed `seed + i`.
    """

    name: ClassVar[str] = "scenes"
    source: ClassVar[str] = "attribkit, generated"

    count: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InvalidInput(f"count must be a positive integer, got {self.count}.")
        if self.seed < 0:
            raise InvalidInput(f"seed must be 0 or more, got {self.seed}.")

    def read(self) -> Iterator[Sample]:
        for seed in range(self.seed, self.seed + self.count):
            target = _scene(seed).target
            yield Sample(
                id=f"scene {seed}",
                group=f"scene {seed}",
                image_source=_SceneImage(seed),
                label=target.label,
                boxes=np.array([target.box], dtype=np.float64),
                mask_source=_SceneMask(seed),
                category=zoo.SHAPES[target.label],
            )


@dataclass(frozen=True)
class _SceneImage(ImageSource):
    seed: int

    def read(self) -> Image.Image:
        return Image.fromarray(_scene(self.seed).image)

    def stamp(self) -> str:
        return f"scene {self.seed} drawn by scikit-image {version('scikit-image')}, numpy {np.__version__}"


@dataclass(frozen=True)
class _SceneMask(MaskSource):
    seed: int

    def read(self) -> Mask:
        return _scene(self.seed).target.mask

    def stamp(self) -> str:
        return f"target of scene {self.seed}"


@lru_cache(maxsize=1)  # the image and the mask of a sample are read one after the other
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
    """Generate the data of the grid pointing game: mosaics of images of distinct classes.

    The model must accept images that are `cells` times as large. The score of the game is the fraction of the positive
    part of a map that is in the mask, which the metric `relevance_mass` computes; a uniform map has 1 / cells².

    Args:
        images: Prepared images of one size.
        probabilities: The model's class probabilities of each image, (b, classes).
        cells: Number of grid cells along a side of a mosaic.
        least: Minimum probability of the class of an image, which is its label, or the predicted class if it does not
            have a label. Images below it are not used.
        count: Number of mosaics.
        seed: Seed of the random choice; mosaic i of a seed does not depend on `count`.

    Returns:
        For each mosaic one sample per grid cell, with the cell as its mask and the class of the cell as its label.

    Raises:
        InvalidInput: If the images differ in size, or there are fewer usable classes than grid cells.

    Reference:
        Rao et al., "Towards Better Understanding Attribution Methods", CVPR 2022.
    """
    if len(images) != len(probabilities) or len({each.x.shape for each in images}) > 1:
        raise InvalidInput(
            f"grid_mosaics needs images of one size and a row of probabilities for each, got {len(images)} images of "
            f"{sorted({tuple(each.x.shape) for each in images})} and {len(probabilities)} rows."
        )
    by_class = _confident_images(images, probabilities, least)
    if cells < 1 or count < 1 or len(by_class) < cells**2:
        raise InvalidInput(
            f"{count} mosaics of {cells}x{cells} cells cannot be created: count must be at least 1, and at least "
            f"{cells**2} classes must have an image of probability {least} or more, got {len(by_class)}: pass more "
            "images, smaller mosaics or a lower `least`."
        )
    mosaics = (_choose_images(images, by_class, cells, (seed, number)) for number in range(count))
    return (sample for number, chosen in enumerate(mosaics) for sample in _mosaic_samples(chosen, cells, number))


def _confident_images(
    images: Sequence[Prepared], probabilities: Float[Tensor, "b classes"], least: float
) -> dict[int, list[int]]:
    """Return the indices of the images whose class has at least this probability, by class."""
    by_class: dict[int, list[int]] = {}
    predictions = probabilities.argmax(1).tolist()
    labels = [guess if each.label is None else each.label for each, guess in zip(images, predictions, strict=True)]
    rows = torch.arange(len(labels), device=probabilities.device)
    confident = probabilities[rows, torch.tensor(labels, device=rows.device)] >= least
    for i in confident.nonzero().flatten().tolist():
        by_class.setdefault(labels[i], []).append(i)
    return by_class


def _choose_images(
    images: Sequence[Prepared], by_class: dict[int, list[int]], cells: int, seed: tuple[int, int]
) -> list[tuple[int, Prepared]]:
    """Choose a class and an image of it for each grid cell."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(sorted(by_class))[: cells**2].tolist()
    return [(label, images[int(rng.choice(by_class[label]))]) for label in classes]


def _mosaic_samples(chosen: list[tuple[int, Prepared]], cells: int, number: int) -> Iterator[Prepared]:
    """Generate the samples of a mosaic, one for each grid cell."""
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
