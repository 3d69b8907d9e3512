"""Draw the picture of every method's page in docs/methods: three scenes, explained on both embedded models.

python benchmarks/method_pictures.py
"""

from pathlib import Path

from attribkit import demo, registry, zoo
from attribkit.figures import Cell, grid

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "methods"
SCENES = 3
DRAWN_ELSEWHERE = {"attention_gates"}  # by gates_picture.py: the embedded models have no gates


def main() -> None:
    stages = [demo.stage(name, SCENES, 0, "cpu") for name in zoo.ARCHITECTURES]
    for name, cls in registry.methods().items():
        if registry.plugin_of(cls).distribution == "attribkit" and name not in DRAWN_ELSEWHERE:
            draw(name, stages)


def draw(method: str, stages: list[demo.Stage]) -> None:
    rows = [[Cell(scene.image) for scene in stages[0].scenes]]
    for stage in stages:
        heatmaps = stage.explainer.attribute(stage.x, method, target=stage.labels).heatmap()
        masks = stage.mask.float()
        rows.append([Cell(s.image, h, m) for s, h, m in zip(stage.scenes, heatmaps, masks, strict=True)])
    figure = grid(rows, row_titles=["scene", *(stage.name for stage in stages)])
    figure.savefig(PICTURES / f"{method.replace('+', 'p')}.jpg", dpi=120)


if __name__ == "__main__":
    main()
