"""Draw the README's picture: ten methods on the first scenes of `attribkit demo`.

python benchmarks/readme_picture.py
"""

from pathlib import Path

from attribkit import zoo
from attribkit.cli import demo_scenes as demo

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "demo.jpg"
METHODS = [
    "gradcam", "layercam", "scorecam", "ablationcam", "smoothgrad", "integrated_gradients", "guided_gradcam",
    "gradient_rollout", "occlusion", "rise",
]  # fmt: skip


def main() -> None:
    stages = [demo.stage(name, demo.SHOWN, 0, "cpu") for name in zoo.ARCHITECTURES]
    figure = demo.demo_figure(stages, list(demo.rows(stages, METHODS)))
    figure.savefig(PICTURE, dpi=90)


if __name__ == "__main__":
    main()
