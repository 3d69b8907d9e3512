"""Logging of attributions as images to experiment trackers, which are recognised by the types of their loggers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from types import ModuleType
from typing import Any

from numpy import ndarray
from PIL import Image

from attribkit import Attribution, Comparison, InvalidInput

from ._images import LoggedImage, Reduction, attribution_images

_LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")
_ACCEPTED = (
    "a SummaryWriter of torch.utils.tensorboard or tensorboardX; a run of Weights & Biases (wandb.init()) or the "
    "module wandb; an MLflow run (mlflow.start_run()), the module mlflow, or an MlflowClient with run_id=...; and the "
    "Lightning loggers TensorBoardLogger, WandbLogger and MLFlowLogger"
)


@dataclass(frozen=True, eq=False)
class Entry:
    """The images of one call of `log_attribution`.

    Args:
        name: The name under which they appear.
        images: The images.
        step: The step; None means that of the logger.
        run_id: The run of an MlflowClient.
    """

    name: str
    images: Sequence[LoggedImage]
    step: int | None
    run_id: str | None = None

    def captions(self) -> str:
        """Return a list of the captions in Markdown, for loggers whose images do not have captions."""
        return "\n".join(f"- `{self.name}/{each.key}`: {each.caption}" for each in self.images)


def log_attribution(
    logger: Any,
    attribution: Attribution | Comparison,
    name: str,
    step: int | None = None,
    *,
    pictures: Sequence[ndarray] | None = None,
    labels: Sequence[str] = (),
    reduce: Reduction = "sum",
    run_id: str | None = None,
) -> None:
    """Log an attribution as images: each input in grey with its coloured heat map over it.

    All loggers receive the same bytes, those of `attribution_images`. The captions name the method with its options,
    the target and the layer:

    - TensorBoard: images ``name/0``, ``name/1`` ..., and a text ``name/captions`` in the tab "Text".
    - Weights & Biases: one entry ``name``, a list of images with captions.
    - MLflow: images ``name/0``, ``name/1`` ..., and an artifact ``name/captions.md``, or ``name/captions_STEP.md``.

    Of a comparison, the images are named ``name/0/gradcam``, ``name/0/saliency`` ....

    Args:
        logger: A ``SummaryWriter`` of torch.utils.tensorboard or tensorboardX; a run of Weights & Biases, or the module
            ``wandb`` for its current run; a run of MLflow, the module ``mlflow`` for its active run, or an
            ``MlflowClient``; or a ``TensorBoardLogger``, ``WandbLogger`` or ``MLFlowLogger`` of Lightning.
        attribution: A result of `Explainer.attribute` or `Explainer.compare`, for images (b, c, h, w).
        name: The name under which the images appear.
        step: The step of the training; None means that of the logger.
        pictures: As for `attribution_images`.
        labels: As for `attribution_images`.
        reduce: As for `attribution_images`.
        run_id: The run of an ``MlflowClient``.

    Raises:
        InvalidInput: If the logger cannot store images or is not known, or another argument is not valid.

    Example:
        >>> log_attribution(writer, explainer.attribute(x, "gradcam"), "gradcam", step=epoch)
        >>> log_attribution(run, explainer.compare(x, ["gradcam", "saliency"]), "maps", labels=class_names)
    """
    write = image_writer(logger)
    _check_arguments(name, step)
    if (run_id is not None) != (write is _to_mlflow_client):
        raise InvalidInput(
            f"run_id is needed for an MlflowClient and for no other logger, got run_id={run_id!r} and "
            f"{type(logger).__name__}: pass run_id=run.info.run_id with a client."
        )
    images = attribution_images(attribution, pictures=pictures, labels=labels, reduce=reduce)
    write(logger, Entry(name, images, None if step is None else int(step), run_id))


def image_writer(logger: Any) -> "Writer":
    """Return the function that logs images to a logger.

    Args:
        logger: As for `log_attribution`.

    Raises:
        InvalidInput: If the logger cannot store images, or is not known.
    """
    if isinstance(logger, ModuleType) and logger.__name__ in _MODULE_WRITERS:
        return _MODULE_WRITERS[logger.__name__]
    for cls in type(logger).__mro__:
        package = cls.__module__.partition(".")[0]
        if (package, cls.__name__) in _WRITERS:
            return _WRITERS[package, cls.__name__]
        if package in _LIGHTNING and cls.__name__ == "CSVLogger":
            raise InvalidInput(f"A CSVLogger stores numbers and cannot store images. Accepted are {_ACCEPTED}.")
    got = f"the module {logger.__name__}" if isinstance(logger, ModuleType) else _type_name(logger)
    raise InvalidInput(f"Attributions cannot be logged to {got}. Accepted are {_ACCEPTED}.")


def _check_arguments(name: Any, step: Any) -> None:
    if not isinstance(name, str) or not name.strip("/ "):
        raise InvalidInput(f"name must be a string that is not empty, such as 'gradcam', got {name!r}.")
    if step is not None and (isinstance(step, bool) or not isinstance(step, Integral) or int(step) < 0):
        raise InvalidInput(f"step must be an integer of 0 or greater, or None, got {step!r}.")


def _type_name(logger: Any) -> str:
    return f"an object of the type {type(logger).__module__}.{type(logger).__qualname__}"


def _to_summary_writer(writer: Any, entry: Entry) -> None:
    for each in entry.images:
        writer.add_image(f"{entry.name}/{each.key}", each.picture, entry.step, dataformats="HWC")
    writer.add_text(f"{entry.name}/captions", entry.captions(), entry.step)


def _to_wandb_run(run: Any, entry: Entry) -> None:
    import wandb  # type: ignore[import-not-found]  # an optional library

    images = [wandb.Image(Image.fromarray(each.picture), caption=each.caption) for each in entry.images]
    run.log({entry.name: images}, step=entry.step)


def _to_wandb(wandb: Any, entry: Entry) -> None:
    if wandb.run is None:
        raise InvalidInput("The module wandb has no current run: call wandb.init() first, or pass the run.")
    _to_wandb_run(wandb.run, entry)


def _to_mlflow_client(client: Any, entry: Entry) -> None:
    for each in entry.images:
        key = f"{entry.name}/{each.key}"
        client.log_image(entry.run_id, Image.fromarray(each.picture), key=key, step=entry.step)
    suffix = "" if entry.step is None else f"_{entry.step}"
    client.log_text(entry.run_id, entry.captions(), f"{entry.name}/captions{suffix}.md")


def _to_mlflow_run(run: Any, entry: Entry) -> None:
    from mlflow import MlflowClient  # type: ignore[import-not-found]  # an optional library

    _to_mlflow_client(MlflowClient(), Entry(entry.name, entry.images, entry.step, run.info.run_id))


def _to_mlflow(mlflow: Any, entry: Entry) -> None:
    run = mlflow.active_run()
    if run is None:
        raise InvalidInput("The module mlflow has no active run: call mlflow.start_run() first, or pass the run.")
    _to_mlflow_run(run, entry)


def _to_tensorboard_logger(logger: Any, entry: Entry) -> None:
    _to_summary_writer(logger.experiment, entry)


def _to_wandb_logger(logger: Any, entry: Entry) -> None:
    images = [Image.fromarray(each.picture) for each in entry.images]
    captions = [each.caption for each in entry.images]
    logger.log_image(entry.name, images, step=entry.step, caption=captions)


def _to_mlflow_logger(logger: Any, entry: Entry) -> None:
    _to_mlflow_client(logger.experiment, Entry(entry.name, entry.images, entry.step, logger.run_id))


Writer = Callable[[Any, Entry], None]

_MODULE_WRITERS: dict[str, Writer] = {"wandb": _to_wandb, "mlflow": _to_mlflow}
_WRITERS: dict[tuple[str, str], Writer] = {  # by the package and the name of the class
    ("torch", "SummaryWriter"): _to_summary_writer,
    ("tensorboardX", "SummaryWriter"): _to_summary_writer,
    ("wandb", "Run"): _to_wandb_run,
    ("wandb", "NoopRun"): _to_wandb_run,  # of wandb.init(mode="disabled")
    ("wandb", "RunDisabled"): _to_wandb_run,  # the same in earlier versions
    ("mlflow", "ActiveRun"): _to_mlflow_run,
    ("mlflow", "MlflowClient"): _to_mlflow_client,
}
for _package in _LIGHTNING:
    _WRITERS[_package, "TensorBoardLogger"] = _to_tensorboard_logger
    _WRITERS[_package, "WandbLogger"] = _to_wandb_logger
    _WRITERS[_package, "MLFlowLogger"] = _to_mlflow_logger
