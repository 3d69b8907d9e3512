"""Measure the time of `attribkit --help` with installed plugins, and of the imports that it must not need.

    python benchmarks/startup.py                # ten plugins
    python benchmarks/startup.py --plugins 50 --rounds 20

Each plugin is a distribution with an entry point whose module imports torch, as a method does. The commands run in turn
in fresh processes; the numbers are medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "attribkit --help": ["-m", "attribkit", "--help"],
    "attribkit plugins": ["-m", "attribkit", "plugins"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugins", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.plugins):
            write_plugin(Path(folder), f"attribkit_benchmark_{i}")
        seconds = measure({**os.environ, "PYTHONPATH": folder}, arguments.rounds)
    print(f"{arguments.plugins} plugins, median of {arguments.rounds} processes")
    for name, times in seconds.items():
        print(f"{name:20} {statistics.median(times):6.2f} s")


def measure(environment: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Run the commands in turn, and return the seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], env=environment, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def write_plugin(folder: Path, module: str) -> None:
    """Write a distribution as pip installs it."""
    (folder / f"{module}.py").write_text(
        "import torch\nfrom attribkit import hookimpl\n\n\n@hookimpl\ndef attribkit_methods():\n    return []\n"
    )
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    name = module.replace("_", "-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[attribkit]\n{name} = {module}\n")


if __name__ == "__main__":
    main()
