"""Draw the picture of docs/inspection.md: three layers of the embedded CNN, on one scene.

python benchmarks/inspection_picture.py
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from attribkit import load_model, zoo
from attribkit.cli._inspect_files import inspect_layer

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "inspection.jpg"
LAYERS = ("conv1", "layer2.0.conv1", "layer4.0.conv2")


def main() -> None:
    photograph = Image.fromarray(zoo.scene(0).image)
    rows = [rendered(inspect_layer(load_model("zoo:cnn"), layer, photograph).figure) for layer in LAYERS]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(PICTURE, quality=88)


def rendered(figure: Figure) -> np.ndarray:
    file = BytesIO()
    figure.savefig(file, dpi=120)
    return np.asarray(Image.open(file).convert("RGB"))


if __name__ == "__main__":
    main()
