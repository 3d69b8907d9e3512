"""Draw the picture of every visualizer's page in docs/visualizers: classes and channels of both embedded models.

python benchmarks/visualizer_pictures.py
"""

from pathlib import Path

from attribkit import Explainer, Unit, load_model, registry, zoo
from attribkit.figures import Cell, grid

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "visualizers"
CLASSES = ["circle", "ring", "cross", "heart", "crescent"]
LAYERS = {"cnn": "layer3", "vit": "blocks.1"}  # a middle layer of each model
CHANNELS = range(len(CLASSES))


def main() -> None:
    explainers = {name: Explainer(load_model(f"zoo:{name}").model) for name in zoo.ARCHITECTURES}
    for name, cls in registry.visualizers().items():
        if registry.plugin_of(cls).distribution == "attribkit":
            draw(name, explainers)


def draw(visualizer: str, explainers: dict[str, Explainer]) -> None:
    rows, titles = [], []
    for model, explainer in explainers.items():
        layer = LAYERS[model]
        classes = explainer.visualize(CLASSES, visualizer)
        channels = [explainer.visualize(Unit(layer, channel), visualizer) for channel in CHANNELS]
        rows.append([Cell(picture, title=name) for name, picture in zip(CLASSES, classes.pictures(), strict=True)])
        rows.append([Cell(c.pictures()[0], title=f"channel {i}") for i, c in zip(CHANNELS, channels, strict=True)])
        titles += [model, f"{model}, {layer}"]
    PICTURES.mkdir(parents=True, exist_ok=True)
    grid(rows, row_titles=titles).savefig(PICTURES / f"{visualizer}.jpg", dpi=120)


if __name__ == "__main__":
    main()
