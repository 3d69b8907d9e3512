r"""
A clip: where and when
======================

**Question**: which pixels of which frames decide the class of a clip?

A small 3D network learns the direction in which a disc moves past a still one. It is trained here, in seconds, on generated clips.
"""

import numpy as np
import torch
from torch import nn
from attribkit import Explainer
from attribkit.figures import frames

FRAMES, SIDE = 8, 32
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # right, left, down, up
rows, columns = np.mgrid[:SIDE, :SIDE]


def clip(random):
    """A clip (1, t, h, w) of a moving and a still disc, and the direction of the first."""
    direction = int(random.integers(4))
    step, middle = np.array(DIRECTIONS[direction]), random.uniform(13, 19, 2)
    still = middle + random.choice((-10, 10)) * step[::-1] + random.uniform(-2, 2, 2)
    frames = random.normal(0, 0.1, (FRAMES, SIDE, SIDE))
    for t in range(FRAMES):
        for centre in (still, middle + 2.0 * (t - FRAMES / 2) * step):
            frames[t][(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 10] += 2
    return torch.tensor(frames, dtype=torch.float32)[None], direction


def batch(random, count):
    clips, labels = zip(*(clip(random) for _ in range(count)))
    return torch.stack(clips), torch.tensor(labels)


model = nn.Sequential(
    nn.Conv3d(1, 12, 3, (1, 2, 2), 1), nn.BatchNorm3d(12), nn.ReLU(),
    nn.Conv3d(12, 24, 3, (1, 2, 2), 1), nn.BatchNorm3d(24), nn.ReLU(),
    nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 4),
)
random = np.random.default_rng(0)
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
for step in range(120):
    x, labels = batch(random, 32)
    loss = nn.functional.cross_entropy(model(x), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
model.eval()

x, labels = batch(np.random.default_rng(1), 200)
print(f"accuracy on 200 new clips: {(model(x).argmax(1) == labels).float().mean():.0%}")

# %%
# The same calls as for images; a clip is ``(b, c, t, h, w)``.

explainer = Explainer(model)
maps = [
    explainer.attribute(x[:1], "gradcam"),
    explainer.attribute(x[:1], "integrated_gradients"),
    explainer.attribute(x[:1], "occlusion", patch=(2, 8, 8), stride=(1, 4, 4)),
]
frames(maps, frames=8)

# %%
# **What to see**: one disc moves, the other stands still. All maps follow the moving disc from frame to frame; the still one is as
# bright in the clip, but it says nothing about the direction. All frames of a map share one scale, so frames can be compared.
