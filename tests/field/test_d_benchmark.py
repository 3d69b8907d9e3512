"""Benchmarks: rows do not depend on the threads of a process; Ray's workers start, or one sentence names the reason."""

import json
import os
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from attribkit import zoo
from attribkit._core.errors import AttribkitError, InvalidInput
from attribkit._core.tensors import describe_device
from attribkit.benchmark import Configuration, benchmark, write_summary
from attribkit.benchmark import _ray_cluster as ray_cluster
from attribkit.benchmark import _work as work
from attribkit.benchmark._ray_actors import TaskWorker
from attribkit.benchmark._ray_cluster import Resources, WorkerPool, connect, worker_capacity, worker_resources
from attribkit.methods._gradients import Saliency

NICENESS = "RAY_worker_niceness"  # as Ray reads it
MEASURED = ["milliseconds", "peak_mib"]  # of the rows: other numbers each time


def configured(folder, **changes):
    settings = {
        "output": str(folder),
        "data": {"name": "scenes", "options": {"count": 2}},
        "models": ["zoo:cnn"],
        "methods": ["saliency"],
        "metrics": ["relevance_mass"],
        "oracle": False,
        "controls": False,
        "shard_size": 1,
    }
    return Configuration(**settings | changes)


def certain(rows):
    """The rows without what is measured anew each time; a string, in which NaN equals NaN."""
    return repr(rows.drop_columns(MEASURED).to_pylist())


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def threads():
    """Sets the number of threads of this process, which is put back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def seen(monkeypatch):
    """The numbers of threads with which Saliency was called."""
    found, call = [], Saliency.__call__

    def counted(self, model, x, target):
        found.append(torch.get_num_threads())
        return call(self, model, x, target)

    monkeypatch.setattr(Saliency, "__call__", counted)
    return found


@pytest.mark.slow
def test_a_run_has_the_threads_of_its_configuration(tmp_path, threads, seen):
    """Whatever the process has, also where the run goes on in another process; the process gets its own back."""
    rows = []
    for own in (1, 2, 3):
        threads(own)
        rows.append(benchmark(configured(tmp_path / str(own))).rows)
        assert torch.get_num_threads() == own
    assert set(seen) == {Configuration.model_fields["threads"].default} == {4}
    assert certain(rows[0]) == certain(rows[1]) == certain(rows[2])
    threads(1)
    next((tmp_path / "2").rglob("*.parquet")).unlink()
    assert certain(benchmark(configured(tmp_path / "2")).rows) == certain(rows[0])
    benchmark(configured(tmp_path / "two", threads=2))
    assert seen[-1] == 2


def test_the_threads_are_put_back_after_an_error(tmp_path, threads, monkeypatch):
    def interrupted(self, model, x, target):
        raise KeyboardInterrupt

    threads(3)
    monkeypatch.setattr(Saliency, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark(configured(tmp_path))
    assert torch.get_num_threads() == 3


def test_a_run_with_other_threads_is_another_run(tmp_path):
    benchmark(configured(tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["settings"]["threads"] == 4
    with pytest.raises(InvalidInput, match="settings 'threads' was 4 and is 2"):
        benchmark(configured(tmp_path, threads=2))


# --- processors ------------------------------------------------------------------------------------------------------


def test_rows_of_several_processors_are_noted(tmp_path, monkeypatch):
    first = benchmark(configured(tmp_path))
    assert first.notes == ()
    unit, _ = first.plan.units()
    assert torch.backends.cpu.get_cpu_capability() in first.store.provenance(unit)["device"]
    next(tmp_path.rglob("*.parquet")).unlink()
    own = describe_device(torch.device("cpu"))
    monkeypatch.setattr(work, "describe_device", lambda device: "Another, AVX1024")
    again = benchmark(configured(tmp_path))
    (note,) = again.notes
    assert note.startswith("The rows were computed on 2 kinds of devices (")
    assert own in note
    assert "Another, AVX1024" in note
    assert note in write_summary(again).notes


# --- room on a cluster -----------------------------------------------------------------------------------------------


def machine(cpus, gpus=0, alive=True):
    """As `ray.nodes()` lists it: what there is none of is not listed."""
    has = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {"Alive": alive, "Resources": {name: number for name, number in has.items() if number}}


@pytest.mark.parametrize(
    ("nodes", "taken", "expected"),
    [
        ([machine(2)], Resources(1.0, 0.0), 2),
        ([machine(3), machine(3)], Resources(2.0, 0.0), 2),  # a worker does not lie across machines
        ([machine(8, 2)], Resources(1.0, 0.5), 4),
        ([machine(3, 8)], Resources(1.0, 1.0), 3),
        ([machine(1)], Resources(0.1, 0.0), 10),  # 1 / 0.1 and 0.3 / 0.1, which is 2.9999999999999996, are whole
        ([machine(0.3)], Resources(0.1, 0.0), 3),
        ([machine(8)], Resources(1.0, 1.0), 0),
        ([machine(8, alive=False), machine(1)], Resources(1.0, 0.0), 1),
    ],
)
def test_room_for_workers(nodes, taken, expected):
    assert worker_capacity(nodes, taken) == expected


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        ({"ray": {"workers": 2, "cpus": 1}}, [machine(2)], Resources(1.0, 0.0)),
        ({}, [machine(16)], Resources(4.0, 0.0)),  # a CPU for each thread
        ({"threads": 6}, [machine(16)], Resources(6.0, 0.0)),
        ({}, [machine(2)], Resources(2.0, 0.0)),  # or as there is room
        ({"ray": {"workers": 2}}, [machine(2)], Resources(1.0, 0.0)),
        ({"ray": {"workers": 2}}, [machine(1), machine(1)], Resources(1.0, 0.0)),
        ({"device": "cuda"}, [machine(16, 8)], Resources(1.0, 1.0)),
        ({"device": "cuda", "ray": {"gpus": 0.5, "cpus": 4}}, [machine(16, 8)], Resources(4.0, 0.5)),
    ],
)
def test_what_a_worker_takes(settings, nodes, expected):
    assert worker_resources(configured("out", **settings), nodes) == expected


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        (
            {"ray": {"workers": 3, "cpus": 1}},
            [machine(2)],
            "3 workers of 1 CPU and 0 GPUs do not fit into the Ray cluster, which has room for 2 of them (1 machine: 1 "
            "with 2 CPUs and 0 GPUs). Lower workers, cpus or gpus of [ray], or add machines.",
        ),
        ({"ray": {"cpus": 8}}, [machine(4)] * 9, "A worker of 8 CPUs and 0 GPUs does not fit into the Ray cluster, wh"),
        ({"ray": {"workers": 5}}, [machine(2), machine(2)], "5 workers of 1 CPU and 0 GPUs do not fit into the Ray cl"),
        ({"device": "cuda"}, [machine(8)], "A worker of 1 CPU and 1 GPU does not fit"),
        ({"ray": {"workers": 1}}, [machine(8, alive=False)], "1 worker of 1 CPU and 0 GPUs does not fit into the Ray"),
    ],
)
def test_workers_that_can_never_fit_are_refused(settings, nodes, expected):
    with pytest.raises(InvalidInput, match=re.escape(expected)):
        worker_resources(configured("out", **settings), nodes)


@pytest.mark.parametrize("setting", ["cpus", "gpus"])
def test_parts_of_several_cpus_are_refused(setting):
    with pytest.raises(
        InvalidInput,
        match=rf"ray\.{setting}: The number for each worker must be at most 1, or a whole number, got 1\.5",
    ):
        configured("out", ray={setting: 1.5})


# --- a crew of workers -----------------------------------------------------------------------------------------------


class Lost(Exception):
    """As Ray tells that a worker is gone."""


class Raised(Lost):
    """As Ray tells that a worker raised."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """Actors in this process: `outcomes` says what comes of each start and of each place, at first and later.

    None: it is done. An exception: the worker raises, or is lost. "never": no answer.
    """

    exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Raised)

    def __init__(self, starts=(), places=None):
        self.starts, self.places = list(starts), {place: list(each) for place, each in (places or {}).items()}
        self.now, self.made, self.done, self.alive = 0.0, 0, [], set()

    def make(self):
        self.made += 1
        actor = SimpleNamespace(number=self.made)
        actor.ready = SimpleNamespace(remote=lambda: (self.made, "start", self._next(self.starts)))
        actor.run = SimpleNamespace(remote=lambda place: self._given(actor, place))
        self.alive.add(actor.number)
        return actor

    def _given(self, actor, place):
        outcome = self._next(self.places.get(place, []))
        self.done += [place] * (outcome is None)
        return actor.number, place, outcome

    def _next(self, outcomes):
        return outcomes.pop(0) if outcomes else None

    def wait(self, answers, num_returns, timeout):
        ready = [answer for answer in answers if answer[2] != "never"][:num_returns]
        self.now += 0 if ready else timeout
        return ready, [answer for answer in answers if answer not in ready]

    def get(self, answer):
        if isinstance(answer[2], Exception):
            raise answer[2]

    def kill(self, actor):
        self.alive.discard(actor.number)

    def nodes(self):
        return [machine(2)]

    def available_resources(self):
        return {"CPU": 0.5}


def crew_of(ray, monkeypatch, workers=2, timeout=300.0):
    monkeypatch.setattr(ray_cluster, "time", SimpleNamespace(monotonic=lambda: ray.now))
    return WorkerPool(ray, ray.make, lambda: workers, Resources(1.0, 0.0), timeout)


def test_a_crew_does_every_place_once(monkeypatch):
    ray = FakeRay()
    crew = crew_of(ray, monkeypatch)
    states = [(crew.finished, crew.busy, crew.starting) for _ in crew.run(5)]
    assert sorted(ray.done) == [0, 1, 2, 3, 4]
    assert states[0] == (0, 0, 2)
    assert states[-1] == (5, 0, 0)
    assert max(up + starting for _, up, starting in states) == 2
    assert ray.made == 2
    assert not ray.alive, "what they held is free again"


def test_no_more_workers_than_places(monkeypatch):
    ray = FakeRay()
    list(crew_of(ray, monkeypatch, workers=8).run(3))
    assert ray.made == 3


def test_a_place_whose_worker_is_lost_is_done_by_another(monkeypatch):
    ray = FakeRay(places={1: [Lost("killed"), Lost("killed")]})
    crew = crew_of(ray, monkeypatch)
    list(crew.run(3))
    assert sorted(ray.done) == [0, 1, 2]
    assert not crew.given_up
    assert ray.made == 4


def test_a_place_at_which_three_workers_are_lost_is_given_up_and_costs_no_other(monkeypatch):
    ray = FakeRay(places={1: [Lost("first"), Lost("second"), Lost("The worker\n\nran out of memory.\n")]})
    crew = crew_of(ray, monkeypatch)
    list(crew.run(3))
    assert sorted(ray.done) == [0, 2]
    assert crew.given_up == {1: "3 workers failed on this shard; the last failure: ran out of memory."}
    assert crew.finished == 3


def test_what_a_worker_raises_stops_the_run_with_its_own_sentence(monkeypatch):
    ray = FakeRay(places={1: [Raised(InvalidInput("There is no folder."))], 0: ["never"]})
    crew = crew_of(ray, monkeypatch)
    with pytest.raises(AttribkitError, match=r"^A worker stopped: There is no folder\.\nStart the same run again"):
        list(crew.run(3))
    crew.end()
    assert len(ray.alive) == 1, "the one that raised is Ray's own to end"
    with pytest.raises(AttribkitError, match=r"^A worker stopped: KeyError: 'x'\n"):
        list(crew_of(FakeRay(places={0: [Raised(KeyError("x"))]}), monkeypatch).run(1))


def test_workers_that_do_not_come_up_end_in_a_sentence(monkeypatch, caplog):
    ray = FakeRay(starts=["never", "never"])
    with pytest.raises(AttribkitError) as error:
        list(crew_of(ray, monkeypatch, timeout=90.0).run(5))
    assert str(error.value) == (
        "No Ray worker has started within 91 s: 2 of 1 CPU and 0 GPUs each are requested. The cluster has 1 machine: 1 "
        "with 2 CPUs and 0 GPUs, of which 0.5 CPUs and 0 GPUs are free. Free some, lower workers, cpus or gpus of "
        "[ray], or increase its start_timeout if the machines are slow to start. Start the same run again; finished "
        "units are kept."
    )
    (record,) = caplog.records  # once, in the middle
    assert record.message.startswith("No Ray worker has started within 46 s")


def test_one_worker_that_comes_up_is_enough(monkeypatch):
    ray = FakeRay(starts=["never"])
    crew = crew_of(ray, monkeypatch, timeout=90.0)
    list(crew.run(4))
    assert sorted(ray.done) == [0, 1, 2, 3]


def test_workers_that_end_while_they_start_end_in_a_sentence(monkeypatch):
    ray = FakeRay(starts=[Lost("x"), Lost("y"), Lost("died:\nModuleNotFoundError: No module named 'attribkit'")] * 2)
    with pytest.raises(
        AttribkitError, match=r"^Ray workers exited while they were starting: ModuleNotFoundError: No module nam"
    ):
        list(crew_of(ray, monkeypatch).run(5))
    assert ray.made <= 6


# --- what a worker does ---------------------------------------------------------------------------------------------


def worker_of(folder, identity_of=lambda identity: identity, **changes):
    """A worker in this process, for a run that has been claimed, and the run."""
    configuration = configured(folder, **changes)
    results = benchmark(configuration)
    for path in folder.rglob("*.parquet"):
        path.unlink()
    store = replace(results.store, identity=identity_of(results.store.identity))
    groups = results.plan.tasks(results.plan.units())
    return TaskWorker((configuration, results.plan, store, groups)), results


def test_a_worker_does_a_place_once_with_the_threads_of_the_run(tmp_path, threads, seen):
    worker, results = worker_of(tmp_path)
    threads(1)
    seen.clear()
    worker.run(1)
    worker.run(1)
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    assert seen == [4, 4], "to get warm, and the map"
    assert torch.get_num_threads() == 1
    worker.run(0)
    assert certain(benchmark(results.configuration).rows) == certain(results.rows)


def test_a_worker_with_other_weights_than_the_run_is_refused(tmp_path):
    """As random ones are on another processor."""
    worker, _ = worker_of(tmp_path, lambda identity: identity | {"models": {"zoo:cnn": "weights 123"}})
    with pytest.raises(
        InvalidInput, match=r"The model 'zoo:cnn' on .* differs from the model where the run was started \(wei"
    ):
        worker.run(0)
    assert not list(tmp_path.rglob("*.parquet"))


# --- a cluster of one's own ------------------------------------------------------------------------------------------


def test_a_cluster_of_ones_own_has_normal_niceness_and_the_environment_is_put_back(monkeypatch):
    seen = {}

    def init(**options):
        seen.update(options, environment=dict(os.environ))

    for name in ("RAY_ADDRESS", NICENESS):
        monkeypatch.delenv(name, raising=False)
    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: seen.update(ended=True))
    with connect(ray, configured("out", ray={"start_timeout": 120}).ray):
        assert NICENESS not in os.environ
    assert seen["address"] == "local"
    assert seen["ended"]
    assert seen["environment"][NICENESS] == "0"
    assert seen["environment"]["RAY_worker_register_timeout_seconds"] == "120"
    monkeypatch.setenv(NICENESS, "5")  # the user's own stays
    with connect(ray, configured("out").ray):
        assert seen["environment"][NICENESS] == "5"
    assert os.environ[NICENESS] == "5"


def test_a_cluster_that_is_joined_is_left_as_it_is(monkeypatch):
    seen = {}
    ray = SimpleNamespace(
        init=lambda **options: seen.update(options, niceness=os.environ.get(NICENESS)),
        is_initialized=lambda: False,
        shutdown=lambda: None,
    )
    monkeypatch.delenv(NICENESS, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "there:6379")
    with connect(ray, configured("out").ray):
        assert (seen["address"], seen["niceness"]) == ("there:6379", None)


def test_a_cluster_that_does_not_start_is_told(monkeypatch):
    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = SimpleNamespace(init=init, is_initialized=lambda: False)
    expected = r"Ray cannot be started on this machine \(The current node timed out"
    with pytest.raises(AttribkitError, match=expected), connect(ray, configured("out").ray):
        pass


# --- with Ray --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one after the other
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_two_workers_of_one_cpu_run_with_the_niceness_and_the_threads_of_the_run(tmp_path):
    pytest.importorskip("ray")

    def read_image():
        """The picture; leaves what its process has."""
        (tmp_path / f"{os.getpid()}.txt").write_text(f"{os.nice(0)} {torch.get_num_threads()}")
        return Image.fromarray(zoo.scene(0).image)

    items = [{"image": zoo.scene(i).image, "id": str(i)} for i in range(4)]
    expected = benchmark(configured(tmp_path / "serial", data={"name": "items", "options": {"items": items}}))
    items[0]["image"] = read_image
    changes = {"data": {"name": "items", "options": {"items": items}}, "executor": "ray"}
    results = benchmark(configured(tmp_path / "ray", ray={"workers": 2, "cpus": 1}, **changes))
    assert not results.failures
    assert certain(results.rows) == certain(expected.rows)
    (left,) = tmp_path.glob("*.txt")
    assert left.read_text() == f"{os.nice(0)} 4"


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one after the other
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_a_cluster_without_room_is_told_within_the_time(tmp_path):
    ray = pytest.importorskip("ray")

    class Other:
        """Work of somebody else."""

        def here(self):
            return True

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(InvalidInput, match=r"2 workers of 1 CPU and 0 GPUs do not fit into the Ray cluster, which"):
            benchmark(configured(tmp_path, executor="ray", ray={"workers": 2, "cpus": 1}))
        other = ray.remote(Other).options(num_cpus=1).remote()
        assert ray.get(other.here.remote())
        start = time.monotonic()
        with pytest.raises(AttribkitError, match=r"No Ray worker has started within \d+ s: 1 of 1 CPU .* are free\."):
            benchmark(configured(tmp_path, executor="ray", ray={"start_timeout": 3}))
        assert time.monotonic() - start > 3
        ray.kill(other)
        results = benchmark(configured(tmp_path, executor="ray"))
    finally:
        ray.shutdown()
    assert results.rows.num_rows == 2 * 2
