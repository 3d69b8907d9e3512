"""Draw the picture of docs/methods/attention_gates.md: the embedded CNN with CBAM added, on three scenes.

python benchmarks/gates_picture.py    # a few minutes on one core
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from fitting import fit
from PIL import Image
from torch import Tensor, nn
from train_zoo import HELD_OUT_SEED, TRAINING_SEED, accuracy, draw, normalised

from attribkit import Explainer, load_model, zoo
from attribkit.figures import Cell, grid

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "methods" / "attention_gates.jpg"
SCENES, STEPS, IMAGES = 3, 250, 64
MAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "layer2": ("attention_gates", {"gate": "layer2.0.se.spatial"}),
    "layer3": ("attention_gates", {"gate": "layer3.0.se.spatial"}),
    "layer4": ("attention_gates", {"gate": "layer4.0.se.spatial"}),
    "mean": ("attention_gates", {}),
    "gradcam": ("gradcam", {}),
}


def main() -> None:
    model = with_cbam()
    training = batches(*draw(6_000, TRAINING_SEED))
    fit(model, training, STEPS, learning_rate=2e-3, weight_decay=0.02, smoothing=0.05)
    print(f"{accuracy(model, *draw(500, HELD_OUT_SEED)):.1%} of 500 held-out scenes")
    scenes = list(zoo.scenes(SCENES))
    preprocessing = load_model("zoo:cnn").preprocessing
    x = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes])
    explainer = Explainer(model)
    rows = [[Cell(scene.image) for scene in scenes]]
    for method, options in MAPS.values():
        heatmaps = explainer.attribute(x, method, **options).heatmap()
        masks = [torch.from_numpy(np.asarray(scene.target.mask)).float() for scene in scenes]
        rows.append([Cell(s.image, h, m) for s, h, m in zip(scenes, heatmaps, masks, strict=True)])
    grid(rows, row_titles=["scene", *MAPS]).savefig(PICTURE, dpi=120)


def with_cbam() -> nn.Module:
    """Return the embedded CNN, with its weights, and CBAM (Woo et al., ECCV 2018) at the end of each block's branch."""
    torch.manual_seed(0)
    blocks: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128), "output_stride": 16}
    model = timm.create_model("resnet18", **blocks, num_classes=len(zoo.SHAPES), block_args={"attn_layer": "cbam"})
    model.load_state_dict(zoo.load_zoo_model("cnn").state_dict(), strict=False)
    return model


def batches(pictures: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        chosen = torch.randint(len(labels), (IMAGES,))
        yield normalised(pictures[chosen]), labels[chosen]


if __name__ == "__main__":
    main()
