"""The spatial gates of a network's own attention modules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from attribkit.core.attribution import resized
from attribkit.core.errors import UnknownName, UnsupportedModel, listed
from attribkit.core.gates import Gate
from attribkit.core.method import Method
from attribkit.core.model import HookedModel
from attribkit.core.options import Name
from attribkit.core.shapes import Images, Scores
from attribkit.core.targets.target import Target


@dataclass(frozen=True)
class AttentionGates(Method):
    """What the model's attention modules let through at each place; the same map whatever the target."""

    name: ClassVar[str] = "attention_gates"
    source: ClassVar[str] = "Woo et al., ECCV 2018, eq. 3 (CBAM); Park et al., BMVC 2018, eq. 2 (BAM)"
    needs_target: ClassVar[bool] = False

    gate: Name | None = None  # dotted name of the module that applies it; None is the mean of all

    def __call__(self, model: HookedModel, x: Images, target: Target) -> Scores:
        model.note("attention_gates does not depend on the target: it shows what the model lets through, not for which")
        maps = [_over_space(gate) for gate in self._chosen(model.attention_gates(x))]
        if len(maps) == 1:
            return maps[0]
        return torch.stack([resized(each, x.shape[2:]) for each in maps]).mean(0)

    def _chosen(self, gates: Sequence[Gate]) -> list[Gate]:
        spatial = [gate for gate in gates if gate.kind != "channel"]
        if not spatial:
            names = listed(dict.fromkeys(gate.name for gate in gates))
            has = f"{len(gates)} gates over channels alone ({names})" if gates else "no gates"
            raise UnsupportedModel(
                f"attention_gates draws gates over space, and the model has {has}: use gradcam; "
                "Explainer.attention_gates(x) gives the values of all gates."
            )
        chosen = [gate for gate in spatial if self.gate in (None, gate.name)]
        if not chosen:
            raise UnknownName("gate over space", str(self.gate), dict.fromkeys(gate.name for gate in spatial))
        return chosen


def _over_space(gate: Gate) -> Scores:
    """A gate's map, (b, 1, *grid); one over channels too is averaged over them."""
    return gate.values.unsqueeze(1) if gate.kind == "spatial" else gate.values.mean(1, keepdim=True)
