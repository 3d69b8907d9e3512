"""Feature accentuation: feature visualization that starts at an image and keeps its features at a layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attribkit import (
    Fingerprinted,
    HookedModel,
    InvalidInput,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Seed,
    Target,
)

from .ascent import Canvas, ascend, note_unchanged
from .colours import ColourSpace
from .features import FeaturePenalty
from .importance import Generated, ImportanceVisualizer
from .maco import CropSize, NonNegativeInt, check_crop_size, check_two_axes, repeated
from .magnitudes import natural_spectrum
from .phases import image_of
from .views import RandomViews

_EXAMPLE = torch.rand(3, 16, 16, dtype=torch.float32, generator=torch.Generator().manual_seed(0)) - 0.5
_DAMPING = 5.0  # initial parameter of the magnitudes, whose sigmoid is 0.993
_TOLERANCE = 1 / 255  # by which the seed's pixels may leave the range from 0 to 1


@dataclass(frozen=True, eq=False, repr=False)
class SeedImages(Fingerprinted):
    """Images that accentuation starts from, as an option: (c, h, w) or (n, c, h, w), normalised as for the model."""


@dataclass(frozen=True)
class FeatureAccentuation(ImportanceVisualizer):
    """Image near a given one for which a unit has a larger response, by gradient ascent in its Fourier spectrum.

    Maximises the response minus the penalty: the strength times the relative distance of the features at a layer from
    those of the seed image. If the final image has a smaller objective than the seed image, the seed image is returned.

    Args:
        image: Seed image, (c, h, w) or (n, c, h, w), normalised as the model expects; required.
        layer: Dotted name of the layer whose features are kept; None means the model's default layer;
            not used without regularization.
        regularization: Strength of the penalty; 1 makes its gradient as long as that of the response at the start.
        parametrisation: "phase" optimises the phases of the seed's spectrum, and factors of its magnitudes that can
            shrink them but not enlarge them by more than 0.7 %; "fourier" optimises an additional spectrum, each
            coefficient divided by its frequency to the power 1.2.
        crops: Number of random crops of the image at each step.
        crop_size: Smallest and largest side of a crop, as a fraction of the image's; (1, 1) views the whole image.
        noise: Standard deviation of the noise that is added to the crops, in units of the normalised image.
        decorrelated: Whether colours change as in natural images; for three channels only.
        steps: Number of steps; each costs three forwards and two backwards for each crop, without regularization one
            forward and one backward.
        learning_rate: Learning rate of Adam at the first step; it falls to zero along a cosine.
        seed: Seed of the crops and the noise.

    Reference:
        Hamblin et al., Feature accentuation: revealing "what" features respond to in natural images, 2024,
        arXiv:2402.10039, with the parametrisation and the penalty of the authors' library faccent.
    """

    name = "feature_accentuation"
    source = "Hamblin et al., 2024, arXiv:2402.10039"
    check_options: ClassVar[Mapping[str, Any]] = {"image": _EXAMPLE, "regularization": 0.1, "steps": 16}

    image: SeedImages | Tensor | None = None
    layer: str | None = None
    regularization: NonNegativeFloat = 1.0
    parametrisation: Literal["phase", "fourier"] = "phase"
    crops: PositiveInt = 6
    crop_size: tuple[CropSize, CropSize] = (0.25, 1.0)
    noise: NonNegativeFloat = 0.08
    decorrelated: bool = True
    steps: NonNegativeInt = 100
    learning_rate: PositiveFloat = 0.05
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_crop_size(self.crop_size)
        if isinstance(self.image, Tensor):
            object.__setattr__(self, "image", SeedImages(self.image))

    def generate(self, model: HookedModel, unit: Target, blank: Tensor) -> Generated:
        check_two_axes(self.name, blank)
        space = ColourSpace.of(model, blank.shape[1], self.decorrelated)
        seeds = self._seeds(blank, space)
        unit = repeated(unit, len(seeds) // len(blank))
        generator = torch.Generator().manual_seed(self.seed)
        views = RandomViews(self.crops, self.crop_size, self.noise, generator)
        precise = seeds.to(torch.promote_types(seeds.dtype, torch.float32))
        canvas = self._canvas(precise, space)
        penalty = self._penalty(model, seeds, precise)
        trajectory = ascend(model, unit, canvas, views, self.steps, self.learning_rate, self.name, penalty)
        note_unchanged(model, trajectory)
        images = canvas.draw().detach().to(blank.dtype)
        images, response = self._better(model, unit, seeds, images, penalty)
        return Generated(images, torch.stack([*trajectory.responses, response]), trajectory.importance)

    def _better(
        self, model: HookedModel, unit: Target, seeds: Tensor, images: Tensor, penalty: FeaturePenalty | None
    ) -> tuple[Tensor, Tensor]:
        """Return each final image, or its seed where the objective of that is larger, and the unit's responses."""
        before, after = model.score(seeds, unit), model.score(images, unit)
        worse = after - (penalty.of(images).to(after) if penalty else 0) < before
        if rejected := worse.nonzero().flatten().tolist():
            model.note(
                f"the objective of images {rejected} did not rise above that of their seed images, which are returned: "
                "use a smaller regularization, more steps or another learning_rate"
            )
        return torch.where(worse.view(-1, 1, 1, 1), seeds, images), torch.where(worse, before, after)

    def _seeds(self, blank: Tensor, space: ColourSpace) -> Tensor:
        """Return the seed images, (n, c, h, w), where n is a multiple of the number of blank images."""
        if self.image is None:
            raise InvalidInput(
                "feature_accentuation needs an image to start from, normalised as the model expects: pass image=x."
            )
        given = self.image.tensor if isinstance(self.image, SeedImages) else self.image
        images = given if given.ndim == 4 else given[None]
        if images.shape[1:] != blank.shape[1:] or (len(images) != 1 and len(images) % len(blank)) or not len(images):
            raise InvalidInput(
                f"image has shape {tuple(given.shape)}, but the generated images have shape "
                f"{tuple(blank.shape)}: pass one image, or a multiple of {len(blank)}, in this shape, or "
                f"size={tuple(images.shape[1:])} if the model accepts images of another size."
            )
        if not images.is_floating_point() or not bool(images.isfinite().all()):
            raise InvalidInput(f"image must be floating point and finite, got {images.dtype}: preprocess the image.")
        images = images.detach().to(blank).expand(max(len(images), len(blank)), *blank.shape[1:])
        low, high = space.pixels(images).aminmax()
        if space.mean is not None and (float(low) < -_TOLERANCE or float(high) > 1 + _TOLERANCE):
            raise InvalidInput(
                f"image has pixels from {float(low):.3g} to {float(high):.3g} where the model's normalisation is "
                "undone, but they must be from 0 to 1: normalise the image with the model's mean and std."
            )
        return images

    def _penalty(self, model: HookedModel, seeds: Tensor, precise: Tensor) -> FeaturePenalty | None:
        if not self.regularization:
            return None
        layer = self.layer if self.layer is not None else model.default_layer(seeds)
        return FeaturePenalty(model, layer, precise, self.regularization)

    def _canvas(self, seeds: Tensor, space: ColourSpace) -> Canvas:
        start = space.latent(seeds)
        parameters, latent = _PARAMETRISATIONS[self.parametrisation](start)
        initial = latent().detach()
        for leaf in parameters:
            leaf.requires_grad_()
        return Canvas(parameters, lambda: space.changed(seeds, latent(), initial))


Parametrisation = tuple[list[Tensor], Callable[[], Tensor]]  # parameters, and the latent images that they describe


def _by_phase(start: Tensor) -> Parametrisation:
    """Return phases and damping of the magnitudes of a latent image's spectrum."""
    spectrum = torch.fft.rfft2(start)
    magnitude, phase = spectrum.abs(), spectrum.angle()
    damping = torch.full_like(magnitude, _DAMPING)
    largest = damping.sigmoid()
    return [phase, damping], lambda: image_of(magnitude * (damping.sigmoid() / largest), phase, start.shape[-1])


def _by_spectrum(start: Tensor) -> Parametrisation:
    """Return the coefficients of an additional spectrum, each divided by its frequency to the power 1.2."""
    scale = natural_spectrum(tuple(start.shape[1:]), start)
    scale = scale.clone()
    scale[:, 0, 0] = scale.amax()
    change = torch.zeros(*start.shape[:2], *scale.shape[1:], 2, device=start.device, dtype=start.dtype)
    return [change], lambda: start + torch.fft.irfft2(torch.view_as_complex(change) * scale, s=start.shape[-2:])


_PARAMETRISATIONS = {"phase": _by_phase, "fourier": _by_spectrum}
