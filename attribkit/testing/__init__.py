"""Conformance checks for the classes of plugins.

Each kind of class has a list of checks, such as METHOD_CHECKS. ``check_method(MyMethod())`` raises a
`ConformanceError` at the first violation; ``report_conformance(MyMethod())`` runs all checks and returns a report, as
``attribkit check my_method`` prints it. In a test, `parametrize_with_checks` makes a case of every check.

Example:
    ::

        from attribkit.testing import parametrize_with_checks


        @parametrize_with_checks([MyMethod(samples=2), MyMetric()])
        def test_conformance(instance, check):
            check(instance)
"""

from collections.abc import Callable, Iterable
from typing import Any

from attribkit._contracts.dataset import Dataset
from attribkit._contracts.method import Method
from attribkit._contracts.metric import Metric
from attribkit._contracts.visualizer import Visualizer
from attribkit._core.annotations import describe
from attribkit._core.errors import InvalidInput, join_names, one_line
from attribkit._core.spec import ModelSpec
from attribkit._core.substrates import Imputer
from attribkit._targets.target import Target
from attribkit.testing._checks import (
    Check,
    CheckList,
    CheckResult,
    ConformanceError,
    ConformanceReport,
    NotApplicable,
    run_checks,
)
from attribkit.testing._datasets import DATASET_CHECKS, check_dataset
from attribkit.testing._examples import tiny_cnn, tiny_transformer
from attribkit.testing._imputers import IMPUTER_CHECKS, check_imputer
from attribkit.testing._method_checks import METHOD_CHECKS, check_method
from attribkit.testing._metrics import METRIC_CHECKS, check_metric
from attribkit.testing._models import MODEL_SPEC_CHECKS, TARGET_CHECKS, check_model_spec, check_target
from attribkit.testing._state import changes, model_state
from attribkit.testing._visualizers import VISUALIZER_CHECKS, check_visualizer

__all__ = [
    "DATASET_CHECKS",
    "IMPUTER_CHECKS",
    "METHOD_CHECKS",
    "METRIC_CHECKS",
    "MODEL_SPEC_CHECKS",
    "TARGET_CHECKS",
    "VISUALIZER_CHECKS",
    "Check",
    "CheckResult",
    "ConformanceError",
    "ConformanceReport",
    "NotApplicable",
    "changes",
    "check_dataset",
    "check_imputer",
    "check_method",
    "check_metric",
    "check_model_spec",
    "check_target",
    "check_visualizer",
    "checks_of",
    "model_state",
    "parametrize_with_checks",
    "report_conformance",
    "tiny_cnn",
    "tiny_transformer",
]

_CHECKS: dict[type, CheckList] = {
    Method: METHOD_CHECKS,
    Metric: METRIC_CHECKS,
    Visualizer: VISUALIZER_CHECKS,
    Imputer: IMPUTER_CHECKS,
    ModelSpec: MODEL_SPEC_CHECKS,
    Target: TARGET_CHECKS,
    Dataset: DATASET_CHECKS,
}


def checks_of(instance: Any) -> CheckList:
    """Return the checks for an instance of a plugin class.

    Args:
        instance: A method, metric, visualizer, imputer, model specification, target or data set.

    Raises:
        InvalidInput: If it is of another kind, or a class.
    """
    for kind, checks in _CHECKS.items():
        if isinstance(instance, kind):
            return checks
    kinds = join_names(kind.__name__ for kind in _CHECKS)
    raise InvalidInput(f"Checks exist for instances of {kinds}, got {describe(instance)}.")


def report_conformance(instance: Any, *arguments: Any) -> ConformanceReport:
    """Run all checks of an instance.

    Args:
        instance: As for `checks_of`.
        *arguments: As for the function of its kind, such as the model and the images of `check_method`.

    Returns:
        The results, which `print` shows with what each failed check observed and expected, and how to fix it.

    Raises:
        InvalidInput: As for `checks_of`.
    """
    return ConformanceReport(one_line(repr(instance)), tuple(run_checks(checks_of(instance), instance, *arguments)))


def parametrize_with_checks(instances: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that runs a pytest test for every check of every instance.

    The test has the arguments `instance` and `check`, and calls ``check(instance)``. Checks that do not apply are
    skipped, with the reason.

    Args:
        instances: As for `checks_of`.

    Raises:
        InvalidInput: As for `checks_of`.
    """
    import pytest  # a dependency of the tests only

    cases = [
        pytest.param(instance, check, id=f"{getattr(instance, 'name', type(instance).__name__)}-{check.name}")
        for instance in instances
        for check in checks_of(instance)
    ]
    return pytest.mark.parametrize(("instance", "check"), cases)
