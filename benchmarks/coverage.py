"""Run every method on every model family; writes results/coverage.csv and docs/coverage.md.

    python benchmarks/coverage.py                      # the smallest of each module of timm, all of torchvision
    python benchmarks/coverage.py --only swin hiera    # a part; the result is only printed
    python benchmarks/coverage.py --all --device cuda  # every architecture that fits; writes results/coverage_all.csv

Random weights, one image. A model that needs more than 8 GiB is skipped, and its row says so. After an interruption,
--resume continues the run.
"""

import argparse
import csv
import gc
import multiprocessing
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from coverage_checks import Cell, check_method, mirror_asymmetry
from coverage_laws import laws
from coverage_models import Architecture, architectures, initialise
from coverage_page import write_page
from environment import RESULTS, describe_environment

from attribkit import AttribkitError, Explainer

METHODS = (
    "gradcam",
    "gradcam++",
    "saliency",
    "integrated_gradients",
    "occlusion",
    "guided_backprop",
    "attention_rollout",
)
_FLIPPED = ("gradcam", "saliency")
_MAX_PARAMETERS = 50_000_000  # of a model that is copied in double precision
_IMAGES = 2  # perturbed images in a batch
_BYTES = 8 * 2**30
_COLUMNS = (
    "library", "family", "architecture", "parameters", "input", "method", "status", "layer", "grid", "seconds", "text",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every architecture")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="architectures whose names contain one of the words"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="models that run in parallel")
    parser.add_argument("--resume", action="store_true", help="keep the existing rows")
    arguments = parser.parse_args()
    name = "coverage_all" if arguments.all else "coverage"
    path = None if arguments.only else RESULTS / f"{name}.csv"
    done = _done(path) if arguments.resume and path else set()
    if path and not done:
        path.write_text(",".join(_COLUMNS) + "\n")
    words = arguments.only or [""]
    missing = (each for each in architectures(every=arguments.all) if (each.library, each.name) not in done)
    wanted = [each for each in missing if any(word in each.name for word in words)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for architecture, rows in zip(
            wanted, pool.map(partial(_in_subprocess, device=arguments.device), wanted), strict=True
        ):
            _print(architecture, rows)
            _append(path, rows)
    if path and not arguments.all:
        write_page(path, describe_environment(("torch", "torchvision", "timm")))


def rows_of(architecture: Architecture, device: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each method and for each law of its maps."""
    torch.manual_seed(0)
    about: dict[str, Any] = {column: getattr(architecture, column, "") for column in ("library", "family")}
    about["architecture"] = architecture.name
    model = architecture.make()
    size = architecture.size(model)
    model, x = initialise(model, size).to(device), torch.randn(1, *size, device=device)
    about |= {"parameters": sum(each.numel() for each in model.parameters()), "input": "x".join(map(str, x.shape[1:]))}
    try:
        explainer = Explainer(model, batch_size=_IMAGES)
    except AttribkitError as error:
        yield from (about | {"method": method} | asdict(Cell("refused", text=str(error))) for method in METHODS)
        return
    patch = tuple(-(-side // 3) for side in x.shape[2:])
    options: dict[str, dict[str, Any]] = {
        "integrated_gradients": {"steps": 2},
        "occlusion": {"patch": patch, "stride": patch},
    }
    for method in METHODS:
        start = time.perf_counter()
        cell = check_method(explainer, x, method, options.get(method, {}) | architecture.question(x))
        yield about | {"method": method} | asdict(cell) | {"seconds": round(time.perf_counter() - start, 1)}
    mirrored = mirror_asymmetry(model, x, _FLIPPED) if about["parameters"] < _MAX_PARAMETERS else {}
    for method, asymmetry in mirrored.items():
        status = "ok" if asymmetry < 1e-4 else "wrong"
        yield about | {"method": f"{method}, mirrored", "status": status, "text": f"{asymmetry:.1e} of the range"}
    for law, cell in laws(explainer, x, architecture.question):
        yield about | {"method": law} | asdict(cell)


def _in_subprocess(architecture: Architecture, device: str) -> list[dict[str, Any]]:
    """Compute the rows; on the CPU in a separate process, which frees the memory of the model."""
    if device != "cpu":
        rows = _within_memory(architecture, device)
        gc.collect()
        torch.cuda.empty_cache()
        return rows
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(architecture, device, sender))
    process.start()
    sender.close()
    try:
        received: list[dict[str, Any]] = receiver.recv()
        return received
    except EOFError:
        return [_failure_row(architecture, "wrong", "the process died")]
    finally:
        process.join()


def _send(architecture: Architecture, device: str, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_BYTES + 2**30, resource.RLIM_INFINITY))  # 1 GiB more for the libraries
    pipe.send(_within_memory(architecture, device))


def _within_memory(architecture: Architecture, device: str) -> list[dict[str, Any]]:
    try:
        return list(rows_of(architecture, device))
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            return [_failure_row(architecture, "wrong", f"{type(error).__name__}: {error}")]
        return [_failure_row(architecture, "left out", f"it needs more than {_BYTES >> 30} GiB")]


def _failure_row(architecture: Architecture, status: str, text: str) -> dict[str, Any]:
    about = {"library": architecture.library, "family": architecture.family, "architecture": architecture.name}
    return about | {"status": status, "text": text}


def _print(architecture: Architecture, rows: list[dict[str, Any]]) -> None:
    print(f"{architecture.library}:{architecture.name}")
    for row in rows:
        read = f"{row.get('layer', '')} {row.get('grid', '')}".strip()
        print(f"  {row.get('method', ''):40} {row['status']:8} {read:40} {row.get('text', '')[:200]}", flush=True)


def _append(path: Path | None, rows: list[dict[str, Any]]) -> None:
    if path:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, _COLUMNS, restval="").writerows(rows)


def _done(path: Path) -> set[tuple[str, str]]:
    with path.open(newline="") as file:
        return {(row["library"], row["architecture"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
