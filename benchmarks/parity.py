"""Compare every built-in method with its oracle on five architectures; writes results/parity.json and docs/parity.md.

    python benchmarks/parity.py                                      # the whole table, a few minutes
    python benchmarks/parity.py --methods gradcam rise --models vgg16    # a part; the result is only printed

A number is the largest difference between attribkit's map and the oracle's, as a fraction of the range of the latter.
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

Cell = dict[str, Any]  # {"difference": 1e-9} or {"refused": "reason"}, and optionally {"note": "another oracle"}
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
    """Compute the rows of the table, model by model; report: called with a line for each finished cell."""
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
            report(f"{model:13} {method:21} {describe(cells[method][model]):30} {time.perf_counter() - start:5.1f} s")
    return {
        "models": explained,
        "options": {"samples": SAMPLES, "masks": MASKS, "cells": CELLS},
        "rows": [{"method": name, "oracle": row.oracle, "cells": cells[name]} for name, row in chosen.items()],
    }


def about(subject: Subject) -> dict[str, str]:
    """Return the sizes of the images and the layers of a model."""
    many, few = ("x".join(map(str, images.shape)) for images in (subject.x, subject.small))
    layers = {
        "layer": subject.layer,
        "scorecam": subject.scorecam_layer,
        "ablationcam": subject.ablationcam_layer or subject.layer,
    }
    return {"images": many, "image": few, **layers}


def cell(method: str, row: Row, model: str, subject: Subject) -> Cell:
    """Return one comparison, or check that attribkit refuses the method."""
    subject = subject.alone() if row.alone else subject
    if model in row.refused:
        return refused(method, row, row.refused[model], subject)
    compare, note = row.others.get(model, (row.compare, None))
    assert compare is not None, f"{method} has neither an oracle nor a refusal for {model}"
    torch.manual_seed(0)
    with quiet():
        result: Cell = {"difference": difference(compare(subject))}
    return result | ({"note": note} if note else {})


def refused(method: str, row: Row, reason: str, subject: Subject) -> Cell:
    """Check that attribkit refuses the method, and for which reason."""
    try:
        attributed(subject, method)
    except AttribkitError as error:
        if row.message not in str(error):
            raise
        return {"refused": reason}
    raise AssertionError(f"attribkit does not refuse {method} for {subject.name}: add an oracle to the row.")


def difference(pair: Pair) -> float:
    """Return the largest difference over the images, as a fraction of the range of the oracle's maps."""
    ours, theirs = pair
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
    width = theirs.flatten(1).amax(1) - theirs.flatten(1).amin(1)
    assert bool((width > 0).all()), "a constant map cannot be compared"
    return float(((ours - theirs).abs().flatten(1).amax(1) / width).max())


def describe(cell: Cell) -> str:
    return f"{cell['difference']:.1e}" if "difference" in cell else f"refused: {cell['refused']}"


if __name__ == "__main__":
    main()
