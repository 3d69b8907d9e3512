"""The model, the process and the random numbers are as they were, whatever other threads and interrupts do."""

import io
import random
import signal
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import tqdm
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from attribkit import AttribkitError, Complexity, Explainer, Method, Requirements, registry
from attribkit._core.errors import UnsupportedModel
from attribkit._state import concurrency, hooks, randomness, snapshot
from attribkit._state.hooks import frozen
from attribkit.cli import app
from attribkit.testing import changes, model_state, tiny_cnn

QUICK = {"rise": {"masks": 16, "cells": 4}, "occlusion": {"patch": 8, "stride": 8}}
LONG = 60  # seconds after which a test that would never end fails


def images(count=2):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def wait_for(event):
    assert event.wait(LONG), "the other thread never came there"


def wait_for_a_waiting_thread():
    with concurrency._CHANGED:
        assert concurrency._CHANGED.wait_for(lambda: bool(concurrency._WAITING), LONG), "nobody waits"


def linear_head(channels=6):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


def model_and_backbone():
    model = tiny_cnn()
    return model, model[:5]


def two_wrappers():
    inner = tiny_cnn()
    return nn.Sequential(inner, nn.Identity()), nn.Sequential(nn.Identity(), inner)


def a_shared_parameter():
    one, other = tiny_cnn(), tiny_cnn()
    other[3].weight = one[3].weight
    return one, other


def a_shared_buffer():
    one, other = tiny_cnn(), tiny_cnn()
    other[1].running_mean = one[1].running_mean
    return one, other


def the_same_model():
    model = tiny_cnn()
    return model, model


SHARING = [model_and_backbone, two_wrappers, a_shared_parameter, a_shared_buffer, the_same_model]


# Threads


@pytest.mark.parametrize("error", [None, ValueError("on purpose"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("make", SHARING)
def test_threads_that_share_a_part_of_their_models_take_turns(make, error):
    """The second asks while the first is at work, and the first ends first: flags put back in that order would stay."""
    one, other = make()
    before = model_state(one), model_state(other)
    first_is_in, first_ended, order = threading.Event(), threading.Event(), []

    def first():
        with frozen(one):
            first_is_in.set()
            wait_for_a_waiting_thread()
            order.append("first")
            if error:
                raise error

    def second():
        wait_for(first_is_in)
        with frozen(other):
            order.append("second")
            wait_for(first_ended)
            assert not any(module.training for module in other.modules())
            assert not any(parameter.requires_grad for parameter in other.parameters())

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(first), pool.submit(second)]
        assert running[0].exception(LONG) is error
        first_ended.set()
        running[1].result(LONG)
    assert order == ["first", "second"]
    assert changes(before[0], model_state(one)) == []
    assert changes(before[1], model_state(other)) == []
    assert not concurrency._CLAIMS
    assert not concurrency._WAITING


@pytest.mark.parametrize("make", SHARING[:2])
def test_concurrent_answers_are_those_of_one_thread(make):
    one, other = map(Explainer, make())
    x = images()

    def gradient(explainer):
        return explainer.attribute(x, "saliency", target=lambda outputs: outputs.flatten(1).sum(1)).scores

    expected = [gradient(one), gradient(other)]
    before = model_state(one.model.module)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(gradient, [one, other] * 10))
    for i, scores in enumerate(found):
        torch.testing.assert_close(scores, expected[i % 2], rtol=0, atol=1e-6)
    assert changes(before, model_state(one.model.module)) == []


def test_threads_with_models_of_their_own_do_not_wait():
    """Each is inside at the same time as the other, or the barrier breaks."""
    meeting = threading.Barrier(2)

    def explain(_):
        with frozen(tiny_cnn()):
            meeting.wait(LONG)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(explain, range(2)))


def _asking(explainer, x, meet=lambda: None):
    """A target whose score is the same as the class's, and which explains a model in passing."""

    def target(outputs):
        meet()
        explainer.attribute(x, "saliency", target=2)
        return outputs[:, 1]

    return target


@pytest.mark.parametrize("method", ["gradcam", "saliency", "ablationcam", "occlusion"])
@pytest.mark.parametrize("same", [True, False])
def test_an_explanation_inside_of_a_target(method, same):
    explainer, x = Explainer(tiny_cnn()), images()
    expected = explainer.attribute(x, method, target=1, **QUICK.get(method, {}))
    before = model_state(explainer.model.module)
    inner = explainer if same else Explainer(tiny_cnn())
    found = explainer.attribute(x, method, target=_asking(inner, x), **QUICK.get(method, {}))
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-7)
    assert changes(before, model_state(explainer.model.module)) == []


def test_threads_that_ask_for_each_others_models_do_not_block():
    """Each holds its model and asks for the other's inside of its target; neither can go on before the other."""
    one, other, x = Explainer(tiny_cnn()), Explainer(nn.Sequential(tiny_cnn())), images()
    expected = [each.attribute(x, "saliency", target=1).scores for each in (one, other)]
    before = [model_state(each.model.module) for each in (one, other)]
    meeting, met = threading.Barrier(2), threading.local()

    def meet():
        if not getattr(met, "yes", False):
            met.yes = True
            meeting.wait(LONG)

    def explain(pair):
        outer, inner = pair
        return outer.attribute(x, "saliency", target=_asking(inner, x, meet)).scores

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(explain, [(one, other), (other, one)], timeout=LONG))
    for scores, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(scores, wanted)
    for state, each in zip(before, (one, other), strict=True):
        assert changes(state, model_state(each.model.module)) == []


def test_three_threads_in_a_ring_do_not_block():
    models = [tiny_cnn() for _ in range(3)]
    before = [model_state(model) for model in models]
    meeting = threading.Barrier(3)

    def explain(i):
        with frozen(models[i]):
            meeting.wait(LONG)
            with frozen(models[(i + 1) % 3]):
                assert not models[(i + 1) % 3].training
            assert not models[i].training

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(explain, range(3), timeout=LONG))
    assert [changes(*pair) for pair in zip(before, map(model_state, models), strict=True)] == [[]] * 3


def test_an_interrupt_of_a_thread_that_waits():
    model = tiny_cnn()
    inside, done = threading.Event(), threading.Event()

    def hold():
        with frozen(model):
            inside.set()
            wait_for(done)

    def interrupt():
        wait_for_a_waiting_thread()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(hold)
        wait_for(inside)
        sent = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt), frozen(model):
            pytest.fail("the thread did not wait")
        done.set()
        held.result(LONG)
        sent.result(LONG)
    assert not concurrency._WAITING
    assert not concurrency._CLAIMS


def test_the_compilers_stance_after_overlapping_explanations():
    """The first that asks for eager execution ends first; the second still has it, and the last puts it back."""
    import torch._dynamo.eval_frame as dynamo

    assert dynamo._stance.stance == "default"
    first_ended, second_is_in, seen = threading.Event(), threading.Event(), []

    def first():
        with frozen(tiny_cnn()):
            wait_for(second_is_in)
        first_ended.set()

    def second():
        with frozen(tiny_cnn()):
            second_is_in.set()
            wait_for(first_ended)
            seen.append(dynamo._stance.stance)

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(first), pool.submit(second)]:
            each.result(LONG)
    assert seen == ["force_eager"]
    assert dynamo._stance.stance == "default"


# Random numbers

DRAWS = {
    "python": (random.seed, random.random),
    "numpy": (np.random.seed, np.random.rand),
    "torch": (torch.manual_seed, lambda: torch.rand(1).item()),
}


class Meeting(nn.Module):
    """A forward in whose middle another thread does something."""

    def __init__(self, *body):
        super().__init__()
        self.body, self.reached, self.gone_on = nn.Sequential(*body, tiny_cnn()), threading.Event(), threading.Event()

    def forward(self, x):
        self.reached.set()
        wait_for(self.gone_on)
        return self.body(x)

    def __deepcopy__(self, memo):
        return self


def drawn_during_an_explanation(model, method, seed, draw):
    """What another thread draws before, during and after an explanation, and the explanation."""

    def other():
        seed(0)
        drawn = [draw()]
        ready.set()
        wait_for(model.reached)
        drawn += [draw(), draw()]
        model.gone_on.set()
        wait_for(ended)
        return [*drawn, draw()]

    ready, ended = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(other)
        wait_for(ready)
        attribution = Explainer(model).attribute(images(), method, **QUICK.get(method, {}))
        ended.set()
        return drawing.result(LONG), attribution


@pytest.mark.parametrize("method", ["gradcam", "saliency", "smoothgrad", "rise", "scorecam"])
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.usefixtures("as_users_run")  # the checks of types draw too
def test_numbers_that_another_thread_draws_do_not_come_again(kind, method):
    seed, draw = DRAWS[kind]
    seed(0)
    expected = [draw() for _ in range(4)]
    drawn, attribution = drawn_during_an_explanation(Meeting(), method, seed, draw)
    assert drawn == expected
    assert not any("random numbers" in note for note in attribution.notes), "it is not the model that draws"


@pytest.mark.usefixtures("as_users_run")
def test_numbers_of_another_thread_are_not_given_out_again_beside_a_model_that_draws():
    """Whose numbers those are nothing tells: what is drawn last is none of those before."""
    seed, draw = DRAWS["torch"]
    drawn, _ = drawn_during_an_explanation(Meeting(FunctionalDropout()), "saliency", seed, draw)
    assert len(set(drawn)) == 4


class FunctionalDropout(nn.Module):
    def forward(self, x):
        random.random()
        np.random.rand()  # noqa: NPY002  # the global state is what is meant
        return nn.functional.dropout(x, 0.5, training=True)


def random_states():
    return random.getstate(), randomness._read_numpy(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("method", ["gradcam", "smoothgrad", "occlusion"])
@pytest.mark.usefixtures("as_users_run")
def test_what_the_model_draws_is_undone(method):
    model = nn.Sequential(FunctionalDropout(), tiny_cnn())
    before = random_states()
    attribution = Explainer(model).attribute(images(), method, **QUICK.get(method, {}))
    assert random_states() == before
    assert any("random numbers" in note for note in attribution.notes)


@pytest.mark.usefixtures("as_users_run")
def test_what_is_drawn_beside_a_thread_that_waits_is_undone():
    """Once that thread has come to rest, which nothing tells but that it has not run."""
    ended = threading.Event()
    waiting = threading.Thread(target=ended.wait, args=(LONG,))
    waiting.start()
    rested = False
    while not rested:
        before, others = random_states(), randomness.other_threads()
        with frozen(tiny_cnn()):
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(1)
        rested = others == randomness.other_threads()
        after = random_states()
    ended.set()
    waiting.join()
    assert after == before


@pytest.mark.usefixtures("as_users_run")
def test_the_monitor_of_progress_bars_is_not_taken_for_a_thread_that_draws():
    with tqdm.tqdm(total=1, file=io.StringIO(), miniters=2, mininterval=1e-9, disable=False) as bar:
        assert bar.monitor.is_alive()
        before, others = random_states(), randomness.other_threads()
        with frozen(tiny_cnn()):
            random.random()
            bar.monitor.was_killed.set()  # so that it runs, to its end
            bar.monitor.join(LONG)
        assert others == randomness.other_threads()
        assert random_states() == before
    tqdm.tqdm.monitor = None


# Interrupts

CODE = {module.__file__ for module in (concurrency, hooks, randomness, snapshot)}


class Place:
    """Does something at the n-th line that is run of the code that freezes and puts back."""

    def __init__(self, number=None, do=lambda: None):
        self.left, self.do, self.lines = number, do, 0

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def __call__(self, frame, event, _):
        if frame.f_code.co_filename not in CODE:
            return None
        if event == "line":
            self.lines += 1
            self.last = frame.f_code.co_filename, frame.f_lineno
            if self.left is not None and self.lines == self.left:
                sys.settrace(self.before)
                frame.f_trace = None
                self.do()
        return self


def small_model():
    model = nn.Sequential(OrderedDict(a=nn.Conv2d(3, 2, 1), b=nn.BatchNorm2d(2)))
    model.a.bias.requires_grad_(False)
    return model


def change(model):
    """What makes the way back as long as it can be."""
    model.train()
    model.b.running_mean += 1
    model.a.seen = torch.ones(1)
    del model.b
    model.b = nn.Identity()
    model.a.weight.requires_grad_(True)
    model.a.weight.grad = torch.ones_like(model.a.weight)
    model.a.register_forward_hook(lambda *_: None)
    torch.rand(1)


def freeze_and_change(model):
    with torch.no_grad(), frozen(model):
        change(model)


def interrupt():
    raise KeyboardInterrupt


def signalled():
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("do", [interrupt, signalled])
def test_an_interrupt_at_every_line(do):
    """The interrupt comes out, and nothing is left: not in the model, not in this thread, not for other threads."""
    freeze_and_change(small_model())
    with Place() as place:
        freeze_and_change(small_model())
    assert place.lines > 200
    for number in range(1, place.lines + 1):
        model = small_model()
        before, names = model_state(model), [list(vars(module)) for module in model.modules()]
        try:
            with Place(number, do) as place:
                freeze_and_change(model)
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail(f"the interrupt at line {number} was lost")
        assert changes(before, model_state(model)) == [], (number, place.last, threading.enumerate())
        assert [list(vars(module)) for module in model.modules()] == names, number
        assert not concurrency._CLAIMS, number
        assert not concurrency._EAGER_USERS, number
        assert not concurrency._STANCE, number
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, number
        assert torch.is_grad_enabled(), number
        assert not torch.is_inference_mode_enabled(), number


class TimeIsUp(Exception):
    """Raised by a handler of the user's."""


def test_handlers_of_the_users_are_put_back_and_called():
    """One that raises, as a time-out does, comes out once the model is as it was."""
    calls = []

    def handler(number, _frame):
        calls.append(number)
        raise TimeIsUp

    model, old = small_model(), signal.signal(signal.SIGUSR1, handler)
    try:
        with Place() as place:
            freeze_and_change(model)
        before = model_state(model)
        for number in range(1, place.lines + 1, 7):
            with pytest.raises(TimeIsUp), Place(number, lambda: signal.raise_signal(signal.SIGUSR1)):
                freeze_and_change(model)
            assert changes(before, model_state(model)) == [], number
            assert signal.getsignal(signal.SIGUSR1) is handler
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert set(calls) == {signal.SIGUSR1}


def test_signals_wait_while_a_model_is_put_back():
    """An interrupt that arrives meanwhile is raised afterwards, once, and not in the middle."""
    deferral = concurrency.DeferredSignals()
    deferral.begin()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        deferral.end()
    deferral.end()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not deferral._arrived


def test_a_model_keeps_its_attributes_while_it_is_put_back():
    """At every line that is run, each module has all that a module has."""
    model = small_model()
    needed = set(vars(model.a))
    missing = []

    class Looking(Place):
        def __call__(self, frame, event, argument):
            missing.extend(needed - set(vars(model.a)))
            return super().__call__(frame, event, argument)

    with Looking() as looking:
        freeze_and_change(model)
    assert looking.lines > 200
    assert not missing


# Writes into what others read, and errors that name method and model


@dataclass(frozen=True)
class Writing(Method):
    """Writes into the images in some way, and gives their channels' sum."""

    how: str = "add_"

    name: ClassVar[str] = "writing"
    source: ClassVar[str] = "these tests"

    def __call__(self, model, x, target):
        WRITES[self.how](x)
        return x.detach().sum(1, keepdim=True)


@dataclass(frozen=True)
class Refusing(Method):
    """Gives no answer."""

    name: ClassVar[str] = "refusing"
    source: ClassVar[str] = "these tests"

    def __call__(self, model, x, target):
        raise UnsupportedModel("There is no answer.")


@dataclass(frozen=True)
class Broken(Refusing):
    """Has a bug."""

    name: ClassVar[str] = "broken"

    def __call__(self, model, x, target):
        return {}["nothing"]


@dataclass(frozen=True)
class InPlace(Method):
    """Works in place on the gradient that it asked for."""

    name: ClassVar[str] = "in_place"
    source: ClassVar[str] = "these tests"
    requires: ClassVar[Requirements] = Requirements(gradients=(None,))

    def __call__(self, model, x, target):
        return model.gradient(x, target).abs_().mul_(3)


def replaced(x):
    x.data = x.data * 2


def through_numpy(x):
    x.detach().numpy()[:] = 0


def with_a_gradient(x):
    x.requires_grad_()
    x.pow(2).sum().backward()


WRITES = {
    "add_": lambda x: x.add_(1),
    "one value": lambda x: x[0, 0, 0, 0].zero_(),
    "data": lambda x: x.data.mul_(2),
    "replaced": replaced,
    "numpy": through_numpy,
    "view": lambda x: x.flatten(1)[1].fill_(0),
    "shape": lambda x: x.squeeze_().unsqueeze_(0),
    "no_grad": torch.no_grad()(lambda x: x.clamp_(0)),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("how", WRITES)
def test_a_method_that_writes_into_the_images_is_refused(how):
    x = images()
    mine, explainer = x.clone(), Explainer(tiny_cnn())
    with pytest.raises(AttribkitError, match=r"Writing\(how='.*'\), modified the images x in place.*tensor\.clone\(\)"):
        explainer.attribute(mine, Writing(how))
    assert torch.equal(mine, x)
    expected = explainer.attribute(x, "input_x_gradient")
    compared = explainer.compare(mine, ["saliency", Writing(how), "input_x_gradient"], errors="note")
    assert [each.method.name for each in compared] == ["saliency", "input_x_gradient"]
    assert all(torch.equal(each.x, x) for each in compared)
    torch.testing.assert_close(compared[1].scores, expected.scores)


@pytest.mark.usefixtures("as_users_run")
def test_a_gradient_that_a_method_leaves_on_the_images_is_taken_off():
    class Leaving(Writing):
        def __call__(self, model, x, target):
            with_a_gradient(x)
            return x.grad.detach()

    attribution = Explainer(tiny_cnn()).attribute(images(), Leaving())
    torch.testing.assert_close(attribution.scores, 2 * images())
    assert not attribution.x.requires_grad
    assert attribution.x.grad is None


def test_work_in_place_on_a_gradient_costs_the_neighbours_nothing():
    explainer, x = Explainer(tiny_cnn()), images()
    plain = explainer.attribute(x, "saliency", target=1).scores
    first, second, third = explainer.compare(x, [InPlace(), "saliency", InPlace()], targets=[1])
    torch.testing.assert_close(second.scores, plain)
    torch.testing.assert_close(first.scores, third.scores)
    torch.testing.assert_close(first.scores.abs().amax(1, keepdim=True), 3 * plain.abs().amax(1, keepdim=True))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("how", [lambda o: o.zero_(), lambda o: o[:, 1].mul_(2), lambda o: torch.relu_(o)])
def test_a_target_that_writes_into_the_outputs_is_refused(how):
    def target(outputs):
        with torch.no_grad():
            how(outputs)
        return outputs[:, 1]

    explainer = Explainer(tiny_cnn())
    with pytest.raises(AttribkitError, match=r"modified the outputs of the model in place.*outputs\.clone\(\)"):
        explainer.attribute(images(), "occlusion", target=target, **QUICK["occlusion"])
    compared = explainer.compare(images(), ["saliency"], targets=[target, 2], errors="note")
    torch.testing.assert_close(compared[0].scores, explainer.attribute(images(), "saliency", target=2).scores)


class WritingMetric(Complexity):
    """Normalises the scores in place."""

    name: ClassVar[str] = "writing_metric"
    source: ClassVar[str] = "these tests"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, attribution):
        return attribution.scores.abs_().flatten(1).sum(1)


@pytest.mark.usefixtures("as_users_run")
def test_a_metric_that_writes_into_the_scores_is_refused():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(images(), "input_x_gradient")
    scores = attribution.scores.clone()
    with pytest.raises(AttribkitError, match=r"wrote into the scores of InputXGradient\(\).*metric|Sequential"):
        explainer.measure([attribution], [WritingMetric()])
    assert torch.equal(attribution.scores, scores)


@pytest.mark.usefixtures("as_users_run")
def test_one_failure_does_not_cost_the_others():
    explainer, x = Explainer(tiny_cnn()), images()
    methods = ["gradcam", Refusing(), "guided_backprop", Broken(), "saliency"]
    compared = explainer.compare(x, methods, targets=[1, 2], errors="note")
    assert isinstance(compared, list)
    assert [(each.method.name, each.target.index) for each in compared] == [
        (name, index) for index in (1, 2) for name in ("gradcam", "guided_backprop", "saliency")
    ]
    for each in compared:
        torch.testing.assert_close(
            each.scores, explainer.attribute(x, each.method, target=each.target).scores, rtol=1e-5, atol=1e-7
        )
    assert [str(each) for each in compared.failures[:2]] == [
        "There is no answer. (method refusing, model Sequential)",
        "broken: KeyError: 'nothing'",
    ]
    assert [[type(each).__name__ for each in row] for row in compared.rows] == [
        ["Attribution", "FailedAttribution", "Attribution", "FailedAttribution", "Attribution"]
    ] * 2
    with pytest.raises(UnsupportedModel, match="no answer"):
        explainer.compare(x, methods)


def test_the_list_is_the_same_whatever_is_done_about_errors():
    explainer, x = Explainer(tiny_cnn()), images()
    one, other = (explainer.compare(x, ["gradcam", "saliency"], errors=errors) for errors in ("raise", "note"))
    assert type(one) is type(other)
    assert len(one) == len(other) == 2
    assert one.failures == other.failures == []


@pytest.mark.usefixtures("as_users_run")
def test_a_method_that_cannot_read_does_not_cost_those_that_can():
    """What is read for all by one forward fails for one: the rules of guided backpropagation need a ReLU."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    compared = Explainer(model).compare(images(), ["guided_backprop", "saliency", "gradcam"], errors="note")
    assert [each.method.name for each in compared] == ["saliency", "gradcam"]
    assert "no ReLU" in str(compared.failures[0])
    with pytest.raises(AttribkitError, match=r"no ReLU.*\(method guided_backprop, model Sequential\)"):
        Explainer(model).compare(images(), ["saliency", "guided_backprop"])


@pytest.mark.usefixtures("as_users_run")
def test_errors_is_one_of_two_words():
    with pytest.raises(AttribkitError, match=r"errors must be 'raise' or 'note', got 'ignore'"):
        Explainer(tiny_cnn()).compare(images(), ["gradcam"], errors="ignore")


ERRORS = {
    "attribute": (lambda e, a: e.attribute(images(), "gradcam", layer="9"), "method gradcam", "model Sequential"),
    "of the images": (lambda e, a: e.attribute(images().double(), "saliency"), "method saliency", "model Sequential"),
    "compare": (lambda e, a: e.compare(images(), ["cam", "saliency"], targets=[99]), "method cam", "model Sequential"),
    "measure": (lambda e, a: e.measure([a], ["pointing_game"]), "'pointing_game'", "model Sequential"),
    "evaluate": (lambda e, a: e.evaluate(a[:1], WritingMetric()), "WritingMetric(", "model Sequential"),
    "visualize": (lambda e, a: e.visualize(0), "visualizer activation_maximization", "model Sequential"),
}


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_what_was_asked_of_which_model_once(name):
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(images(), "input_x_gradient")
    ask, *names = ERRORS[name]
    with pytest.raises(AttribkitError) as error:
        ask(explainer, attribution)
    assert [str(error.value).count(each) for each in names] == [1, 1], str(error.value)


def test_raw_errors_of_a_plugin_name_it_in_a_note():
    with pytest.raises(KeyError) as error:
        Explainer(tiny_cnn()).attribute(images(), Broken())
    assert error.value.__notes__ == ["(raised with the method broken)", "(raised with the model Sequential)"]


def test_the_command_line_keeps_what_works(tmp_path, monkeypatch):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (140, 140, 3), dtype=np.uint8)).save(photo)
    monkeypatch.setattr(registry.methods()["cam"], "__call__", Refusing.__call__)
    for ending in ("png", "npz"):
        output = tmp_path / f"out.{ending}"
        arguments = ["explain", str(photo), "--method", "gradcam", "--method", "cam", "--method", "saliency"]
        found = CliRunner().invoke(app, [*arguments, "-o", str(output)])
        assert found.exit_code == 1
        assert output.exists()
        assert "attribkit: There is no answer. (method cam, model " in found.stderr
    assert {"heatmap_gradcam", "heatmap_saliency"} <= set(np.load(output))
    assert "heatmap_cam" not in np.load(output)
    alone = CliRunner().invoke(app, ["explain", str(photo), "--method", "cam", "-o", str(tmp_path / "none.png")])
    assert alone.exit_code == 2
    assert not (tmp_path / "none.png").exists()
