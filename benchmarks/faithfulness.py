"""Measure the faithfulness of ten methods on photographs: two trained models, 150 images with annotated boxes.

python benchmarks/faithfulness.py --assets FOLDER                    # an hour or more on two cores
python benchmarks/faithfulness.py --assets FOLDER --images 16        # a short trial
python benchmarks/faithfulness.py --assets FOLDER --finished         # the tables of the units that are finished

FOLDER: the project's assets. An interrupted run continues. Writes the tables as CSV and LaTeX, the options and the
environment to benchmarks/results/faithfulness/, and summary.json, for figures, to the output folder.
"""

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from boxed_photographs import boxed_photographs
from environment import save
from rich.console import Console

from attribkit.benchmark import (
    Configuration,
    agreement_tables,
    benchmark,
    latex,
    ranking_tables,
    summarise,
    tables,
    write_csv,
)

RESULTS = Path(__file__).parent / "results" / "faithfulness"
HALF = [0.5, 0.5, 0.5]  # mean and standard deviation of the images that both models were trained on
MODELS: list[dict[str, Any]] = [
    {
        "name": "timm:mobilenetv2_100",
        "label": "MobileNetV2",
        "weights": "mobilenetv2_in1k",
        "arguments": {"pad_type": "same"},
        "mean": HALF,
        "std": HALF,
    },
    {"name": "timm:vit_tiny_patch16_224", "label": "ViT-Tiny", "weights": "vit_tiny_in1k", "mean": HALF, "std": HALF},
]
METHODS: list[str | dict[str, Any]] = [
    *("gradcam", "gradcam++", "hirescam", "layercam", "eigencam", "saliency", "input_x_gradient"),
    {"name": "smoothgrad", "options": {"samples": 5}},
    {"name": "integrated_gradients", "options": {"steps": 10}},
    {"name": "occlusion", "options": {"patch": 32, "stride": 32}},
]
METRICS: list[str | dict[str, Any]] = [
    {"name": "deletion", "options": {"steps": 8}},
    {"name": "insertion", "options": {"steps": 8}},
    {"name": "insertion_minus_deletion", "options": {"steps": 8, "insertion_substrate": "folded_blur"}},
    {"name": "sensitivity_n", "options": {"cells": 7, "sizes": 5, "subsets": 10}},
    {"name": "pointing_game", "preset": "torchray"},
    "energy_pointing_game",
]


def main() -> None:
    arguments = parse()
    data = boxed_photographs(arguments.assets, arguments.output / "data")
    configuration = Configuration(
        name="faithfulness",
        output=arguments.output,
        data={"name": data.pop("name"), "options": data, "limit": arguments.images},
        models=[model | {"weights": weights(arguments.assets / model["weights"])} for model in MODELS],
        methods=METHODS,
        metrics=METRICS,
        shard_size=16,
    )
    rows = finished(arguments.output) if arguments.finished else benchmark(configuration).rows
    summary = summarise(rows)
    RESULTS.mkdir(exist_ok=True)
    console = Console(width=160)
    for table in (*tables(summary), *ranking_tables(summary), *agreement_tables(summary)):
        console.print(table)
    for note in summary.notes:
        console.print(f"note: {note}")
    summary.save(arguments.output / "summary.json")
    write_csv(summary, RESULTS)
    (RESULTS / "tables.tex").write_text(latex(summary))
    images = {model["label"]: images_of(rows, model["label"]) for model in MODELS}
    record = {"images": images, "models": MODELS, "methods": METHODS, "metrics": METRICS}
    save("faithfulness/run", record, ("attribkit", "torch", "timm", "torchvision"))


def finished(output: Path) -> pa.Table:
    """Return the rows of the finished units without running anything."""
    units = sorted(output.glob("rows/*/*/*.parquet"))
    return pa.concat_tables([pq.read_table(unit).replace_schema_metadata(None) for unit in units])


def images_of(rows: pa.Table, model: str) -> int:
    """Return the number of images that the results of a model are over."""
    return len(rows.filter(pc.equal(rows["model"], model))["image"].unique())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/faithfulness"))
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--finished", action="store_true", help="run nothing")
    return parser.parse_args()


def weights(folder: Path) -> str:
    return str(next(folder.glob("*.safetensors")))


if __name__ == "__main__":
    main()
