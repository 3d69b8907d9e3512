"""Draw the picture of every method's page in docs/methods: three scenes, explained on both embedded models.

python benchmarks/method_pictures.py            # every method
python benchmarks/method_pictures.py rise cam   # some
"""

import sys
from pathlib import Path

from attribkit import AttribkitError, registry, zoo
from attribkit.cli import _demo_scenes as demo
from attribkit.figures import Cell, grid

PICTURES = Path(__file__).parents[1] / "docs" / "images" / "methods"
SCENES = 3
DRAWN_ELSEWHERE = {"attention_gates"}  # by gates_picture.py, since the embedded models do not have gates


def main() -> None:
    stages = [demo.stage(name, SCENES, 0, "cpu") for name in zoo.ARCHITECTURES]
    for name, cls in registry.methods().items():
        wanted = name in (sys.argv[1:] or registry.methods().keys() - DRAWN_ELSEWHERE)
        if wanted and registry.plugin_of(cls).distribution == "attribkit":
            draw(name, stages)


def draw(method: str, stages: list[demo.Stage]) -> None:
    rows = [[Cell(scene.image) for scene in stages[0].scenes], *(cells(method, stage) for stage in stages)]
    figure = grid(rows, row_titles=["scene", *(stage.name for stage in stages)])
    figure.savefig(PICTURES / f"{method.replace('+', 'p')}.jpg", dpi=120)


def cells(method: str, stage: demo.Stage) -> list[Cell]:
    try:
        heatmaps = stage.explainer.attribute(stage.x, method, target=stage.labels).heatmap()
    except AttribkitError:
        return [Cell(scene.image, title="refused") for scene in stage.scenes]
    return [Cell(s.image, h, m) for s, h, m in zip(stage.scenes, heatmaps, stage.mask.float(), strict=True)]


if __name__ == "__main__":
    main()
