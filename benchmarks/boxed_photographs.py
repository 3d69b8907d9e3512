"""Write the 150 boxed photographs of the project's assets as a data set of the benchmark.

python benchmarks/boxed_photographs.py "$ATTRIBKIT_ASSETS" figures/boxed    # prints the [data] of a configuration
"""

import json
import sys
from pathlib import Path
from typing import Any

SIDE = 227  # pixels; the images are whole photographs, resized without keeping the aspect ratio


def boxed_photographs(assets: Path, output: Path) -> dict[str, Any]:
    """Write the boxes in the format of the data set "boxes"; return its kind and options.

    Distances are in pixels of the original photographs, before resizing. The subset "off-centre" holds the photographs
    whose centre lies outside all boxes; on the others a map of the image centre is hard to beat.
    """
    folder = assets / "imagenet_val_boxes"
    entries = json.loads((folder / "boxes.json").read_text())
    output.mkdir(parents=True, exist_ok=True)
    written = output / "boxes.json"
    written.write_text(json.dumps({name: _entry(entry) for name, entry in entries.items()}, indent=1) + "\n")
    return {"name": "boxes", "root": str(folder / "images"), "annotations": str(written)}


def _entry(source: dict[str, Any]) -> dict[str, Any]:
    width, height = source["orig_size"]
    return {
        "boxes": source["boxes_xyxy_227"],
        "label": source["label"],
        "size": [SIDE, SIDE],
        "photograph": [height, width],
        "subsets": [] if source["centre_inside"] else ["off-centre"],
    }


if __name__ == "__main__":
    data = boxed_photographs(Path(sys.argv[1]), Path(sys.argv[2]))
    kind, *options = (f"{key} = {json.dumps(value)}" for key, value in data.items())
    print(f"[data]\n{kind}\noptions = {{ {', '.join(options)} }}")
