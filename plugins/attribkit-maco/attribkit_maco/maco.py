"""MACO: feature visualization with a magnitude spectrum that is fixed to that of real images."""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from attribkit import HookedModel, InvalidInput, NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Target

from .ascent import Canvas, ascend, note_unchanged
from .colours import ColourSpace
from .importance import Generated, ImportanceVisualizer
from .magnitudes import RealImages, natural_spectrum, spectrum_of_real_images
from .phases import image_of, uniform_phases
from .views import RandomViews

CropSize = Annotated[float, Gt(0), Le(1)]  # a fraction of each axis
NonNegativeInt = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class Maco(ImportanceVisualizer):
    """Image for which a unit has a large response, by gradient ascent on the phases of its Fourier spectrum.

    The magnitudes of the spectrum are those of real images and do not change. The spectrum is that of the latent image:
    before colours are mixed and a sigmoid bounds the pixels. The mean of each latent channel is zero.

    Args:
        spectrum: Real images whose mean magnitude spectrum is used: a tensor (n, c, h, w), normalised as the model
            expects, or the path of a folder with image files or of one file; None means magnitudes of
            1/frequency^1.2, the mean decay of natural images.
        crops: Number of random crops of the image at each step.
        crop_size: Smallest and largest side of a crop, as a fraction of the image's; (1, 1) views the whole image.
        noise: Standard deviation of the noise that is added to the crops, in units of the normalised image.
        decorrelated: Whether colours are correlated as in natural images; for three channels only.
        steps: Number of steps; each costs one forward and one backward for each crop.
        learning_rate: Learning rate of Adam in radians at the first step; it falls to zero along a cosine.
        seed: Seed of the initial phases, the crops and the noise.
        count: Number of images, each from different phases.

    Reference:
        Fel et al., Unlocking feature visualization for deeper networks with magnitude constrained optimization,
        NeurIPS 2023, eq. 3.
    """

    name = "maco"
    source = "Fel et al., NeurIPS 2023"

    spectrum: RealImages | Tensor | str | None = None
    crops: PositiveInt = 6
    crop_size: tuple[CropSize, CropSize] = (0.25, 1.0)
    noise: NonNegativeFloat = 0.08
    decorrelated: bool = True
    steps: NonNegativeInt = 256
    learning_rate: PositiveFloat = 0.5
    seed: Seed = 0
    count: PositiveInt = 1

    def __post_init__(self) -> None:
        check_crop_size(self.crop_size)
        if isinstance(self.spectrum, Tensor):
            object.__setattr__(self, "spectrum", RealImages(self.spectrum))

    def generate(self, model: HookedModel, unit: Target, blank: Tensor) -> Generated:
        check_two_axes(self.name, blank)
        unit = repeated(unit, self.count)
        generator = torch.Generator().manual_seed(self.seed)
        space = ColourSpace.of(model, blank.shape[1], self.decorrelated)
        canvas = self._canvas(blank, space, generator)
        views = RandomViews(self.crops, self.crop_size, self.noise, generator)
        trajectory = ascend(model, unit, canvas, views, self.steps, self.learning_rate, self.name)
        note_unchanged(model, trajectory)
        images = canvas.draw().detach().to(blank.dtype)
        responses = torch.stack([*trajectory.responses, model.score(images, unit)])
        return Generated(images, responses, trajectory.importance)

    def magnitude(self, blank: Tensor, space: ColourSpace) -> Tensor:
        """Return the magnitudes that all images have, with a mean of zero.

        Args:
            blank: Zeros with the shape, device and dtype of the images, (m, c, h, w).
            space: The space of the latent images.

        Returns:
            Magnitudes of the half spectrum of a latent image, (c, h, w // 2 + 1).
        """
        if self.spectrum is None:
            like = blank.new_empty(0, dtype=torch.promote_types(blank.dtype, torch.float32))
            return natural_spectrum(tuple(blank.shape[1:]), like)
        magnitude = spectrum_of_real_images(self.spectrum, blank, space).clone()
        magnitude[:, 0, 0] = 0  # the phase of the mean is a sign, which real images do not share
        return magnitude

    def _canvas(self, blank: Tensor, space: ColourSpace, generator: torch.Generator) -> Canvas:
        magnitude = self.magnitude(blank, space)
        shape = (len(blank) * self.count, *magnitude.shape)
        phase = uniform_phases(shape, generator).to(magnitude).requires_grad_()
        return Canvas([phase], lambda: space.images(image_of(magnitude, phase, blank.shape[-1])))


def check_crop_size(sizes: tuple[float, float]) -> None:
    """Check that the smallest size of crops is not above the largest one."""
    if sizes[0] > sizes[1]:
        raise InvalidInput(f"crop_size must be (smallest, largest), got {sizes!r}: swap the two numbers.")


def check_two_axes(name: str, blank: Tensor) -> None:
    """Check that the images have two spatial axes."""
    if blank.ndim != 4:
        raise InvalidInput(
            f"{name} makes images of shape (c, h, w), but the model expects {tuple(blank.shape[1:])}: use "
            "activation_maximization for clips and volumes."
        )


def repeated(unit: Target, times: int) -> Target:
    """Return the target for several images of each class."""
    tiled = unit if times == 1 else unit.tile(times)
    if tiled is None:
        raise InvalidInput(
            f"{unit!r} depends on particular images and cannot be repeated for {times} images: generate one image at a "
            "time."
        )
    return tiled
