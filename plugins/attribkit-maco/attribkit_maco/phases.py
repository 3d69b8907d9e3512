"""Images by the magnitude and the phase of their Fourier spectrum."""

import math

import torch
from torch import Tensor


def image_of(magnitude: Tensor, phase: Tensor, width: int) -> Tensor:
    """Return the real image whose half spectrum has exactly these magnitudes, and these phases where they are free.

    The spectrum of a real image is symmetric: in the first column, and in the last one of an even width, the
    coefficients of opposite rows are conjugates, and up to four coefficients are their own mirror images and therefore
    real. The phases of the lower rows of these columns are ignored. A real coefficient has the sign of the cosine of
    its phase, whose derivative replaces that of the sign.

    Args:
        magnitude: Magnitudes of the half spectrum as of `torch.fft.rfft2`, (..., h, w // 2 + 1).
        phase: Phases in radians, (..., h, w // 2 + 1).
        width: w.

    Returns:
        Images, (..., h, w).
    """
    height = phase.shape[-2]
    mirrored, real = symmetries(height, width, phase.device)
    opposite = -torch.arange(height, device=phase.device) % height
    phase = torch.where(mirrored, -phase[..., opposite, :], phase)
    cosine, sine = phase.cos(), phase.sin()
    sign = torch.where(cosine.detach() < 0, -1, 1).to(cosine)
    spectrum = torch.complex(
        magnitude * torch.where(real, sign + cosine - cosine.detach(), cosine),
        magnitude * sine.masked_fill(real, 0),
    )
    return torch.fft.irfft2(spectrum, s=(height, width))


def symmetries(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which coefficients of a half spectrum are conjugates of earlier rows, and which are real.

    Args:
        height: h.
        width: w.
        device: Device of the results.

    Returns:
        Two bool tensors, (h, w // 2 + 1).
    """
    row = torch.arange(height, device=device)[:, None]
    column = torch.arange(width // 2 + 1, device=device)
    is_own_column = 2 * column % width == 0  # frequencies 0 and w / 2
    return is_own_column & (2 * row > height), is_own_column & (2 * row % height == 0)


def uniform_phases(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw phases from -pi to pi on the CPU, so that they do not depend on the device."""
    return (2 * torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") - 1) * math.pi
