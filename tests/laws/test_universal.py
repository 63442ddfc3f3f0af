"""Universal perturbations: closed forms, budgets, and images that had no part in them."""

import pytest
import torch

from spikeproof.attacks.gradient.universal import Perturbed, Universal
from spikeproof.attacks.made_of.composite import Chosen, WorstOf
from spikeproof.decoders import Count
from spikeproof.encoders import Bernoulli
from spikeproof.errors import InputError
from spikeproof.evaluation.through import settled, validated
from spikeproof.evaluation.verdicts import evaluate_attack
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import L1, L2, Flips, Linf

N = 40
X = 0.3 + 0.4 * Key.of(0).uniform((N, 1, 4, 4))
SLOPE = Key.of(1).normal((16,))
LABELS = torch.zeros(N, dtype=torch.int64)


def two(images, key=None):
    """Two classes whose margin is linear: the best perturbation is the same for every image."""
    score = (images.flatten(1) - 0.5) @ SLOPE.to(images.dtype) + 2
    return torch.stack([score, -score], 1)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=repr)
@pytest.mark.parametrize("objective", [None, Margin()])
def test_it_reaches_the_closed_form_on_a_linear_margin(threat, objective):
    recipe = Universal() if objective is None else Universal(objective=objective)
    delta = recipe.craft(two, threat, X, LABELS, Key.of(2)).delta.flatten()
    best = -threat.epsilon * (SLOPE.sign() if isinstance(threat, Linf) else SLOPE / SLOPE.norm())
    assert float(delta @ SLOPE) <= 0.99 * float(best @ SLOPE)
    zero = torch.zeros(1, 16) + 0.5
    assert threat.contains(zero + delta, zero).all()


@pytest.mark.parametrize("threat", [Linf(0.3), L2(1.0), Linf(0.0)], ids=repr)
def test_the_same_perturbation_stays_within_the_budget_of_every_other_image(threat):
    made = Universal(epochs=2).craft(two, threat, X, LABELS, Key.of(2))
    others = Key.of(9).uniform((30, 1, 4, 4))  # some of them close to black or white
    y = torch.zeros(30, dtype=torch.int64)
    found = made(threat)(two, others, y, Key.of(3))
    assert threat.contains(found.x_adv, others).all()
    free = ((others + made.delta >= 0) & (others + made.delta <= 1)).float()
    assert torch.allclose((found.x_adv - others) * free, made.delta * free, atol=1e-6)
    outcome = evaluate_attack(two, made, threat, others, y)
    assert outcome.metrics()["budget_violations"] == 0


def test_equal_keys_give_equal_perturbations_and_a_cap_leaves_lost_images_out():
    recipe = Universal(epochs=2, batch=8)
    first, again = (recipe.craft(two, Linf(0.1), X, LABELS, Key.of(2)).delta for _ in range(2))
    assert torch.equal(first, again)
    labels = torch.where(two(X)[:, 0] > 2, 0, 1)
    free = Universal(epochs=1, cap=1e9).craft(two, Linf(0.1), X, labels, Key.of(2)).delta
    capped = Universal(epochs=1, cap=1e-9).craft(two, Linf(0.1), X, labels, Key.of(2)).delta
    assert not capped.any()  # every image is beyond the cap
    assert free.any()


def test_a_stochastic_model_and_a_substitute_for_gradients_are_taken():
    spec = ModelSpec(Bernoulli(3), MLP((6,)), LIF(threshold=0.25), ATan(), Count(), (1, 4, 4), 3)
    model = spec.build(Key.of(0)).eval()
    y = torch.arange(N) % 3
    recipe = Universal(epochs=2, images=N, surrogate=ATan(6.0))
    known, choices = settled(model, recipe, Linf(0.2), X, y, Key.of(1))
    assert isinstance(known, Perturbed)
    assert not choices
    plain, _ = settled(model, Universal(epochs=2, images=N), Linf(0.2), X, y, Key.of(1))
    assert not torch.equal(known.delta, plain.delta)


def test_only_so_many_images_make_it():
    few, _ = settled(two, Universal(images=10, epochs=1), Linf(0.1), X, LABELS, Key.of(1))
    cut, _ = settled(two, Universal(images=10, epochs=1), Linf(0.1), X[:10], LABELS[:10], Key.of(1))
    assert torch.equal(few.delta, cut.delta)
    assert validated(WorstOf(attacks=(Universal(images=70),))) == 70
    inside, _ = settled(two, WorstOf(attacks=(Universal(epochs=1),)), Linf(0.1), X, LABELS, Key.of(1))
    assert isinstance(inside.attacks[0], Perturbed)
    chosen, _ = settled(two, Chosen(attacks=(Universal(epochs=1),)), Linf(0.1), X, LABELS, Key.of(1))
    assert isinstance(chosen, Perturbed)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"images": 0}, {"batch": 0}, {"step_size": 0.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(InputError, match="Try the defaults"):
        Universal(**options)


@pytest.mark.parametrize("threat", [L1(1.0), Flips(1)], ids=repr)
def test_other_threats_are_refused(threat):
    with pytest.raises(InputError, match="Linf and L2"):
        Universal()(threat)
    with pytest.raises(InputError, match="Linf and L2"):
        Universal().craft(two, threat, X, LABELS, Key.of(0))


def test_a_call_before_it_was_made_and_images_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="made on other images first"):
        evaluate_attack(two, Universal(), Linf(0.1), X, LABELS)
    with pytest.raises(InputError, match="got none"):
        Universal().craft(two, Linf(0.1), X[:0], LABELS[:0], Key.of(0))
    with pytest.raises(InputError, match="images of this shape"):
        Perturbed(torch.zeros(1, 5, 5))(Linf(0.1))(two, X, LABELS, Key.of(0))


TEXT = """\
name: universal
data: digits
models: [{encoder: {direct: {steps: 2}}, network: {mlp: {hidden: [8]}}, rule: {bptt: {epochs: 4}}}]
attacks: [fgsm, {universal: {epochs: 3, images: 60}}]
epsilons: [0.3]
examples: 40
"""


def cells(text):
    chosen = study_of(parse(text, "study.yaml"))
    return chosen, cells_of(chosen, chosen.data.load(None))


@pytest.mark.parametrize("several", ["chosen: {images: 60, attacks", "worst-of: {attacks"])
def test_a_study_takes_it_among_several_attacks_and_names_the_one_that_does_not_fit(several):
    text = TEXT.replace("fgsm, {universal: {epochs: 3, images: 60}}", f"{{{several}: [fgsm, universal]}}}}")
    assert any(cell.kind == "attack" for cell in cells(text.replace("universal]", "bim]"))[1])
    assert any(cell.kind == "attack" for cell in cells(text)[1])
    wrong = text.replace("fgsm, universal", "fgsm, {apgd-t: {targets: {every-other: {count: 99}}}}")
    with pytest.raises(InputError, match=r"study.yaml:4: "):
        cells(wrong)


def test_a_study_makes_it_on_validation_images(tmp_path):
    chosen, planned = cells(TEXT)
    out = tmp_path / "out"
    summary = run(chosen.name, chosen.spec(), planned, Bench(out, None, "cpu", 40), Serial(), out, Listener())
    assert summary.failed == 0
    found = {row["attack"]: row for row in records(out)}
    assert set(found) == {"fgsm", "universal", "worst-case"}
    row = found["universal"]
    assert row["effort"]["budget_violations"] == 0
    assert row["robust_accuracy"] < row["clean_accuracy"]
    with pytest.raises(InputError, match=r"study.yaml:4: An attack is chosen on 6000 images"):
        cells(TEXT.replace("images: 60", "images: 6000"))
    with pytest.raises(InputError, match=r"study.yaml:4: Universal is defined for"):
        cells(TEXT + "threat: l1\n")
