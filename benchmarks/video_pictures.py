"""Draw the pictures of docs/video_and_volumes.md: small models trained on generated clips and volumes.

python benchmarks/video_pictures.py    # a few minutes on one core
"""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitting import fit
from matplotlib.figure import Figure
from numpy.random import Generator
from PIL import Image
from torch import Tensor, nn

from attribkit import Explainer
from attribkit.figures import frames, mosaic

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "space"
STEPS, BATCH = 250, 32
CLIP, VOLUME = (12, 48, 48), (24, 48, 48)
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # right, left, down, up
METHODS = ("gradcam", "guided_backprop", "occlusion")
Drawn = tuple[np.ndarray, int]  # values 0 to 1, and the class


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    explainer, x = trained(clip, len(DIRECTIONS))
    options: dict[str, dict[str, Any]] = {"occlusion": {"patch": (3, 12, 12), "stride": (1, 4, 4)}}
    save(frames([explainer.attribute(x[:1], each, **options.get(each, {})) for each in METHODS], frames=6), "clip.jpg")
    explainer, x = trained(volume, 2)
    save(mosaic(explainer.attribute(x[:1], "layercam"), slices=8, columns=4), "volume.jpg")


def clip(random: Generator) -> Drawn:
    """Draw two discs, one of which moves past the other; the class is the direction."""
    direction = int(random.integers(len(DIRECTIONS)))
    middle = random.uniform(19, 29, 2)
    still = middle + random.choice((-14, 14)) * np.array(DIRECTIONS[direction][::-1]) + random.uniform(-4, 4, 2)
    down, right = np.mgrid[: CLIP[1], : CLIP[2]]
    frames = np.zeros(CLIP)
    for t, frame in enumerate(frames):
        for centre in (still, middle + 2.0 * (t - CLIP[0] / 2) * np.array(DIRECTIONS[direction])):
            frame[(down - centre[0]) ** 2 + (right - centre[1]) ** 2 < 16] = 1
    return 0.2 + 0.6 * frames + random.normal(0, 0.03, CLIP), direction


def volume(random: Generator) -> Drawn:
    """Draw a solid or a hollow ball among small solid ones in a large body; the class is 1 for a hollow ball."""
    hollow = int(random.integers(2))
    positions = np.moveaxis(np.mgrid[: VOLUME[0], : VOLUME[1], : VOLUME[2]], 0, -1).astype(float)
    body = (((positions - np.array(VOLUME) / 2) / (np.array(VOLUME) * 0.45)) ** 2).sum(-1) < 1
    values = 0.1 + 0.3 * body
    distance = np.linalg.norm(positions - random.uniform((8, 14, 14), (16, 34, 34)), axis=-1)
    values[(distance < 6) & ~((distance < 4) & bool(hollow))] = 0.8
    for _ in range(3):
        values[np.linalg.norm(positions - random.uniform((6, 12, 12), (18, 36, 36)), axis=-1) < 2] = 0.8
    return values + random.normal(0, 0.05, VOLUME), hollow


def trained(draw: Callable[[Generator], Drawn], classes: int) -> tuple[Explainer, Tensor]:
    """Train a small model; return its explainer and held-out examples that it classifies correctly."""
    torch.manual_seed(0)
    random, stride = np.random.default_rng(0), 2 if draw is volume else (1, 2, 2)
    model = nn.Sequential(
        *(nn.Conv3d(1, 12, 3, stride, 1, bias=False), nn.BatchNorm3d(12), nn.ReLU()),
        *(nn.Conv3d(12, 24, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(24), nn.ReLU()),
        *(nn.Conv3d(24, 32, 3, 1, 1, bias=False), nn.BatchNorm3d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, classes)),
    )
    fit(model, (batch(draw, random) for _ in range(STEPS)), STEPS, learning_rate=5e-3)
    x, labels = batch(draw, np.random.default_rng(1), 100)
    right = model(x).argmax(1) == labels
    print(f"{draw.__name__}: {right.float().mean():.0%} of 100 held-out examples", flush=True)
    return Explainer(model), x[right]


def batch(draw: Callable[[Generator], Drawn], random: Generator, count: int = BATCH) -> tuple[Tensor, Tensor]:
    drawn = [draw(random) for _ in range(count)]
    values = torch.tensor(np.stack([each for each, _ in drawn]), dtype=torch.float32)[:, None]
    return (values - 0.3) / 0.2, torch.tensor([label for _, label in drawn])


def save(figure: Figure, name: str) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    Image.open(buffer).convert("RGB").save(PICTURES / name, quality=75, optimize=True)


if __name__ == "__main__":
    main()
