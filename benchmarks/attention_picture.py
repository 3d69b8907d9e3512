"""Draw the picture of docs/attention.md: where the heads of the embedded ViT look, from one place of a scene.

python benchmarks/attention_picture.py
"""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from attribkit import Explainer, load_model, zoo
from attribkit.contracts.attribution import resize_map
from attribkit.figures import Cell, grid

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "attention.jpg"
SCENE, LAYERS = 1, (0, 1, -1)  # one of the generated scenes; the first two layers and the last


def main() -> None:
    loaded = load_model("zoo:vit")
    scene = list(zoo.scenes(SCENE + 1))[SCENE]
    x = loaded.preprocessing(Image.fromarray(scene.image))[None]
    layers = Explainer(loaded.model).attention(x)
    mask = torch.from_numpy(scene.target.mask.copy()).float()
    query = on_the_shape(mask, layers[0].queries.grid)
    rows = []
    for layer in (layers[number] for number in LAYERS):
        maps = torch.cat([layer.of(query)[0], layer.of(0)[0]])  # of the place, and of the class token
        heads = resize_map(maps[:, None], mask.shape)[:, 0]
        asking = torch.zeros(layer.queries.grid)
        asking[query] = 1
        place = torch.nn.functional.interpolate(asking[None, None], mask.shape)[0, 0]
        rows.append([Cell(scene.image, place), *(Cell(scene.image, each) for each in heads)])
    heads = [f"head {i}" for i in range(layers[0].windows.shape[2])]
    titles = ["query", *heads, *(f"class token, {head}" for head in heads)]
    figure = grid(rows, row_titles=[layers[number].name for number in LAYERS], column_titles=titles)
    figure.savefig(PICTURE, dpi=120)


def on_the_shape(mask: Tensor, cells: tuple[int, ...]) -> tuple[int, ...]:
    """The cell of the grid that holds most of the shape."""
    share = torch.nn.functional.adaptive_avg_pool2d(mask[None], cells)[0]
    return tuple(int(index) for index in torch.unravel_index(share.argmax(), cells))


if __name__ == "__main__":
    main()
