"""Only a twin with the same spikes stands for a model; misclassified images are not attacked."""

import pytest
import torch

from spikeproof.attacks.events.eventsteps import SpikeCompatible
from spikeproof.attacks.events.fewest import SpikeFool
from spikeproof.attacks.gradient.plain import EOTPGD, PGD
from spikeproof.attacks.made_of.composite import WorstOf
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.search import twins
from spikeproof.decoders import Count
from spikeproof.encoders import Events
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.evaluation.through import raised, through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import BPTR
from spikeproof.interop.calls import AsTorchattacks
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import probed, substitute
from spikeproof.neurons import LIF
from spikeproof.probes import Reversal
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import Flips, Linf, Shifts

KEY = Key.of(5)
SPEC = ModelSpec(Events(5), MLP((6,)), LIF(), ATan(), Count(), (1, 4, 4), 3)
X = (KEY.uniform((24, 5, 1, 4, 4)) < 0.3).float()


def test_only_twins_of_the_same_spikes_speak_for_a_model():
    model = SPEC.build(KEY).eval()
    for twin in (model, substitute(model, spike=Triangle(2.0)), substitute(model, unroll=BPTR())):
        assert twins(model, twin)
        assert twins(Steady(model), Steady(twin))
        assert twins(twin, substitute(twin, spike=ATan(9.0)))
    for other in (
        SPEC.build(KEY).eval(),
        raised(model, 1.0),
        probed(model, Reversal()),
        lambda x, key=None: x,
    ):
        assert not twins(model, other)
        assert not twins(other, model)


def test_logits_of_a_raised_threshold_are_no_verdicts_in_batches_of_any_size():
    model, recipe, threat = SPEC.build(KEY).eval(), SpikeCompatible(steps=6, raised=1.15), Flips(3)
    y = model(X).argmax(1)
    clean = evaluate_clean(model, X, y, KEY)
    found = [
        evaluate_attack(
            model, recipe(threat), threat, X, y, clean, KEY, through=through(model, recipe), batch_size=size
        )
        for size in (1, 5, 24)
    ]
    for other in found[1:]:
        assert torch.equal(other.x_adv, found[0].x_adv)
        assert torch.equal(other.right, found[0].right)
    assert found[0].metrics()["silent_success_share"] == 0


class Coin:
    """Classifies clean images correctly on half of its draws, and never once the first pixel is darker."""

    stochastic = True

    def __call__(self, images, key=None):
        draws = key.uniform((len(images), 1))[:, 0] if key.rows else torch.rand(len(images))
        value = images.flatten(1)[:, 0]
        score = torch.where(draws < 0.5, value - 0.45, -torch.ones(len(images)) + value - value.detach())
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.mark.parametrize("draws", [1, 2])
def test_luck_on_a_clean_draw_spares_no_example_the_attack(draws):
    x, y = torch.full((60, 1, 2, 2), 0.5), torch.zeros(60, dtype=torch.int64)
    clean = evaluate_clean(Coin(), x, y, KEY, draws=draws)
    assert (clean.right == 0).any()
    found = evaluate_attack(
        Coin(), EOTPGD(steps=4, draws=2)(Linf(0.2)), Linf(0.2), x, y, clean, KEY, draws=draws
    )
    assert (found.queries > 0).all()
    assert found.metrics()["robust_accuracy"] == 0


def test_distances_know_grids_of_several_events():
    model = SPEC.build(KEY).eval()
    x = X * (1 + (KEY.fold("more").uniform(X.shape) < 0.5).float())  # entries of two
    y = model(x).argmax(1)
    clean = evaluate_clean(model, x, y, KEY)
    found = evaluate_distances(model, SpikeFool(), Flips(1, most=3), x, y, clean, KEY)
    claimed = found.claimed.isfinite()
    assert claimed.any()
    assert torch.equal(found.distance[claimed], found.claimed[claimed])


def test_attacks_made_elsewhere_go_on_when_they_have_fooled_the_other_model():
    made = Transfer(attack=WorstOf(attacks=(PGD(steps=3), PGD(steps=3))))(Linf(0.1)).attack
    assert not made.stop_when_fooled
    assert [each.stop_when_fooled for each in made.attacks] == [False, False]


@pytest.mark.parametrize("measure", ["moved", "delay"])
@pytest.mark.parametrize("most", [1, 3])
def test_the_best_shifts_do_not_depend_on_the_scale_of_a_gradient(measure, most):
    threat = Shifts(4, most=most, measure=measure)
    x = X[:8] * (1 if most == 1 else 2)
    grad = KEY.normal(x.shape)
    best = threat.extreme(grad, x)
    for scale in (1e-9, 1e9):
        assert torch.equal(threat.extreme(scale * grad, x), best)


def test_torchattacks_call_of_a_raised_threshold_takes_its_gradients():
    model = SPEC.build(KEY).eval()
    y = model(X).argmax(1)
    plain, higher = (
        AsTorchattacks(model, SpikeCompatible(steps=4, raised=r), Flips(3), key=KEY)(X, y)
        for r in (1, 10 / 3)
    )
    assert not torch.equal(plain, higher)
