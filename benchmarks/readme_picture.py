"""Draw the README's picture: five methods on the first scenes of `attribkit demo`.

python benchmarks/readme_picture.py
"""

from pathlib import Path

from attribkit import zoo
from attribkit.cli import _demo_scenes as demo

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.jpg"
METHODS = ["gradcam", "layercam", "guided_gradcam", "occlusion", "rise"]
SCENES = 2


def main() -> None:
    stages = [demo.stage(name, SCENES, 0, "cpu") for name in zoo.ARCHITECTURES]
    figure = demo.demo_figure(stages, list(demo.rows(stages, METHODS)), METHODS, scenes=SCENES)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
