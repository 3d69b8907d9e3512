"""How far a map moves when the image moves a little."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from attribkit.core.attribution import Attribution
from attribkit.core.metric import Robustness
from attribkit.core.model import HookedModel
from attribkit.core.progress import tracked
from attribkit.core.shapes import Images
from attribkit.metrics.asked_again import asked_again

Noise = Callable[[tuple[int, ...], torch.Generator], Tensor]  # for a shape, on the CPU
Moves = Float[Tensor, "samples b 2"]  # lengths, in float64: by how much the heatmaps differ, and the images


def moves(
    metric: Robustness, model: HookedModel, attribution: Attribution, noise: Noise, samples: int, seed: int
) -> Moves:
    """How far the heatmaps of noisy images are from those of the images, and the images from each other.

    The noise is the same for every image.
    """
    own, x = metric.heatmap(attribution), attribution.x
    found = []
    for noisy in _noisy(x, noise, samples, seed):
        again = asked_again(metric, model, attribution, x=noisy)
        found.append(torch.stack([lengths(again - own), lengths(noisy - x)], 1))
    return torch.stack(found)


def uniform_moves(
    metric: Robustness, model: HookedModel, attribution: Attribution, radius: float, samples: int, seed: int
) -> Moves:
    """The moves under noise that is uniform up to the radius; asked once for all metrics that read the same."""

    def noise(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        return (2 * torch.rand(shape, generator=random, dtype=torch.float32, device="cpu") - 1) * radius

    key = ("uniform moves", attribution, metric.reduce, radius, samples, seed)
    return model.remembered(key, lambda: moves(metric, model, attribution, noise, samples, seed))


def lengths(maps: Tensor) -> Float[Tensor, " b"]:
    """The Euclidean norm of each image's values, in float64."""
    return maps.flatten(1).double().norm(dim=1)


def _noisy(x: Images, noise: Noise, samples: int, seed: int) -> Iterator[Images]:
    random = torch.Generator().manual_seed(seed)
    for _ in tracked(range(samples), "noisy images", samples):
        yield x + noise((1, *x.shape[1:]), random).to(x)
