"""The Lightning callback: what it logs, and that training does not depend on it."""

# mypy: allow-untyped-defs

import copy
import io
import random
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attribkit import AttribkitError, Explainer, Method
from attribkit.testing import changes, model_state, tiny_cnn
from attribkit_logging import attribution_images

lightning = pytest.importorskip("lightning.pytorch")
pytest.importorskip("tensorboard")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{each}Warning") for each in ("User", "Deprecation", "Future")
]  # Lightning

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402

from attribkit_logging import AttributionCallback  # noqa: E402  # needs Lightning
from attribkit_logging import _callback as callback_module  # noqa: E402

EPOCHS, BATCHES = 2, 4


class Classifier(lightning.LightningModule):
    """A small CNN with batch norm and dropout, of which one module is kept in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.net = tiny_cnn()
        self.frozen = nn.BatchNorm2d(3).eval().requires_grad_(False)
        self.calls = 0

    def forward(self, x):
        return self.net(self.frozen(x))

    def training_step(self, batch, _index):
        x, y = batch
        return nn.functional.cross_entropy(self(x + 0.1 * torch.randn_like(x)), y)

    def validation_step(self, batch, _index):
        self.log("loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-2)


@dataclass(frozen=True)
class DrawsNumbers(Method):
    """A map of random numbers of all global generators."""

    name = "draws_numbers"
    source = "a test"

    def __call__(self, model, x, target):
        return torch.rand_like(x[:, :1]) + random.random() + np.random.rand() + model.score(x, target).mean()  # noqa: NPY002


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def data():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 3, 16, 16, generator=generator), torch.randint(5, (12,), generator=generator)
    return DataLoader(TensorDataset(x, y), 3, shuffle=True), DataLoader(TensorDataset(x, y), 6)


def fit(folder, callbacks, library=lightning, module=Classifier, loggers=None, **options):
    """Train, and return the trainer and the trained module."""
    library.seed_everything(0)
    trained = module()
    settings = {"max_epochs": EPOCHS, "accelerator": "cpu", "enable_progress_bar": False, "enable_checkpointing": False}
    settings |= {"enable_model_summary": False, "log_every_n_steps": 1}
    loggers = [TensorBoardLogger(folder, name="", version="")] if loggers is None else loggers
    trainer = library.Trainer(logger=loggers, callbacks=callbacks, **(settings | options))
    trainer.fit(trained, *data())
    for logger in trainer.loggers:
        logger.finalize("success")
    return trainer, trained


def outcome(trainer, module):
    """Everything that a training leads to: weights, buffers, the optimizer's state, flags, and the random states."""
    state = copy.deepcopy((module.state_dict(), trainer.optimizers[0].state_dict()["state"]))
    flags = {name: each.training for name, each in module.named_modules()}
    return state, flags, (random.getstate(), repr(np.random.get_state()), torch.get_rng_state())  # noqa: NPY002


def are_equal(first, second):
    """Whether nested containers of tensors are equal bit by bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(are_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(are_equal, first, second))
    return first == second


def logged(folder, name="attribution"):
    """The pictures by step and key."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"images": 0}).Reload()
    return {
        (each.step, tag.removeprefix(f"{name}/")): np.asarray(Image.open(io.BytesIO(each.encoded_image_string)))
        for tag in events.Tags()["images"]
        for each in events.Images(tag)
    }


UNEVEN = {"accumulate_grad_batches": 3, "val_check_interval": 0.5}  # gradients are pending during validations


@pytest.mark.parametrize("method", ["gradcam", "rise", DrawsNumbers()], ids=["gradcam", "rise", "draws numbers"])
def test_training_is_bit_identical(tmp_path, images, method):
    options = {"masks": 20} if method == "rise" else {}
    without = outcome(*fit(tmp_path / "a", [], **UNEVEN))
    callback = AttributionCallback(images, method, **options)
    assert are_equal(outcome(*fit(tmp_path / "b", [callback], **UNEVEN)), without)
    assert len({step for step, _ in logged(tmp_path / "b")}) > 1


def test_the_comparison_detects_drawn_numbers(tmp_path, images, monkeypatch):
    without = outcome(*fit(tmp_path / "a", []))
    monkeypatch.setattr(callback_module, "_random_states_restored", nullcontext)
    monkeypatch.setattr("attribkit._state.hooks.RandomDraws.undo", lambda self: None)
    assert not are_equal(outcome(*fit(tmp_path / "b", [AttributionCallback(images, DrawsNumbers())])), without)


class Watch(lightning.Callback):
    """Records the state of the module before or after the explanation, and a copy of the module."""

    def __init__(self):
        self.states, self.copies = [], {}

    def on_validation_end(self, trainer, pl_module):
        if trainer.sanity_checking:
            return
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        self.states.append((model_state(pl_module), dict(vars(pl_module)), modes))
        bare = Classifier()
        bare.load_state_dict(pl_module.state_dict())
        self.copies[trainer.global_step] = bare


def test_the_module_is_left_as_found(tmp_path, images):
    before, after = Watch(), Watch()
    callback = AttributionCallback(images, "gradcam")
    _, module = fit(tmp_path, [before, callback, after], **UNEVEN)
    assert len(before.states) == 2 * EPOCHS
    for (state, attributes, modes), (state_after, attributes_after, modes_after) in zip(
        before.states, after.states, strict=True
    ):
        assert changes(state, state_after) == []
        assert attributes.keys() == attributes_after.keys()
        assert all(attributes[name] is attributes_after[name] for name in attributes)
        assert modes == modes_after
        assert not modes[0]
    assert any(each is not None for each in before.states[0][0]["values of .grad"].values())  # some were pending
    assert module.net.training
    assert not module.frozen.training


def check_logged(folder, watch, images, method="gradcam", name="attribution", **options):
    """The logged pictures are those of the module as it was at their steps."""
    pictures = logged(folder, name)
    for step, key in pictures:
        attribution = Explainer(watch.copies[step]).attribute(images, method, **options)
        expected = {each.key: each.picture for each in attribution_images(attribution)}
        assert np.array_equal(pictures[step, key], expected[key])
    return sorted({step for step, _ in pictures})


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [(1, {}, [4, 8, 12, 16]), (2, {}, [8, 16]), (3, {}, [12]), (2, {"val_check_interval": 0.5}, [6, 8, 14, 16])],
)
def test_the_images_are_logged_at_their_epochs(tmp_path, images, every, options, steps):
    watch = Watch()
    callback = AttributionCallback(images, "gradcam", every, target=[3, 1])
    fit(tmp_path, [watch, callback], max_epochs=4, num_sanity_val_steps=2, **options)
    assert check_logged(tmp_path, watch, images, target=[3, 1]) == steps  # none at step 0, of the sanity check
    assert {key for _, key in logged(tmp_path)} == {"0", "1"}


def test_options_of_the_method_and_of_the_drawing(tmp_path, images):
    watch = Watch()
    pictures = [np.full((16, 16, 3), 90, np.uint8)] * 2
    options = {"layer": "net.0", "target": 2}
    callback = AttributionCallback(
        images, "gradcam", name="first layer", pictures=pictures, labels=["a"] * 5, **options
    )
    fit(tmp_path, [watch, callback], max_epochs=1)
    ((step, _), _) = logged(tmp_path, "first layer")
    attribution = Explainer(watch.copies[step]).attribute(images, "gradcam", **options)
    expected = attribution_images(attribution, pictures=pictures)[1].picture
    assert np.array_equal(logged(tmp_path, "first layer")[step, "1"], expected)


def test_a_part_of_the_module(tmp_path, images):
    watch = Watch()
    fit(tmp_path, [watch, AttributionCallback(images, "saliency", module="net")], max_epochs=1)
    ((step, _), _) = logged(tmp_path)
    attribution = Explainer(watch.copies[step].net).attribute(images, "saliency")
    assert np.array_equal(logged(tmp_path)[step, "0"], attribution_images(attribution)[0].picture)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, images, precision):
    watch = Watch()
    _, module = fit(tmp_path, [watch, AttributionCallback(images, "gradcam")], max_epochs=1, precision=precision)
    dtype = next(module.parameters()).dtype
    (copied,) = watch.copies.values()
    watch.copies = {step: copied.to(dtype) for step in watch.copies}
    assert check_logged(tmp_path, watch, images.to(dtype)) == [4]


def test_validation_without_training(tmp_path, images):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = lightning.Trainer(
        logger=logger, callbacks=[AttributionCallback(images, every_n_epochs=5)], accelerator="cpu"
    )
    trainer.validate(Classifier(), data()[1], verbose=False)
    logger.finalize("success")
    assert len(logged(tmp_path)) == 2


def test_loggers_without_images_are_left_out(tmp_path, images):
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tb", name="", version="")]
    fit(tmp_path, [AttributionCallback(images)], loggers=loggers, max_epochs=1)
    assert len(logged(tmp_path / "tb")) == 2


def test_a_development_run_logs_nothing(tmp_path, images):
    fit(tmp_path, [AttributionCallback(images)], fast_dev_run=True)
    assert not list(tmp_path.rglob("events*"))


def test_the_other_distribution_of_lightning(tmp_path, images):
    library = pytest.importorskip("pytorch_lightning")
    loggers = pytest.importorskip("pytorch_lightning.loggers")

    class Other(library.LightningModule):
        __init__, forward, training_step = Classifier.__init__, Classifier.forward, Classifier.training_step
        validation_step, configure_optimizers = Classifier.validation_step, Classifier.configure_optimizers

    Other.__init__ = lambda self: (library.LightningModule.__init__(self), setattr(self, "net", tiny_cnn()))[0]
    Other.forward = lambda self, x: self.net(x)
    logger = loggers.TensorBoardLogger(tmp_path, name="", version="")
    fit(tmp_path, [AttributionCallback(images)], library, Other, [logger], max_epochs=1)
    assert len(logged(tmp_path)) == 2


def test_other_ranks_do_nothing(images):
    trainer = SimpleNamespace(is_global_zero=False, sanity_checking=False, current_epoch=0)
    trainer.state = SimpleNamespace(fn="fit")
    AttributionCallback(images).on_validation_end(trainer, None)


def test_errors_are_warnings(tmp_path, images):
    without = outcome(*fit(tmp_path / "a", []))
    callback = AttributionCallback(images, layer="absent")
    with pytest.warns(RuntimeWarning, match=r"not explained at step .: No layer is named 'absent'") as warned:
        assert are_equal(outcome(*fit(tmp_path / "b", [callback])), without)
    assert [str(each.message)[33:40] for each in warned if each.category is RuntimeWarning] == ["step 4:", "step 8:"]
    with pytest.raises(AttribkitError, match="No layer is named 'absent'"):
        fit(tmp_path / "c", [AttributionCallback(images, layer="absent", errors="raise")])


def test_a_forward_that_logs_can_be_explained_by_its_part(tmp_path, images):
    class Logs(Classifier):
        def forward(self, x):
            self.log("mean", x.mean())
            return super().forward(x)

    with pytest.raises(Exception, match="log"):
        fit(tmp_path / "a", [AttributionCallback(images)], module=Logs)
    fit(tmp_path / "b", [AttributionCallback(images, module="net")], module=Logs)
    assert logged(tmp_path / "b")


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": torch.zeros(3, 16, 16)}, "images must be a floating-point tensor"),
        ({"images": torch.zeros(0, 3, 16, 16)}, "of at least one image"),
        ({"images": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, "got torch.uint8"),
        ({"images": "photo.png"}, "got str"),
        ({"method": "gradcamm"}, "Did you mean 'gradcam'"),
        ({"layr": "net"}, "Did you mean 'layer'"),
        ({"every_n_epochs": 0}, "every_n_epochs must be a positive integer, got 0"),
        ({"every_n_epochs": True}, "every_n_epochs must be a positive integer, got True"),
        ({"errors": "ignore"}, "errors must be 'warn' or 'raise', got 'ignore'"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(AttribkitError, match=message):
        AttributionCallback(**({"images": torch.zeros(1, 3, 16, 16)} | options))


@pytest.mark.parametrize("names", [[], ["CSVLogger"]])
def test_trainers_without_images_are_refused(tmp_path, images, names):
    loggers = [CSVLogger(tmp_path) for _ in names] or False
    with pytest.raises(AttribkitError, match="None of the loggers of the trainer can store images") as error:
        fit(tmp_path, [AttributionCallback(images)], loggers=loggers)
    assert f"got {names}" in str(error.value)


def test_an_absent_part_is_refused(tmp_path, images):
    with pytest.raises(
        AttribkitError, match=r"part of Classifier, got 'nett'; its direct parts are \['net', 'frozen'\]"
    ):
        fit(tmp_path, [AttributionCallback(images, module="nett")])


def test_sharded_parameters_are_refused(images):
    from lightning.pytorch.strategies import FSDPStrategy

    trainer = SimpleNamespace(strategy=FSDPStrategy(), loggers=[], fast_dev_run=False)
    with pytest.raises(AttribkitError, match="FSDPStrategy may distribute its parameters"):
        AttributionCallback(images).setup(trainer, Classifier(), "fit")
