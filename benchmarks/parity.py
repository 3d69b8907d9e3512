"""Every built-in method beside its oracle on five architectures; writes results/parity.json and docs/parity.md.

    python benchmarks/parity.py                                      # the whole table, some minutes
    python benchmarks/parity.py --methods gradcam rise --models vgg16    # a part, which is printed only

A number is the largest difference between attribkit's map and the oracle's, as a share of the range of the oracle's.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from environment import RESULTS, save
from parity_models import MODELS, Subject
from parity_oracles import CELLS, MASKS, SAMPLES, Pair, attributed, quiet
from parity_page import PAGE, page
from parity_rows import Row, rows

from attribkit import AttribkitError

Cell = dict[str, Any]  # {"difference": 1e-9} or {"refused": "why"}, and perhaps {"note": "another oracle"}
PACKAGES = ("torch", "torchvision", "timm", "grad-cam", "captum", "scipy", "scikit-image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=rows(), default=list(rows()), metavar="METHOD")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    arguments = parser.parse_args()
    result = table(arguments.methods, arguments.models, lambda line: print(line, flush=True))
    if (arguments.methods, arguments.models) != (list(rows()), list(MODELS)):
        return
    save("parity", result, PACKAGES)
    PAGE.write_text(page(json.loads((RESULTS / "parity.json").read_text())))


def table(methods: Iterable[str], models: Iterable[str], report: Callable[[str], None]) -> dict[str, Any]:
    """The rows of the table, model by model; report is told each cell as it is done."""
    chosen = {name: rows()[name] for name in methods}
    cells: dict[str, dict[str, Cell]] = {name: {} for name in chosen}
    explained = {}
    for model in models:
        torch.manual_seed(0)
        subject = MODELS[model]()
        explained[model] = about(subject)
        for method, row in chosen.items():
            start = time.perf_counter()
            cells[method][model] = cell(method, row, model, subject)
            report(f"{model:13} {method:21} {told(cells[method][model]):30} {time.perf_counter() - start:5.1f} s")
    return {
        "models": explained,
        "options": {"samples": SAMPLES, "masks": MASKS, "cells": CELLS},
        "rows": [{"method": name, "oracle": row.oracle, "cells": cells[name]} for name, row in chosen.items()],
    }


def about(subject: Subject) -> dict[str, str]:
    """What a model was explained on, and at which layers."""
    many, few = ("x".join(map(str, images.shape)) for images in (subject.x, subject.small))
    layers = {"layer": subject.layer, "scorecam": subject.scored, "ablationcam": subject.ablated or subject.layer}
    return {"images": many, "image": few, **layers}


def cell(method: str, row: Row, model: str, subject: Subject) -> Cell:
    """One comparison, or the proof that attribkit refuses it."""
    subject = subject.alone() if row.alone else subject
    if model in row.refused:
        return refused(method, row, row.refused[model], subject)
    compare, note = row.others.get(model, (row.compare, None))
    torch.manual_seed(0)
    with quiet():
        found: Cell = {"difference": difference(compare(subject))}
    return found | ({"note": note} if note else {})


def refused(method: str, row: Row, why: str, subject: Subject) -> Cell:
    """The proof that attribkit refuses the method, and for that reason."""
    try:
        attributed(subject, method)
    except AttribkitError as error:
        if row.says not in str(error):
            raise
        return {"refused": why}
    raise AssertionError(f"attribkit does not refuse {method} for {subject.name}: give the row an oracle.")


def difference(pair: Pair) -> float:
    """The largest over images and maps, each as a share of the range of theirs."""
    ours, theirs = pair
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} beside {tuple(theirs.shape)}"
    width = theirs.flatten(1).amax(1) - theirs.flatten(1).amin(1)
    assert bool((width > 0).all()), "an even map compares nothing"
    return float(((ours - theirs).abs().flatten(1).amax(1) / width).max())


def told(cell: Cell) -> str:
    return f"{cell['difference']:.1e}" if "difference" in cell else f"refused: {cell['refused']}"


if __name__ == "__main__":
    main()
