"""The environment of a measurement: commit, versions, hardware."""

import json
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def save(name: str, result: dict[str, Any], packages: Iterable[str] = ("torch", "timm")) -> None:
    """Write a result and its environment to benchmarks/results/NAME.json."""
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"result": result, "environment": environment(packages)}, indent=2) + "\n")
    print(f"written to {path.relative_to(Path(__file__).parents[1])}")


def describe_environment(packages: Iterable[str]) -> str:
    """Return the environment in one line, for a page."""
    measured = environment(packages)
    versions = ", ".join(f"{name} {version}" for name, version in measured["packages"].items())
    return f"{measured['date']}, commit {measured['commit']}, {versions}, {measured['gpu'] or 'CPU'}"


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """Return commit (followed by + if files differ from it), versions and hardware."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "attribkit") else ""),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False
    )
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
