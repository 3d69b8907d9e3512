"""Checks that a plugin's classes must pass; write ``check_method(MyMethod())`` or its like in a test."""

from attribkit.testing.methods import METHOD_CHECKS, check_method
from attribkit.testing.metrics import METRIC_CHECKS, check_metric
from attribkit.testing.position import check_position
from attribkit.testing.state import changes, model_state, tiny_cnn
from attribkit.testing.visualizers import VISUALIZER_CHECKS, check_visualizer

__all__ = [
    "METHOD_CHECKS",
    "METRIC_CHECKS",
    "VISUALIZER_CHECKS",
    "changes",
    "check_method",
    "check_metric",
    "check_position",
    "check_visualizer",
    "model_state",
    "tiny_cnn",
]
