"""Conformance checks: what a check is, the error that it raises, and the report of all checks of an instance."""

import traceback
import unittest
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import attribkit
from attribkit._core.errors import one_line
from attribkit._display.representations import clip

_LIBRARIES = (str(Path(attribkit.__file__).parent), "site-packages", "<frozen")


class ConformanceError(AssertionError):
    """A violation of the contract of a plugin class.

    Args:
        observed: What the check found.
        expected: What the contract requires.
        fix: How to satisfy the contract.
        check: Name of the check.
        subject: The instance that was checked.
    """

    def __init__(self, observed: str, expected: str, fix: str, check: str = "", subject: str = "") -> None:
        super().__init__(observed, expected, fix, check, subject)
        self.observed, self.expected, self.fix = observed, expected, fix
        self.check, self.subject = check, subject

    def __str__(self) -> str:
        return (
            f"check {self.check!r} failed for {self.subject}\n"
            f"  observed: {self.observed}\n"
            f"  expected: {self.expected}\n"
            f"  to fix:   {self.fix}"
        )


class NotApplicable(unittest.SkipTest):
    """A check that does not apply to an instance; pytest reports it as skipped, with the reason."""


def require(condition: object, observed: str, expected: str, fix: str) -> None:
    """Raise a ConformanceError unless the condition is true; see there for the arguments."""
    if not condition:
        raise ConformanceError(observed, expected, fix)


@dataclass(frozen=True)
class Check:
    """One check of the contract, which is called with an instance of a plugin class.

    Args:
        name: Name of the check.
        function: Raises a ConformanceError if the instance violates the contract.
        examples: Returns default values of the other arguments of `function`, such as a model and images.
    """

    name: str
    function: Callable[..., None]
    examples: Callable[[Any], tuple[Any, ...]]

    def __call__(self, instance: Any, *arguments: Any) -> None:
        """Check an instance.

        Args:
            instance: An instance of a plugin class.
            *arguments: For methods and metrics a model and images, for visualizers a model and the shape of an image;
                by default a small network that the instance supports.

        Raises:
            ConformanceError: If the instance violates the contract.
            NotApplicable: If the check does not apply, or is one of the `expected_failures` and fails.
        """
        reason = getattr(instance, "expected_failures", {}).get(self.name)
        try:
            self._run(instance, arguments)
        except ConformanceError as error:
            if reason:
                raise NotApplicable(f"expected failure: {reason}") from error
            raise _named(error, self.name, instance) from error.__cause__
        if reason:
            passes = ConformanceError(
                f"the check is listed in `expected_failures`, but passes (listed reason: {reason})",
                "only checks that fail are listed",
                f"remove {self.name!r} from `expected_failures`",
            )
            raise _named(passes, self.name, instance)

    def _run(self, instance: Any, arguments: tuple[Any, ...]) -> None:
        """Run the function; any other exception is a violation too."""
        try:
            self.function(instance, *(arguments or self.examples(instance)))
        except (ConformanceError, NotApplicable):
            raise
        except (Exception, SystemExit) as error:
            raise ConformanceError(
                f"{type(error).__name__}: {one_line(str(error))}{_location(error)}",
                "no error",
                "correct the error; raise UnsupportedModel for models that do not meet the requirements",
            ) from error


def _location(error: BaseException) -> str:
    """Return the innermost line of the traceback outside attribkit and installed libraries, in brackets; or nothing."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _LIBRARIES)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Args:
        check: Name of the check.
        outcome: "passed", "failed" or "skipped".
        error: The violation, if the check failed.
        reason: Why the check was skipped.
    """

    check: str
    outcome: Outcome
    error: ConformanceError | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.error:
            details = str(self.error).partition("\n")[2]
            return f"{self.outcome:8} {self.check}\n{details}"
        return f"{self.outcome:8} {self.check}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class ConformanceReport:
    """The results of all checks of one instance; `print` shows them with the details of each failure.

    Args:
        subject: The instance that was checked.
        results: The results in the order of the checks.
    """

    subject: str
    results: tuple[CheckResult, ...]

    def __repr__(self) -> str:
        counts = Counter(result.outcome for result in self.results)
        shown = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"ConformanceReport({clip(self.subject, 300)}: {shown})"

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.outcome == "failed")

    def __str__(self) -> str:
        count = {outcome: sum(result.outcome == outcome for result in self.results) for outcome in _OUTCOMES}
        summary = ", ".join(f"{number} {outcome}" for outcome, number in count.items())
        lines, first = [f"{self.subject}: {summary}"], dict[str, str]()
        for result in self.results:
            details = str(result.error).partition("\n")[2]
            if result.error and first.setdefault(details, result.check) != result.check:
                lines.append(f"  {result.outcome:8} {result.check}: as {first[details]}")
            else:
                lines.append(f"  {_indented(result)}")
        return "\n".join(lines)


_OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "skipped")


def _indented(result: CheckResult) -> str:
    return str(result).replace("\n", "\n    ")


def run_checks(checks: "CheckList", instance: Any, *arguments: Any) -> Iterator[CheckResult]:
    """Yield the result of each check; only one failure if the instance supports none of the examples."""
    try:
        arguments = arguments or checks.examples(instance)
    except ConformanceError as error:
        reason = instance.expected_failures.get("example")
        failed = CheckResult("example", "failed", _named(error, "example", instance))
        yield CheckResult("example", "skipped", reason=f"expected failure: {reason}") if reason else failed
        return
    for check in checks:
        try:
            check(instance, *arguments)
        except ConformanceError as error:
            yield CheckResult(check.name, "failed", error)
        except NotApplicable as skip:
            yield CheckResult(check.name, "skipped", reason=str(skip))
        else:
            yield CheckResult(check.name, "passed")


def raise_first_failure(checks: "CheckList", instance: Any, *arguments: Any) -> None:
    """Run checks until one fails, and raise its ConformanceError."""
    for result in run_checks(checks, instance, *arguments):
        if result.error:
            raise result.error


def _named(error: ConformanceError, check: str, instance: Any) -> ConformanceError:
    """Return the error with the names of the check and of the instance."""
    return ConformanceError(error.observed, error.expected, error.fix, check, one_line(repr(instance)))


class CheckList(Sequence[Check]):
    """The checks of one kind of plugin class, in the order in which they run.

    Args:
        kind: Kind of the class, such as "method"; functions of checks are named ``check_<kind>_<name>``.
        examples: See `Check`.
    """

    def __init__(self, kind: str, examples: Callable[[Any], tuple[Any, ...]]) -> None:
        self.kind, self.examples = kind, examples
        self._checks: list[Check] = []

    @overload
    def __getitem__(self, index: int) -> Check: ...

    @overload
    def __getitem__(self, index: slice) -> list[Check]: ...

    def __getitem__(self, index: int | slice) -> Check | list[Check]:
        return self._checks[index]

    def __len__(self) -> int:
        return len(self._checks)

    def add(self, function: Callable[..., None]) -> Check:
        """Add a function as a check, named after the function; a decorator."""
        name = function.__name__.removeprefix("check_").removeprefix(f"{self.kind}_")
        check = Check(name, function, self.examples)
        self._checks.append(check)
        return check
