"""The 150 photographs with boxes of the project's assets as a data set of the benchmark.

python benchmarks/boxed_photographs.py "$ATTRIBKIT_ASSETS" figures/boxed    # prints the [data] of a configuration
"""

import json
import sys
from pathlib import Path
from typing import Any

SIDE = 227  # pixels, of the images: whole photographs, squashed


def boxed_photographs(assets: Path, output: Path) -> dict[str, Any]:
    """Write the boxes in the format of the data set "boxes", and give its kind and options.

    Distances are told in pixels of the photographs as they were before they were squashed. The subset "off-centre" are
    those whose centre is on no box: on the others a map of the centre alone is hard to beat.
    """
    folder = assets / "imagenet_val_boxes"
    told = json.loads((folder / "boxes.json").read_text())
    output.mkdir(parents=True, exist_ok=True)
    written = output / "boxes.json"
    written.write_text(json.dumps({name: _entry(each) for name, each in told.items()}, indent=1) + "\n")
    return {"kind": "boxes", "root": str(folder / "images"), "annotations": str(written)}


def _entry(told: dict[str, Any]) -> dict[str, Any]:
    width, height = told["orig_size"]
    return {
        "boxes": told["boxes_xyxy_227"],
        "label": told["label"],
        "size": [SIDE, SIDE],
        "photograph": [height, width],
        "subsets": [] if told["centre_inside"] else ["off-centre"],
    }


if __name__ == "__main__":
    data = boxed_photographs(Path(sys.argv[1]), Path(sys.argv[2]))
    kind, *options = (f"{key} = {json.dumps(value)}" for key, value in data.items())
    print(f"[data]\n{kind}\noptions = {{ {', '.join(options)} }}")
