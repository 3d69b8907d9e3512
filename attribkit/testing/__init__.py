"""Conformance checks for the classes of plugins.

Call them in a test, for example ``check_method(MyMethod())``: they raise an AssertionError that describes the first
violation of the contract.
"""

from attribkit.testing._methods import METHOD_CHECKS, check_method, check_position
from attribkit.testing._metrics import METRIC_CHECKS, check_metric
from attribkit.testing._state import changes, model_state, tiny_cnn
from attribkit.testing._visualizers import VISUALIZER_CHECKS, check_visualizer

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
