"""Measure the test accuracy of CAM heads on CIFAR-10, with a fixed and with a fine-tuned body.

    python benchmarks/cam_head.py            # MobileNetV2 at 96 pixels, 2,000 images in the folder ATTRIBKIT_ASSETS
    python benchmarks/cam_head.py --paper    # AlexNet and VGG-13 at 224 pixels on all of CIFAR-10, which is downloaded
    python benchmarks/cam_head.py --paper --epochs 1 --limit 500    # a short trial

The head is that of Zhou et al., CVPR 2016, sec. 2; images are mirrored at random.
"""

import argparse
import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from environment import save
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import CIFAR10

from attribkit import cam_head, load_model, train_head
from attribkit.io import Preprocessing

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MODES: tuple[Literal["fixed", "finetune"], ...] = ("fixed", "finetune")
PAPER = {"alexnet": "torchvision:alexnet", "vgg13": "torchvision:vgg13"}


def main() -> None:
    arguments = parse()
    bodies = paper_bodies() if arguments.paper else small_bodies(assets())
    data = paper_data(arguments.data) if arguments.paper else small_data(assets())
    results = {name: measure(name, body, data, arguments) for name, body in bodies.items()}
    shortened = "_short" if arguments.paper and (arguments.limit or arguments.epochs != 150) else ""
    save(
        f"cam_head_{'paper' if arguments.paper else 'cifar10'}{shortened}",
        {"arguments": vars(arguments), "bodies": results},
        ["torch", "torchvision", "timm"],
    )


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="the full protocol; needs a network and a GPU")
    parser.add_argument("--epochs", type=int, help="3, or 150 with --paper")
    parser.add_argument("--limit", type=int, help="images to train on, and to test on, at most")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--channels", type=int, help="of the head: 256, or 1024 with --paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare images")
    parser.add_argument("--data", default="data", help="folder of the downloaded CIFAR-10")
    arguments = parser.parse_args(given)
    arguments.epochs = arguments.epochs or (150 if arguments.paper else 3)
    arguments.channels = arguments.channels or (1024 if arguments.paper else 256)
    return arguments


@dataclass(frozen=True)
class Body:
    """A trained model and the preprocessing of its images."""

    model: nn.Module
    preprocessing: Preprocessing


class Images(Protocol):
    """Pairs of an image, before preprocessing, and its class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True)
class Data:
    """The images to train on and to test on."""

    train: Images
    test: Images


class Prepared(Dataset[tuple[Tensor, int]]):
    """Images after the preprocessing of a body."""

    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self.images = images
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images[index]
        return self.preprocessing(image), label


def measure(name: str, body: Body, data: Data, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a new head in each mode; record the accuracy on the test images after every epoch."""
    train_images, test_images = (
        Prepared(limited(images, arguments.limit), body.preprocessing) for images in (data.train, data.test)
    )
    train, test = (
        DataLoader(images, arguments.batch, shuffle=images is train_images, num_workers=arguments.workers)
        for images in (train_images, test_images)
    )
    result: dict[str, Any] = {"train": len(train_images), "test": len(test_images)}
    for mode in MODES:
        torch.manual_seed(arguments.seed)
        model = cam_head(body.model, CLASSES, channels=arguments.channels)
        history = train_head(
            model, train, mode, epochs=arguments.epochs, seed=arguments.seed, validation=test, device=arguments.device
        )
        last = history.epochs[-1]
        seconds = sum(epoch.seconds for epoch in history.epochs)
        print(f"{name:12} {mode:9} {last.validation:7.2%} of {len(test_images)} test images, {seconds:,.0f} s")
        result[mode] = {"layer": model.layer, "test_accuracy": last.validation, "history": asdict(history)}
    return result


def limited(images: Images, limit: int | None) -> Images:
    """Return at most `limit` images, evenly spaced, since files are sorted by class."""
    if limit is None or limit >= len(images):
        return images
    dataset = cast(Dataset[tuple[Image.Image, int]], images)
    return Subset(dataset, torch.linspace(0, len(images) - 1, limit).long().tolist())


def assets() -> Path:
    folder = os.environ.get("ATTRIBKIT_ASSETS")
    if not folder:
        raise SystemExit("Set ATTRIBKIT_ASSETS to the folder of weights and images, or use --paper.")
    return Path(folder)


def small_bodies(folder: Path) -> dict[str, Body]:
    weights = folder / "mobilenetv2_in1k" / "mobilenetv2_100_same.fp16.safetensors"
    model = load_model("timm:mobilenetv2_100", weights=weights, pad_type="same").model
    return {"mobilenetv2": Body(model, Preprocessing((96, 96), 96, (0.5,) * 3, (0.5,) * 3))}


def small_data(folder: Path) -> Data:
    """Return 200 images of each class to train on and 100 to test on."""
    with zipfile.ZipFile(folder / "cifar10_jpeg" / "cifar10_train2000_test1000.zip") as archive:
        return Data(*(pictures(archive, part) for part in ("train", "test")))


def pictures(archive: zipfile.ZipFile, part: str) -> Images:
    names = sorted(name for name in archive.namelist() if name.startswith(f"{part}/") and name.endswith(".jpg"))
    return [
        (Image.open(io.BytesIO(archive.read(name))).convert("RGB"), CLASSES.index(name.split("/")[1])) for name in names
    ]


def paper_bodies() -> dict[str, Body]:
    loaded = {name: load_model(model, pretrained=True) for name, model in PAPER.items()}
    return {name: Body(model, replace(preprocessing, resize=224)) for name, (model, preprocessing) in loaded.items()}


def paper_data(folder: str) -> Data:
    return Data(CIFAR10(folder, train=True, download=True), CIFAR10(folder, train=False, download=True))


if __name__ == "__main__":
    main()
