"""[benchmark/settings/configuration] The configuration of a benchmark, checked before anything runs.
[benchmark/settings/reading] The configuration from a TOML file, and what is wrong with it, line by line.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError, field_validator

from attribkit import registry
from attribkit.benchmark.settings.choices import ConfigTable, DataChoice, MethodChoice, MetricChoice, ModelChoice
from attribkit.benchmark.settings.validation_errors import (
    InvalidConfiguration,
    setting_line,
    setting_lines,
    validation_messages,
)
from attribkit.benchmark.statistics.summary import CONTROLS, TRUTH
from attribkit.core.errors import AttribkitError, InvalidInput, UnknownName, UnreadableFile


class RayOptions(ConfigTable):
    """Where Ray finds machines, and how many of their parts a worker takes."""

    address: str | None = None  # of a running cluster, or "auto"; None starts one on this machine
    workers: PositiveInt | None = None  # None is as many as there is room for
    gpus: Annotated[float, Field(ge=0)] | None = None  # of each worker, also a fraction; None is 1 where there are some
    cpus: Annotated[float, Field(gt=0)] | None = (
        None  # of each worker; None is `threads`, or as there is room; 1 on GPUs
    )
    start_timeout: Annotated[float, Field(gt=0)] = 300.0  # seconds to wait for a worker while none is up

    @field_validator("gpus", "cpus")
    @classmethod
    def _are_whole_above_one(cls, number: float | None) -> float | None:
        if number is not None and number > 1 and not float(number).is_integer():
            raise ValueError(f"A worker takes a part of one GPU or CPU, or whole ones, not {number:g}.")
        return number


def _named(entries: Any) -> Any:
    """A bare name stands for a table that holds no more."""
    if not isinstance(entries, list):
        return entries
    return [{"name": each} if isinstance(each, str) else each for each in entries]


class Configuration(ConfigTable):
    """All that a benchmark's numbers depend on, and where they go.

    Raises InvalidInput with a sentence for each setting that does not do.
    """

    name: str = "benchmark"
    plugins: tuple[Annotated[Path, Field(strict=False)], ...] = Field((), strict=False)  # Python files of one's own
    output: Annotated[Path, Field(strict=False)]
    data: DataChoice
    models: Annotated[list[ModelChoice], Field(min_length=1), BeforeValidator(_named)]
    methods: Annotated[list[MethodChoice], Field(min_length=1), BeforeValidator(_named)]
    metrics: Annotated[list[MetricChoice], Field(min_length=1), BeforeValidator(_named)]

    target: Literal["label", "predicted"] = "label"  # a sample without a label is explained for the predicted class
    oracle: Annotated[str | Literal[False], Field(validate_default=True)] = (
        "occlusion"  # the method that faithfulness is measured against
    )
    controls: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # as torch and numpy both take it
    shard_size: PositiveInt = 32  # images that are explained together
    batch_size: PositiveInt | Literal["auto"] = "auto"  # images at a time, as for `Explainer`
    device: str = "auto"
    threads: PositiveInt = 4  # within an operation on the CPU: rows depend on it, so machines do not choose it
    save_maps: bool = False
    save_details: bool = False  # curves, and what else metrics have beside their numbers
    executor: Literal["serial", "ray"] = "serial"
    ray: RayOptions = RayOptions()

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise validation_messages(error, type(self), settings) from None

    @field_validator("plugins")
    @classmethod
    def _are_registered(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        try:
            for file in files:
                registry.register_file(file)
        except AttribkitError as error:
            raise ValueError(str(error)) from error
        return files

    @field_validator("models", "methods", "metrics")
    @classmethod
    def _are_told_apart(cls, entries: list[Any]) -> list[Any]:
        counts = Counter(each.title.casefold() for each in entries)  # folders of some systems know no cases
        if taken := [each.title for each in entries if counts[each.title.casefold()] > 1]:
            raise ValueError(f"Two entries are called {taken[0]!r} in tables: give one of them a label.")
        return entries

    @field_validator("methods")
    @classmethod
    def _leave_controls_their_names(cls, methods: list[MethodChoice]) -> list[MethodChoice]:
        for method in methods:
            control = method.title.casefold()  # folders of some systems know no cases
            if control == TRUTH or (control in CONTROLS and method.name != method.title):
                raise ValueError(f"{method.title!r} is what tables call a control: give the method another label.")
        return methods

    @field_validator("oracle")
    @classmethod
    def _oracle_is_known(cls, oracle: str | bool, info: Any) -> str | bool:
        titles = [method.title for method in info.data.get("methods", ())]
        known = list(dict.fromkeys([*titles, *registry.methods()]))
        if isinstance(oracle, str) and oracle not in known:
            raise ValueError(str(UnknownName("method", oracle, known)))
        if isinstance(oracle, str) and oracle not in titles:
            for title in (each for each in titles if each.casefold() == oracle.casefold()):
                raise ValueError(
                    f"The oracle {oracle!r} and the method {title!r} have one folder where systems know no cases: set "
                    f"oracle = {title!r}, or give the method another label."
                )
        return oracle


def read_configuration(path: str | Path) -> Configuration:
    """The configuration that a TOML file holds; one sentence with its line for all that is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Windows' editors begin a file with a mark
        told = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            f"{str(path)!r} cannot be read ({error}): `attribkit benchmark --example` prints one to begin with."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is no TOML: {error}.") from error
    with add_line_numbers(path):
        return Configuration(**told)


@contextmanager
def add_line_numbers(path: str | Path) -> Iterator[None]:
    """What is wrong with the configuration that a file holds is told with the lines of the file."""
    try:
        yield
    except InvalidConfiguration as error:
        text = Path(path).read_text(encoding="utf-8-sig")
        raise InvalidInput("\n".join(_with_lines(error, str(path), text))) from error


def example() -> str:
    """A configuration that runs offline within a minute."""
    return (files("attribkit.benchmark.settings") / "example.toml").read_text(encoding="utf-8")


def _with_lines(complaints: InvalidConfiguration, path: str, text: str) -> Iterator[str]:
    """A sentence for each, in the order of the file; what is missing from all of it comes first."""
    lines = setting_lines(text)
    found = [(setting_line(place, lines) or 0, sentence) for place, sentence in complaints.found]
    for line, sentence in sorted(found):
        yield f"{path}, line {line}: {sentence}" if line else f"{path}: {sentence}"
