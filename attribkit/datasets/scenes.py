"""The zoo's scenes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import ClassVar

import numpy as np
from PIL import Image

from attribkit import zoo
from attribkit.core.errors import InvalidInput
from attribkit.datasets.dataset import Dataset
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
