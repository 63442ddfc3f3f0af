"""The state probes compare a model with fresh copies, wherever in a program its state is held."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from spikeproof import Key, wrap
from spikeproof.auditing.state import copied, remembered
from spikeproof.evaluation.asking.leaks import unlike

X = Key.of(0).uniform((8, 1, 4, 4))
WEIGHTS = Key.of(1).uniform((16, 3)) - 0.5
KEPT: list[tuple[torch.Tensor, torch.Tensor]] = []
beside = types.ModuleType("beside")
beside.kept = []


def answered(kept, images):
    """Nine tenths of the answer to the nearest earlier image, if there is one within 0.11."""
    logits, found = images.flatten(1) @ WEIGHTS, []
    for image, fresh in zip(images.detach(), logits, strict=True):
        near = [old for known, old in kept if (known - image).abs().max() < 0.11]
        found.append(0.1 * fresh + 0.9 * near[0] if near else fresh)
        kept.extend([] if near else [(image, fresh.detach())])
    return torch.stack(found)


def in_a_global_variable(images):
    return answered(KEPT, images)


def through_another_function(images):
    return in_a_global_variable(images)


def in_another_module(images):
    return answered(beside.kept, images)


class OfItsClass:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []  # noqa: RUF012

    def __call__(self, images):
        return answered(OfItsClass.kept, images)


class OfItsBase(OfItsClass):
    def __call__(self, images):
        return super().__call__(images)


class Inner(nn.Module):
    def forward(self, images):
        return answered(KEPT, images)


def in_a_closure():
    kept = []
    return lambda images: answered(kept, images)


MODELS = [
    in_a_closure(),
    in_a_global_variable,
    through_another_function,
    in_another_module,
    OfItsClass(),
    OfItsBase(),
    nn.Sequential(nn.Identity(), Inner()).eval(),
    OfItsClass().__call__,
]


@pytest.fixture(autouse=True)
def fresh():
    for kept in (KEPT, beside.kept, OfItsClass.kept):
        kept.clear()


@pytest.mark.parametrize("model", MODELS, ids=lambda m: getattr(m, "__name__", type(m).__name__))
def test_a_cache_is_found_wherever_it_is_kept(model):
    first, second, third = (copied(model) for _ in range(3))
    signs = (Key.of(2).uniform(X.shape) - 0.5).sign()
    with torch.no_grad():
        found = remembered(third, (first, second), X, 1 - X, signs, lambda m, x, rows: m(x), unlike)
    assert found.near == 1
    assert KEPT == beside.kept == OfItsClass.kept == []  # the copies have their own


@pytest.mark.parametrize("model", MODELS, ids=lambda m: getattr(m, "__name__", type(m).__name__))
def test_a_copy_answers_as_the_model_does(model):
    copies = copied(model), copied(model)
    expected = model(X)
    for each in copies:
        assert torch.equal(each(X), expected)
        assert not torch.equal(each(X + 0.01), (X + 0.01).flatten(1) @ WEIGHTS)


class Resting(nn.Module):
    """A network whose memory rests at a reset."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 3)
        self.memory = None

    def forward(self, images):
        self.memory = (0 if self.memory is None else self.memory) + self.inner(images.flatten(1))[:, :1]
        return self.inner(images.flatten(1)) + self.memory

    def reset(self):
        self.memory = None


torch.manual_seed(0)
NETWORK = Resting().eval()


def test_a_copy_of_a_wrapped_function_resets_the_network_that_its_function_calls():
    network, x = NETWORK, X[:4]
    model = wrap(lambda images: NETWORK(2 * images - 1), x, reset=lambda: NETWORK.reset())
    other = copied(model)
    assert other(x).equal(other(x))
    assert network.memory is None or model(x).equal(other(x))


def with_weights_of_its_own(images):
    return images.flatten(1) @ with_weights_of_its_own.weights


with_weights_of_its_own.weights = WEIGHTS


class Scaled(nn.Module):
    """Its class holds state, and a property, a static method and a class method name the class."""

    known: dict[str, int] = {}  # noqa: RUF012

    @property
    def size(self):
        return 2.0 if isinstance(self, Scaled) else 0.0

    @staticmethod
    def shift():
        return Scaled.known.setdefault("calls", 0)

    @classmethod
    def own(cls):
        return cls is Scaled

    def forward(self, images):
        Scaled.known["calls"] = self.shift() + 1
        return self.size * self.own() * (images.flatten(1) @ WEIGHTS)


@pytest.mark.parametrize("model", [with_weights_of_its_own, Scaled().eval()])
def test_a_copy_answers_as_its_model(model):
    assert torch.equal(copied(model)(X), model(X))
    assert model(X).abs().sum() > 0


def test_a_copy_shares_no_state_that_a_static_method_reads():
    Scaled.known["calls"] = 0
    other = copied(Scaled())
    Scaled.known["calls"] = 7
    assert other.shift() == 0
