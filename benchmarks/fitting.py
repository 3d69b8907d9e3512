"""The training loop of the small models in some of the pictures."""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn, optim

REPORT = 25  # steps


def fit(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    *,
    learning_rate: float,
    weight_decay: float = 0.01,
    smoothing: float = 0.0,
) -> None:
    """Train on `steps` batches with a one-cycle learning rate; the model ends in evaluation mode."""
    model.train()
    optimizer = optim.AdamW(model.parameters(), weight_decay=weight_decay)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    for step, (x, labels) in zip(range(steps), batches, strict=False):
        loss = F.cross_entropy(model(x), labels, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % REPORT == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval()
