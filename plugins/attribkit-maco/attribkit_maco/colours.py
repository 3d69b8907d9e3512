"""The space in which images are generated: decorrelated colours, before the sigmoid that bounds the pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attribkit import HookedModel

# Principal components of the RGB values of ImageNet's training pixels, 0 to 1: the statistics behind the colour
# augmentation of Krizhevsky et al., NeurIPS 2012, sec. 4.1, in the numbers of fb.resnet.torch (2016). Columns:
# lightness, blue against yellow, green against red and blue.
_VARIANCES = (0.2175, 0.0188, 0.0045)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))

_MARGIN = 1 / 512  # pixels are clamped by it before the inverse sigmoid; less than half of an 8-bit level


@dataclass(frozen=True)
class ColourSpace:
    """Invertible map between normalised images and latent images, which are optimised in its place.

    A latent image is mixed to correlated colours, mapped to pixels from 0 to 1 by a sigmoid, and normalised.

    Args:
        mean: Mean of the training images for each channel; None means that pixels are not bounded.
        std: Standard deviation of the training images for each channel.
        decorrelated: Whether the three latent channels are independent components of natural colours.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    decorrelated: bool

    @classmethod
    def of(cls, model: HookedModel, channels: int, decorrelated: bool) -> "ColourSpace":
        """Return the space for images of a model, with notes on what is not available for it."""
        if decorrelated and channels != 3:
            model.note(f"decorrelated=True needs 3 channels and is ignored for {channels}")
        mean, std = model.spec.normalisation(channels) or (None, None)
        if mean is None:
            model.note("the model's mean and std are unknown: the pixel values are not bounded")
        return cls(mean, std, decorrelated and channels == 3)

    def images(self, latent: Tensor) -> Tensor:
        """Return normalised images, (n, c, h, w)."""
        mixed = self._mixed(latent, _mixing(latent)) if self.decorrelated else latent
        return mixed if self.mean is None else self.normalised(mixed.sigmoid())

    def latent(self, images: Tensor) -> Tensor:
        """Return the latent images, (n, c, h, w), of normalised images; pixels are clamped to 1/512 and 511/512."""
        mixed = images if self.mean is None else self.pixels(images).clamp(_MARGIN, 1 - _MARGIN).logit()
        return self._mixed(mixed, torch.linalg.inv(_mixing(mixed))) if self.decorrelated else mixed

    def pixels(self, images: Tensor) -> Tensor:
        """Return images with the normalisation undone."""
        return (
            images if self.mean is None else images * _per_channel(self.std, images) + _per_channel(self.mean, images)
        )

    def normalised(self, pixels: Tensor) -> Tensor:
        """Return pixels with the normalisation applied."""
        if self.mean is None:
            return pixels
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def changed(self, images: Tensor, latent: Tensor, start: Tensor) -> Tensor:
        """Return images plus the change that a change of their latent images makes; pixels stay from 0 to 1.

        Without a change of the latent images the result is exactly equal to the images.
        """
        if self.mean is None:
            return images + (self.images(latent) - self.images(start))
        pixels = self.pixels(images).clamp(0, 1)
        change = self.pixels(self.images(latent)) - self.pixels(self.images(start))
        return images + ((pixels + change).clamp(0, 1) - pixels) / _per_channel(self.std, images)

    @staticmethod
    def _mixed(latent: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("rc,nchw->nrhw", matrix, latent)


def _mixing(like: Tensor) -> Tensor:
    """Return the matrix that mixes independent channels of variance 1 to red, green and blue of mean variance 1."""
    mixing = like.new_tensor(_COMPONENTS) * like.new_tensor(_VARIANCES).sqrt()
    return mixing / mixing.square().sum().div(3).sqrt()


def _per_channel(numbers: tuple[float, ...] | None, like: Tensor) -> Tensor:
    return like.new_tensor(numbers).view(-1, 1, 1)
