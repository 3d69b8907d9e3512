"""The configuration of a benchmark, which is checked completely before anything runs."""

import tomllib
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError, field_validator

from attribkit import registry
from attribkit._core.errors import AttribkitError, InvalidInput, UnknownName, UnreadableFile
from attribkit._display.representations import short_value
from attribkit.benchmark._settings.choices import ConfigTable, DataChoice, MethodChoice, MetricChoice, ModelChoice
from attribkit.benchmark._settings.validation_errors import validation_message
from attribkit.benchmark._statistics.summary import CONTROLS, TRUTH


class RayOptions(ConfigTable):
    """The Ray cluster, and the resources of each worker.

    Args:
        address: Address of a running cluster, or "auto"; None starts a cluster on this machine.
        workers: Number of workers; None means as many as the cluster has room for.
        gpus: GPUs of each worker, also a fraction of one; None means 1 if the device is a GPU, otherwise 0.
        cpus: CPUs of each worker, also a fraction of one; None means 1 if the device is a GPU, otherwise `threads`,
            or fewer if there is not enough room.
        start_timeout: Seconds to wait for a worker while none is running.
    """

    address: str | None = None
    workers: PositiveInt | None = None
    gpus: Annotated[float, Field(ge=0)] | None = None
    cpus: Annotated[float, Field(gt=0)] | None = None
    start_timeout: Annotated[float, Field(gt=0)] = 300.0

    @field_validator("gpus", "cpus")
    @classmethod
    def _check_whole_above_one(cls, number: float | None) -> float | None:
        if number is not None and number > 1 and not float(number).is_integer():
            raise ValueError(f"The number for each worker must be at most 1, or a whole number, got {number:g}.")
        return number


def _expand_names(entries: Any) -> Any:
    """Replace each bare name in a list by a table with this name."""
    if not isinstance(entries, list):
        return entries
    return [{"name": each} if isinstance(each, str) else each for each in entries]


class Configuration(ConfigTable):
    """The settings of a benchmark: all that its numbers depend on, and the output folder.

    Args:
        name: Name of the benchmark.
        plugins: Python files that define further methods and metrics.
        output: Folder for the rows and tables.
        data: The data set.
        models: The models; a bare name is a model without further settings.
        methods: The methods; a bare name is a method with its default options.
        metrics: The metrics; a bare name is a metric with its default options.
        target: Class that is explained: that of the data, or the predicted one. A sample without a label is explained
            for the predicted class.
        oracle: Label or name of the method that scores 1 in normalised faithfulness; False disables these scores.
        controls: Whether to include control methods and the ground-truth mask.
        seed: Seed of all random numbers and of the bootstrap.
        shard_size: Number of images that are explained together.
        batch_size: Number of images in a forward of the model, as for `Explainer`.
        device: Device of the models, such as "cpu" or "cuda:1", or "auto".
        threads: Threads in each CPU operation. The rows depend on it, which is why it is not chosen by machine.
        save_maps: Whether to save the maps.
        save_details: Whether to save curves and other details of the metrics.
        executor: "serial" for one process, or "ray".
        ray: Options of the executor "ray".

    Raises:
        InvalidInput: If settings are not valid, with a sentence and the path of the key for each.
    """

    name: str = "benchmark"
    plugins: tuple[Annotated[Path, Field(strict=False)], ...] = Field((), strict=False)
    output: Annotated[Path, Field(strict=False)]
    data: DataChoice
    models: Annotated[list[ModelChoice], Field(min_length=1), BeforeValidator(_expand_names)]
    methods: Annotated[list[MethodChoice], Field(min_length=1), BeforeValidator(_expand_names)]
    metrics: Annotated[list[MetricChoice], Field(min_length=1), BeforeValidator(_expand_names)]

    target: Literal["label", "predicted"] = "label"
    oracle: Annotated[str | Literal[False], Field(validate_default=True)] = "occlusion"
    controls: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # the range that torch and numpy accept
    shard_size: PositiveInt = 32
    batch_size: PositiveInt | Literal["auto"] = "auto"
    device: str = "auto"
    threads: PositiveInt = 4
    save_maps: bool = False
    save_details: bool = False
    executor: Literal["serial", "ray"] = "serial"
    ray: RayOptions = RayOptions()

    def __init__(self, /, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise InvalidInput(validation_message(error, type(self), settings)) from None

    def __repr__(self) -> str:
        chosen = {kind: [each.title for each in getattr(self, kind)] for kind in ("models", "methods", "metrics")}
        shown = "".join(f", {kind} {short_value(titles)}" for kind, titles in chosen.items())
        return f"Configuration({self.name!r}{shown}, output {str(self.output)!r})"

    @field_validator("plugins")
    @classmethod
    def _register(cls, files: tuple[Path, ...]) -> tuple[Path, ...]:
        try:
            for file in files:
                registry.register_file(file)
        except AttribkitError as error:
            raise ValueError(str(error)) from error
        return files

    @field_validator("models", "methods", "metrics")
    @classmethod
    def _check_unique(cls, entries: list[Any]) -> list[Any]:
        counts = Counter(each.title.casefold() for each in entries)  # some file systems ignore case
        if repeated := [each.title for each in entries if counts[each.title.casefold()] > 1]:
            raise ValueError(f"Two entries have the label {repeated[0]!r}. Give one of them a different label.")
        return entries

    @field_validator("methods")
    @classmethod
    def _check_reserved(cls, methods: list[MethodChoice]) -> list[MethodChoice]:
        for method in methods:
            title = method.title.casefold()  # some file systems ignore case
            if title == TRUTH or (title in CONTROLS and method.name != method.title):
                raise ValueError(
                    f"The label {method.title!r} is reserved for a control. Give the method a different label."
                )
        return methods

    @field_validator("oracle")
    @classmethod
    def _check_oracle(cls, oracle: str | bool, info: Any) -> str | bool:
        titles = [method.title for method in info.data.get("methods", ())]
        known = list(dict.fromkeys([*titles, *registry.methods()]))
        if isinstance(oracle, str) and oracle not in known:
            raise ValueError(str(UnknownName("method", oracle, known)))
        if isinstance(oracle, str) and oracle not in titles:
            for title in (each for each in titles if each.casefold() == oracle.casefold()):
                raise ValueError(
                    f"The oracle {oracle!r} and the method {title!r} differ only in case, which some file systems "
                    f"ignore. Set oracle = {title!r}, or give the method a different label."
                )
        return oracle


def read_configuration(path: str | Path) -> Configuration:
    """Read a configuration from a TOML file.

    Args:
        path: Path of the file.

    Returns:
        The configuration.

    Raises:
        UnreadableFile: If the file cannot be read.
        InvalidInput: If it is not valid TOML, or settings are not valid.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
        settings = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableFile(
            f"{str(path)!r} cannot be read ({reason}). `attribkit benchmark --example` prints a configuration to start "
            "from."
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}.") from error
    try:
        return Configuration(**settings)
    except InvalidInput as error:
        raise InvalidInput(f"{path} is not a valid configuration:\n{error}") from error


def example() -> str:
    """Return a configuration in TOML that runs offline within a minute."""
    return (files("attribkit.benchmark._settings") / "example.toml").read_text(encoding="utf-8")
