"""Train the embedded models on generated scenes, or measure the accuracy of the included weights.

python benchmarks/train_zoo.py              # trains both (about 15 minutes on 2 cores), then measures
python benchmarks/train_zoo.py --evaluate   # measures the included weights on 2,000 held-out scenes
"""

import argparse
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from environment import save
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from attribkit import zoo

TRAINING_SEED, HELD_OUT_SEED = 1_000_000, 2_000_000  # of the first scene of each; the scenes of the demo begin at 0
WEIGHTS = Path(zoo.__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """The training of one model: AdamW, a cosine schedule, and a warm-up of one twentieth of the steps."""

    steps: int
    learning_rate: float
    weight_decay: float
    images: int = 64  # per step


RECIPES = {"cnn": Recipe(900, 4e-3, 0.02), "vit": Recipe(3000, 1e-3, 0.05)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="measure the included weights without training")
    parser.add_argument("--models", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--scenes", type=int, default=30_000, help="number of training scenes")
    arguments = parser.parse_args()
    if not arguments.evaluate:
        pictures, labels = draw(arguments.scenes, TRAINING_SEED)
        for name in arguments.models:
            model = train(name, pictures, labels)
            save_file(half(model), WEIGHTS / f"{name}.safetensors")
    pictures, labels = draw(2_000, HELD_OUT_SEED)
    accuracies = {name: accuracy(zoo.load_zoo_model(name), pictures, labels) for name in RECIPES}
    for name, value in accuracies.items():
        size = (WEIGHTS / f"{name}.safetensors").stat().st_size
        print(f"{name}: {value:.2%} of {len(labels)} held-out scenes, {size:,} bytes")
    save("zoo", {"held_out_accuracy": accuracies, "scenes": len(labels), "seed": HELD_OUT_SEED})


def half(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights in half precision, except counters."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return scenes as bytes, (n, 3, h, w), and their labels."""
    with ProcessPoolExecutor() as pool:
        drawn = list(
            tqdm(pool.map(_draw_scene, range(seed, seed + count), chunksize=100), total=count, desc="drawing scenes")
        )
    pictures = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
    return pictures.permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in drawn])


def _draw_scene(seed: int) -> tuple[np.ndarray, int]:
    scene = zoo.scene(seed)
    return scene.image, scene.label


def train(name: str, pictures: Tensor, labels: Tensor) -> nn.Module:
    """Train a model on the scenes, rotated and mirrored at random, which does not change the class."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    model = zoo.build_zoo_model(name).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / recipe.steps))
    bar = tqdm(_batches(pictures, labels, recipe), total=recipe.steps, desc=f"training {name}")
    for x, y in bar:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), y, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return model.eval()


def _rate(progress: float) -> float:
    return min(1.0, 20 * progress + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))


def _batches(pictures: Tensor, labels: Tensor, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(recipe.steps):
        chosen = torch.randint(len(labels), (recipe.images,), generator=generator)
        turns, mirror = torch.randint(4, (2,), generator=generator).tolist()
        x = torch.rot90(pictures[chosen], turns, (2, 3))
        yield normalised(x.flip(3) if mirror % 2 else x), labels[chosen]


def normalised(pictures: Tensor) -> Tensor:
    """Convert bytes to the range of the zoo's models, -1 to 1."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Return the fraction of scenes that the model classifies correctly."""
    predicted = torch.cat([model(normalised(part)).argmax(1) for part in pictures.split(200)])
    return (predicted == labels).float().mean().item()


if __name__ == "__main__":
    main()
