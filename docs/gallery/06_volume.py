r"""
A volume: slices through a map
==============================

**Question**: which voxels of a volume decide the class?

A small 3D network learns whether a ball in a body is hollow or solid; three small solid balls are distractors, as vessels are in a scan.
"""

import numpy as np
import torch
from torch import nn
from attribkit import Explainer
from attribkit.figures import frames

SHAPE = (16, 32, 32)  # depth, height, width
positions = np.moveaxis(np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]], 0, -1).astype(float)
inside = (((positions - np.array(SHAPE) / 2) / (np.array(SHAPE) * 0.48)) ** 2).sum(-1) < 1


def volume(random):
    """A volume (1, d, h, w), the class (1 is hollow), and the mask of the ball."""
    hollow = int(random.integers(2))
    values = 0.3 * inside + random.normal(0, 0.05, SHAPE)
    distance = np.linalg.norm(positions - random.uniform((6, 10, 10), (10, 22, 22)), axis=-1)
    values[(distance < 5) & ~((distance < 3) & bool(hollow))] += 0.5
    for _ in range(3):
        values[np.linalg.norm(positions - random.uniform((4, 8, 8), (12, 24, 24)), axis=-1) < 1.5] += 0.5
    return torch.tensor(values, dtype=torch.float32)[None] * 4 - 1, hollow, torch.tensor(distance < 5)


def batch(random, count):
    volumes, labels, masks = zip(*(volume(random) for _ in range(count)))
    return torch.stack(volumes), torch.tensor(labels), torch.stack(masks)


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv3d(1, 12, 3, 2, 1), nn.BatchNorm3d(12), nn.ReLU(),
    nn.Conv3d(12, 24, 3, (1, 2, 2), 1), nn.BatchNorm3d(24), nn.ReLU(),
    nn.Conv3d(24, 24, 3, 1, 1), nn.BatchNorm3d(24), nn.ReLU(),
    nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 2),
)
random = np.random.default_rng(0)
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for step in range(150):
    x, labels, _ = batch(random, 16)
    loss = nn.functional.cross_entropy(model(x), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

x, labels, masks = batch(np.random.default_rng(1), 100)
print(f"accuracy on 100 new volumes: {(model(x).argmax(1) == labels).float().mean():.0%}")

# %%
# LayerCAM of one volume with a hollow ball, and how much of the map is on the ball in all of them:

explainer = Explainer(model)
hollow = int((labels == 1).nonzero()[0])
attribution = explainer.attribute(x[hollow : hollow + 1], "layercam", target=1)
frames(attribution, frames=8)

# %%
#

maps = [explainer.attribute(x, method, target=labels.tolist()) for method in ("layercam", "random")]
(mass,) = explainer.measure(maps, ["relevance_mass"], mask=masks)
print({name: f"{each.nanmean():.2f}" for name, each in zip(("layercam", "random"), mass.values)})

# %%
# **What to see**: the numbers above are those of the slices. The map is on the ball and not on the distractors, although these are
# equally bright. The fraction of the positive scores on the ball is several times that of a random map, which equals the ball's
# fraction of the volume.
