"""Draw the picture of docs/attention.md: the attention of the heads of the embedded ViT, for one query of a scene.

python benchmarks/attention_picture.py
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from attribkit import Explainer, load_model, zoo
from attribkit._contracts.attribution import resize_map
from attribkit.figures import Cell, grid

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "attention.jpg"
SCENE, LAYERS = 1, (0, 1, -1)  # one of the generated scenes; the first two layers and the last


def main() -> None:
    loaded = load_model("zoo:vit")
    scene = list(zoo.scenes(SCENE + 1))[SCENE]
    x = loaded.preprocessing(Image.fromarray(scene.image))[None]
    layers = Explainer(loaded.model).attention(x)
    mask = torch.from_numpy(scene.target.mask.copy()).float()
    query = cell_on_shape(mask, layers[0].queries.grid)
    rows = []
    for layer in (layers[number] for number in LAYERS):
        maps = torch.cat(
            [layer.attention_from(query)[0], layer.attention_from(0)[0]]
        )  # of the query cell, and of the class token
        overlays = resize_map(maps[:, None], mask.shape)[:, 0]
        marked = torch.zeros(layer.queries.grid)
        marked[query] = 1
        query_map = torch.nn.functional.interpolate(marked[None, None], mask.shape)[0, 0]
        rows.append([Cell(scene.image, query_map), *(Cell(scene.image, overlay) for overlay in overlays)])
    heads = [f"head {i}" for i in range(layers[0].windows.shape[2])]
    titles = ["query", *heads, *(f"class token, {head}" for head in heads)]
    figure = grid(rows, row_titles=[layers[number].name for number in LAYERS], column_titles=titles)
    figure.savefig(PICTURE, dpi=120)


def cell_on_shape(mask: Tensor, grid_size: tuple[int, ...]) -> tuple[int, ...]:
    """Return the grid cell that the largest fraction of the shape covers."""
    rows, columns = grid_size
    fractions = torch.nn.functional.adaptive_avg_pool2d(mask[None], (rows, columns))[0]
    return tuple(int(index) for index in torch.unravel_index(fractions.argmax(), grid_size))


if __name__ == "__main__":
    main()
