"""Measure how much attribkit code runs in one warm call: files, lines, and depth of the call stack.

    python benchmarks/call_path.py            # prints the numbers beside their goals
    python benchmarks/call_path.py --files    # also the lines executed in each file

The model is a small CNN. `attribute` is one warm Grad-CAM; `measure` is deletion of its map. Only lines of attribkit
files count: distinct lines, and line events, in which a line of a loop counts each time. The depth is the number of
attribkit frames on the stack at a forward of the model: the first one for `attribute`, the deepest one for `measure`.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import attribkit
from attribkit import Explainer

PACKAGE = Path(attribkit.__file__).parent
GOALS = {"files": 15, "distinct lines": 350, "depth of attribute": 7, "depth of measure": 13}


@dataclass
class CallPath:
    """What a call executed in attribkit files."""

    lines: Counter[tuple[str, int]] = field(default_factory=Counter)
    forward_depths: list[int] = field(default_factory=list)
    greatest_depth: int = 0

    @property
    def files(self) -> Counter[str]:
        """Distinct lines by file."""
        return Counter(file for file, _ in self.lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the lines executed in each file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    ).eval()
    x = torch.randn(2, 3, 64, 64)
    explainer = Explainer(model)
    attribution = explainer.attribute(x, "gradcam")
    explainer.measure([attribution], ["deletion"])  # the first calls also trace the model
    attribute = trace(lambda: explainer.attribute(x, "gradcam"), model)
    measure = trace(lambda: explainer.measure([attribution], ["deletion"]), model)
    numbers = {
        "files": len(attribute.files),
        "distinct lines": len(attribute.lines),
        "depth of attribute": attribute.forward_depths[0],
        "depth of measure": max(measure.forward_depths),
    }
    print("Explainer.attribute(x, 'gradcam'), warm, and Explainer.measure of 'deletion':")
    for name, number in numbers.items():
        print(f"  {name:28} {number:5}   goal {GOALS[name]}")
    print(f"  {'line events':28} {attribute.lines.total():5}")
    print(f"  {'attribute: frames at most':28} {attribute.greatest_depth:5}")
    print(f"  {'measure: frames at most':28} {measure.greatest_depth:5}")
    print(f"  {'measure: files':28} {len(measure.files):5}")
    print(f"  {'measure: distinct lines':28} {len(measure.lines):5}")
    if arguments.files:
        for file, count in attribute.files.most_common():
            print(f"  {file:40} {count:5}")


def trace(call: Callable[[], object], model: nn.Module) -> CallPath:
    """Run a call and record the lines and frames of attribkit files in this thread; the model is not changed."""
    path = CallPath()
    forward = type(model).forward.__code__

    def record(frame: FrameType, event: str, _argument: Any) -> Any:
        if not _is_attribkit(frame):
            if event == "call" and frame.f_code is forward and frame.f_locals.get("self") is model:
                path.forward_depths.append(_depth(frame))
            return None
        if event == "call":
            path.greatest_depth = max(path.greatest_depth, _depth(frame))
        elif event == "line":
            path.lines[str(Path(frame.f_code.co_filename).relative_to(PACKAGE)), frame.f_lineno] += 1
        return record

    previous = sys.gettrace()
    sys.settrace(record)
    try:
        call()
    finally:
        sys.settrace(previous)
    return path


def _is_attribkit(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(PACKAGE))


def _depth(frame: FrameType | None) -> int:
    """Return how many frames of attribkit files are on the stack, the frame included."""
    depth = 0
    while frame is not None:
        depth += _is_attribkit(frame)
        frame = frame.f_back
    return depth


if __name__ == "__main__":
    main()
