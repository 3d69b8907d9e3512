"""A Lightning callback that explains fixed images after validation epochs."""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from attribkit import AttribkitError, Attribution, Explainer, InvalidInput, Method, UnsupportedModel, registry

from ._images import Reduction
from ._loggers import image_writer, log_attribution

try:
    from lightning.pytorch import Callback  # type: ignore[import-not-found]  # an optional library
except ImportError:
    try:
        from pytorch_lightning import Callback  # type: ignore[import-not-found]
    except ImportError as error:
        raise AttribkitError(
            "AttributionCallback needs Lightning: pip install 'attribkit-logging[lightning]'."
        ) from error

_SHARDED = {"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"}


class AttributionCallback(Callback):  # type: ignore[misc]  # the base is Any if Lightning is not installed
    """Explain fixed images after validation epochs, and log the heat maps.

    Training is not affected: the weights are bit-identical to those without the callback. The model is explained in
    evaluation mode and in full precision of its weights, outside of autocast. Its training flags, gradients, hooks and
    buffers and the random states are restored. Only the process of global rank zero computes and logs. Nothing is
    explained during the sanity check.

    The images are logged to all loggers of the trainer that `log_attribution` accepts, at ``trainer.global_step``.

    Args:
        images: Images, (b, c, h, w), preprocessed as for validation. They are moved to the device and the dtype of the
            module.
        method: Name, class or instance of a method.
        every_n_epochs: Number of epochs between two explanations. If an epoch has several validations, each counts.
        target: As for `Explainer.attribute`. None means the predicted class, which may change during training: pass the
            true classes as a list to follow one class.
        name: Name under which the images are logged.
        module: Dotted name of the part of the LightningModule to explain, such as "backbone"; None means the module
            itself, by its ``forward``. A part that attribkit has a `ModelSpec` for, such as a model of timm, is
            explained better by its name. A ``forward`` that calls ``self.log`` can only be explained by a part of it.
        inputs: As for `Explainer.attribute`; on the device of the module.
        errors: "warn" if the images cannot be explained, and continue with the training, or "raise".
        pictures: As for `attribution_images`.
        labels: As for `attribution_images`.
        reduce: As for `attribution_images`.
        **options: Options of the method, if it is not an instance. A layer is given by its dotted name.

    Raises:
        UnknownName: If the method or an option does not exist.
        InvalidInput: If an argument is not valid.

    Example:
        >>> callback = AttributionCallback(images, "gradcam", target=[3, 5], name="validation images")
        >>> Trainer(logger=TensorBoardLogger("runs"), callbacks=[callback]).fit(module, loader, validation_loader)
    """

    def __init__(
        self,
        images: Tensor,
        method: str | type[Method] | Method = "gradcam",
        every_n_epochs: int = 1,
        *,
        target: Any = None,
        name: str = "attribution",
        module: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        errors: Literal["warn", "raise"] = "warn",
        pictures: Sequence[ndarray] | None = None,
        labels: Sequence[str] = (),
        reduce: Reduction = "sum",
        **options: Any,
    ) -> None:
        super().__init__()
        _check_images(images)
        if not isinstance(every_n_epochs, int) or isinstance(every_n_epochs, bool) or every_n_epochs < 1:
            raise InvalidInput(f"every_n_epochs must be a positive integer, got {every_n_epochs!r}.")
        if errors not in ("warn", "raise"):
            raise InvalidInput(f"errors must be 'warn' or 'raise', got {errors!r}.")
        self.images = images.detach().clone()
        self.method = registry.make(method, Method, **options)
        self.every_n_epochs, self.target, self.name = every_n_epochs, target, name
        self.module, self.inputs, self.errors = module, inputs, errors
        self._drawing: dict[str, Any] = {"pictures": pictures, "labels": labels, "reduce": reduce}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the loggers and the strategy, and the name of the explained part, before the training begins.

        Raises:
            InvalidInput: If none of the loggers can store images, or the module does not have the part.
            UnsupportedModel: If the strategy distributes the parameters over several processes.
        """
        if stage not in ("fit", "validate"):
            return
        sharded = [cls.__name__ for cls in type(trainer.strategy).__mro__ if cls.__name__ in _SHARDED]
        if sharded:
            raise UnsupportedModel(
                f"AttributionCallback runs the model in one process, but {sharded[0]} may distribute its parameters "
                "over several processes: train with DDP or on one device, or explain a checkpoint after the training."
            )
        self._explained(pl_module)
        if not trainer.fast_dev_run and not _image_loggers(trainer):
            names = [type(each).__name__ for each in trainer.loggers]
            raise InvalidInput(
                f"None of the loggers of the trainer can store images, got {names}: pass Trainer(logger=...) a "
                "TensorBoardLogger, WandbLogger or MLFlowLogger."
            )

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Explain the images and log them, if it is their epoch."""
        is_fitting = trainer.state.fn == "fit"
        is_due = not is_fitting or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.sanity_checking or not trainer.is_global_zero or not is_due:
            return
        with _random_states_restored(pl_module.device):
            try:
                self._log(trainer, self.explain(pl_module))
            except AttribkitError as error:
                if self.errors == "raise":
                    raise
                message = f"The images were not explained at step {trainer.global_step}: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    def explain(self, pl_module: Any) -> Attribution:
        """Return the attribution of the images.

        Args:
            pl_module: The LightningModule.

        Raises:
            AttribkitError: As for `Explainer.attribute`.
        """
        explained = self._explained(pl_module)
        floating = (each.dtype for each in explained.parameters() if each.is_floating_point())
        device_type = pl_module.device.type
        # Lightning validates in inference mode, whose tensors autograd cannot use, and some strategies in autocast.
        with torch.inference_mode(False), torch.autocast(device_type, enabled=False):
            images = self.images.to(pl_module.device, next(floating, self.images.dtype))
            return Explainer(explained).attribute(images, self.method, target=self.target, inputs=self.inputs)

    def _explained(self, pl_module: Any) -> nn.Module:
        """Return the part of the module to explain."""
        if self.module is None:
            part = pl_module
        else:
            try:
                part = pl_module.get_submodule(self.module)
            except AttributeError as error:
                names = [name for name, _ in pl_module.named_children()]
                raise InvalidInput(
                    f"module must be the dotted name of a part of {type(pl_module).__name__}, got {self.module!r}; its "
                    f"direct parts are {names}."
                ) from error
        return part

    def _log(self, trainer: Any, attribution: Attribution) -> None:
        """Log an attribution to the loggers that can store images."""
        for logger in [] if trainer.fast_dev_run else _image_loggers(trainer):
            log_attribution(logger, attribution, self.name, trainer.global_step, **self._drawing)


def _check_images(images: Any) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images) or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InvalidInput(
            f"images must be a floating-point tensor (b, c, h, w) of at least one image, got {got}: stack preprocessed "
            "images with torch.stack."
        )


def _image_loggers(trainer: Any) -> list[Any]:
    """Return the loggers of a trainer that can store images."""
    return [logger for logger in trainer.loggers if _stores_images(logger)]


def _stores_images(logger: Any) -> bool:
    try:
        image_writer(logger)
    except InvalidInput:
        return False
    return True


@contextmanager
def _random_states_restored(device: torch.device) -> Iterator[None]:
    """Restore the global random states of Python, NumPy and PyTorch, also those of the device, on exit.

    Explainer restores what the explanation draws only if no other thread has run meanwhile; loggers have threads, and
    some draw numbers themselves.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the global state is the one to save
    devices = [] if device.type == "cpu" else [device]
    device_type = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices, device_type=device_type):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
