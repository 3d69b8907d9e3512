"""Images as each tracker has stored them, against the images that were drawn: equal byte by byte."""

# mypy: allow-untyped-defs

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attribkit import AttribkitError
from attribkit_logging import attribution_images, log_attribution

NAME = "maps"


def pixels(file):
    with Image.open(file) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def check_pictures(stored, logged):
    """Stored pictures by key are the logged ones."""
    assert sorted(stored) == sorted(each.key for each in logged)
    for each in logged:
        assert np.array_equal(stored[each.key], each.picture)


# TensorBoard


def read_events(folder):
    """The images by tag and step, and the texts by tag, of the event files in a folder."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder), {"images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    images = {(tag, each.step): each.encoded_image_string for tag in tags["images"] for each in events.Images(tag)}
    texts = {
        (tag, each.step): each.tensor_proto.string_val[0].decode()
        for tag in tags["tensors"]
        for each in events.Tensors(tag)
    }
    return images, texts


def check_events(folder, logged, step):
    images, texts = read_events(folder)
    assert {at for _, at in images} == {step}
    check_pictures(
        {tag.removeprefix(f"{NAME}/"): pixels(io.BytesIO(image)) for (tag, _), image in images.items()}, logged
    )
    assert list(texts) == [(f"{NAME}/captions/text_summary", step)]
    assert texts[f"{NAME}/captions/text_summary", step].splitlines() == [
        f"- `{NAME}/{each.key}`: {each.caption}" for each in logged
    ]


@pytest.mark.parametrize("kind", ["attribution", "comparison"])
def test_summary_writer(tmp_path, kind, request):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    what = request.getfixturevalue(kind)
    with tensorboard.SummaryWriter(tmp_path) as writer:
        log_attribution(writer, what, NAME, 7, labels=["a", "b"])
    check_events(tmp_path, attribution_images(what, labels=["a", "b"]), 7)


def test_summary_writer_of_tensorboardx(tmp_path, attribution):
    tensorboardx = pytest.importorskip("tensorboardX")
    with tensorboardx.SummaryWriter(str(tmp_path)) as writer:
        log_attribution(writer, attribution, NAME, 7)
    check_events(tmp_path, attribution_images(attribution), 7)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric"])
def test_tensorboard_logger(tmp_path, attribution, package):
    loggers = pytest.importorskip(f"{package}.loggers")
    logger = loggers.TensorBoardLogger(tmp_path, name="n", version="v")
    log_attribution(logger, attribution, NAME, 7)
    logger.finalize("success")
    check_events(tmp_path / "n" / "v", attribution_images(attribution), 7)


# Weights & Biases


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    yield wandb
    wandb.finish()


def check_wandb(run, logged):
    stored = run.summary[NAME]
    assert stored["_type"] == "images/separated"
    assert stored["captions"] == [each.caption for each in logged]
    assert (stored["width"], stored["height"], stored["count"]) == (16, 16, len(logged))
    files = [Path(run.dir) / each for each in stored["filenames"]]
    check_pictures({each.key: pixels(file) for each, file in zip(logged, files, strict=True)}, logged)


@pytest.mark.parametrize("kind", ["attribution", "comparison"])
def test_wandb_run(wandb, tmp_path, kind, request):
    what = request.getfixturevalue(kind)
    run = wandb.init(dir=tmp_path)
    log_attribution(run, what, NAME, 7)
    assert run.step == 7
    run.log({}, step=8)  # completes step 7
    check_wandb(run, attribution_images(what))


def test_wandb_module(wandb, tmp_path, attribution):
    with pytest.raises(AttribkitError, match=r"call wandb.init\(\) first"):
        log_attribution(wandb, attribution, NAME)
    run = wandb.init(dir=tmp_path)
    log_attribution(wandb, attribution, NAME)
    check_wandb(run, attribution_images(attribution))


def test_disabled_wandb(wandb, attribution):
    with wandb.init(mode="disabled") as run:
        log_attribution(run, attribution, NAME)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_wandb_logger(wandb, tmp_path, attribution, package):
    loggers = pytest.importorskip(f"{package}.loggers")
    logger = loggers.WandbLogger(save_dir=tmp_path, offline=True)
    log_attribution(logger, attribution, NAME, 7)
    assert logger.experiment.summary["trainer/global_step"] == 7
    check_wandb(logger.experiment, attribution_images(attribution))


# MLflow


of_mlflow = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # in SQLAlchemy


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory):
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path_factory.mktemp("mlflow")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("tests", artifact_location=str(folder / "artifacts")))
    yield mlflow
    mlflow.set_tracking_uri(None)


def check_mlflow(mlflow, run_id, folder, logged, step):
    client = mlflow.MlflowClient()
    names = [each.path for each in client.list_artifacts(run_id, "images") if each.path.endswith(".png")]
    stored = {}
    for name in names:
        key, _, at, *_ = Path(name).name.replace("%", "+").split("+")
        assert int(at) == (step or 0)
        path = client.download_artifacts(run_id, name, str(folder))
        stored[key.replace("~", "/").replace("#", "/").removeprefix(f"{NAME}/")] = pixels(path)
    check_pictures(stored, logged)
    text = Path(
        client.download_artifacts(run_id, f"{NAME}/captions{'' if step is None else f'_{step}'}.md", str(folder))
    ).read_text()
    assert text.splitlines() == [f"- `{NAME}/{each.key}`: {each.caption}" for each in logged]


@of_mlflow
@pytest.mark.parametrize("step", [None, 7])
def test_mlflow_client(mlflow_store, tmp_path, comparison, step):
    client = mlflow_store.MlflowClient()
    experiment = client.get_experiment_by_name("tests").experiment_id
    run_id = client.create_run(experiment).info.run_id
    log_attribution(client, comparison, NAME, step, run_id=run_id)
    check_mlflow(mlflow_store, run_id, tmp_path, attribution_images(comparison), step)


@of_mlflow
def test_mlflow_run_and_module(mlflow_store, tmp_path, attribution):
    with pytest.raises(AttribkitError, match=r"call mlflow.start_run\(\) first"):
        log_attribution(mlflow_store, attribution, NAME)
    for index in range(2):
        with mlflow_store.start_run() as run:
            log_attribution([mlflow_store, run][index], attribution, NAME, 7)
        check_mlflow(mlflow_store, run.info.run_id, tmp_path, attribution_images(attribution), 7)


@of_mlflow
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_mlflow_logger(mlflow_store, tmp_path, attribution, package):
    loggers = pytest.importorskip(f"{package}.loggers")
    logger = loggers.MLFlowLogger("tests", tracking_uri=mlflow_store.get_tracking_uri())
    log_attribution(logger, attribution, NAME, 7)
    check_mlflow(mlflow_store, logger.run_id, tmp_path, attribution_images(attribution), 7)


@of_mlflow
def test_a_client_needs_a_run(mlflow_store, attribution):
    with pytest.raises(AttribkitError, match="run_id is needed for an MlflowClient and for no other logger"):
        log_attribution(mlflow_store.MlflowClient(), attribution, NAME)
    with pytest.raises(AttribkitError, match="run_id is needed for an MlflowClient and for no other logger"):
        log_attribution(mlflow_store, attribution, NAME, run_id="x")


# Refusals


class SummaryWriter:
    """Named like TensorBoard's writer, but of another package."""


@pytest.mark.parametrize(
    "wrong", [None, "runs", SummaryWriter(), sys, [1]], ids=["none", "path", "other", "module", "list"]
)
def test_unknown_loggers_are_refused(attribution, wrong):
    with pytest.raises(AttribkitError, match="cannot be logged to") as error:
        log_attribution(wrong, attribution, NAME)
    accepted = (
        "SummaryWriter",
        "wandb.init()",
        "mlflow.start_run()",
        "MlflowClient",
        "TensorBoardLogger",
        "WandbLogger",
    )
    assert all(name in str(error.value) for name in accepted)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning", "lightning.fabric"])
def test_csv_loggers_are_refused(tmp_path, attribution, package):
    loggers = pytest.importorskip(f"{package}.loggers")
    with pytest.raises(AttribkitError, match=r"A CSVLogger stores numbers and cannot store images\. Accepted are"):
        log_attribution(loggers.CSVLogger(tmp_path), attribution, NAME)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", 1), "name must be a string that is not empty"),
        (("/", 1), "name must be a string that is not empty"),
        ((3, 1), "name must be a string"),
        ((NAME, -1), "step must be an integer of 0 or greater"),
        ((NAME, True), "step must be an integer"),
        ((NAME, 1.5), "step must be an integer"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, attribution, arguments, message):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    with tensorboard.SummaryWriter(tmp_path) as writer, pytest.raises(AttribkitError, match=message):
        log_attribution(writer, attribution, *arguments)
    assert read_events(tmp_path) == ({}, {})


def test_subclasses_are_recognised(tmp_path, attribution):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")

    class Mine(tensorboard.SummaryWriter):
        pass

    with Mine(tmp_path) as writer:
        log_attribution(writer, attribution, NAME, np.int64(7))
    check_events(tmp_path, attribution_images(attribution), 7)


def test_no_library_is_imported():
    """Importing the package, and refusing a logger, imports none of the optional libraries."""
    code = (
        "import sys, attribkit_logging as a\n"
        "try: a.log_attribution(object(), None, 'n')\n"
        "except Exception: pass\n"
        "print([n for n in ('tensorboard', 'wandb', 'mlflow', 'lightning', 'fiftyone') if n in sys.modules])"
    )
    path = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "[]"
