"""One call audits a model of ours, a module or a function; models with state get no number."""

import sys
from pathlib import Path

import pytest
import torch

from spikeproof import (
    BPTT,
    FGSM,
    L2,
    LIF,
    MLP,
    PGD,
    ATan,
    Count,
    Digits,
    Key,
    Linf,
    ModelSpec,
    SpikeGated,
    Triangle,
)
from spikeproof.attacks.answers import foundlevels
from spikeproof.attacks.gradient.plain import Through
from spikeproof.attacks.made_of.composite import WidthSweep
from spikeproof.attacks.recipe import made
from spikeproof.auditing.signoff import audit
from spikeproof.datasets import ClassProportional
from spikeproof.decoders import decide
from spikeproof.encoders import Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import Plain, answering
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import RGA
from spikeproof.networks import substitute

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

KEY = Key.of(0)


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """What is said here of suites holds at any length of their members, and of any search for levels."""
    with brief_suites({"steps": 10, "restarts": 1, "refine": 10, "queries": 50}) as patch:
        patch.setattr(foundlevels, "LINES", foundlevels.LINES // 4)
        patch.setattr(foundlevels, "MOST_TESTS", foundlevels.MOST_TESTS // 4)
        yield


@pytest.fixture(scope="module")
def trained():
    data = Digits().load()
    spec = ModelSpec(Latency(6), MLP((24,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
    model = spec.build(KEY)
    BPTT(epochs=4, lr=0.01).train(model, data, KEY)
    part = ClassProportional()(data.test, 40)
    return model.eval(), part.images, part.labels


class Forgetful(torch.nn.Module):
    """A network whose membrane potentials survive a call, as if the reset between calls were missing."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rest = model, 0.0

    def forward(self, images):
        self.rest = 0.5 * self.rest + self.model(images).mean()
        return self.model(images) + self.rest * torch.arange(10)


@pytest.mark.parametrize(
    "recipe",
    [
        PGD(steps=4, backward=SpikeGated()),
        PGD(steps=4, surrogate=Triangle(0.2)),
        Through(gradient=RGA(), attack=PGD(steps=4)),
        WidthSweep(attack=PGD(steps=2), surrogates=(Triangle(0.3), ATan(4.0))),
    ],
    ids=lambda recipe: type(recipe).__name__,
)
def test_gradients_come_from_what_the_recipe_names(trained, recipe):
    model, x, y = trained
    threat = Linf(0.1)
    given = evaluate_attack(model, recipe(threat), threat, x, y, key=KEY, through=through(model, recipe))
    plain = evaluate_attack(model, recipe(threat), threat, x, y, key=KEY)
    named = evaluate_attack(model, recipe, threat, x, y, key=KEY)
    own = evaluate_attack(model, recipe(threat), threat, x, y, key=KEY, through=substitute(model))
    assert torch.equal(given.x_adv, plain.x_adv)
    assert torch.equal(given.x_adv, named.x_adv)
    if not isinstance(recipe, WidthSweep):  # which takes one source for every member
        assert not torch.equal(given.x_adv, own.x_adv)


def test_an_attack_remembers_the_recipe_that_made_it_and_its_threat():
    recipe = PGD(steps=3)
    assert made(recipe(Linf(0.2))) == (recipe, Linf(0.2))
    assert made(lambda *_, **__: None) is None


@pytest.mark.parametrize("other", [Linf(0.3), Linf(0.05), L2(0.1)])
def test_an_attack_made_for_another_budget_is_refused(trained, other):
    model, x, y = trained
    with pytest.raises(InputError, match="made for"):
        evaluate_attack(model, PGD(steps=2)(other), Linf(0.1), x, y)


@pytest.mark.parametrize("threat", [Linf(8), L2(9.0)])
def test_a_budget_larger_than_the_box_is_refused_where_a_number_is_asked_for(trained, threat):
    model, x, y = trained
    for ask in (
        lambda: evaluate_attack(model, FGSM(), threat, x, y),
        lambda: audit(model, x, y, threat, suite="quick"),
    ):
        with pytest.raises(InputError, match="reaches every image"):
            ask()


def test_the_whole_box_is_a_budget(trained):
    model, x, y = trained
    assert evaluate_attack(model, FGSM(), Linf(1.0), x, y).within.all()


def test_a_model_with_state_is_refused_before_it_has_a_number(trained):
    model, x, y = trained
    with pytest.raises(LeakError, match="equal"):
        evaluate_clean(Forgetful(model).eval(), x, y)
    with pytest.raises(LeakError, match="equal"):
        evaluate_attack(Forgetful(model).eval(), FGSM(), Linf(0.1), x, y, evaluate_clean(model, x, y))


def test_a_model_that_fails_at_its_second_call_is_refused_with_its_own_error(trained):
    model, x, y = trained
    calls = []

    def once(images):
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("size mismatch of a membrane")
        return model(images)

    with pytest.raises(LeakError, match="size mismatch of a membrane"):
        evaluate_clean(once, x, y)


def test_an_undeclared_draw_is_refused(trained):
    model, x, y = trained
    with pytest.raises(LeakError, match="stochastic = True"):
        evaluate_clean(lambda images: model(images) + torch.rand(10), x, y)


def test_state_withholds_the_verdict_and_leaves_no_number(trained):
    model, x, y = trained
    found = audit(Forgetful(model).eval(), x, y, Linf(0.1), suite="quick")
    assert found.verdict.verdict == "withheld"
    assert found.accuracy != found.accuracy
    assert any("state" in reason for reason in found.reasons)
    with pytest.raises(InputError, match="measured"):
        found.images


def test_the_report_agrees_with_itself_and_with_the_model(trained):
    model, x, y = trained
    found = audit(model, x, y, Linf(0.1), suite="quick")
    assert Linf(0.1).contains(found.images, x).all()
    assert float((decide(model(found.images)) == y).double().mean()) == pytest.approx(found.accuracy)
    assert found.plain()["robust_accuracy"] == found.accuracy
    assert f"{100 * found.accuracy:.1f} %" in str(found)
    assert found.verdict.verdict in str(found)


@pytest.mark.parametrize("shape", [(64,), (8, 8)])
def test_examples_of_any_shape_are_measured_as_images_are(trained, shape):
    model, x, y = trained
    own = lambda examples: model(examples.reshape(-1, 1, 8, 8))  # noqa: E731
    flat = audit(own, x.reshape(-1, *shape), y, Linf(0.1), "quick")
    assert flat.images.shape == (len(x), *shape)
    assert Linf(0.1).contains(flat.images, x.reshape(-1, *shape)).all()


@pytest.mark.parametrize(
    ("model", "takes_key"),
    [
        (lambda images: images, False),
        (lambda images, key=None: images, True),
        (lambda images, key: images, True),
        (lambda images, targets=None: images, False),
        (torch.nn.Linear(2, 2), False),
        (torch.nn.Sequential(torch.nn.Flatten()), False),
    ],
)
def test_a_key_is_passed_to_callables_that_accept_one(model, takes_key):
    assert isinstance(answering(model), Plain) != takes_key


def test_a_model_that_is_neither_module_nor_function_is_refused():
    with pytest.raises(InputError, match="module or a function"):
        answering(3)
