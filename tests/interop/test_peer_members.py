"""Attacks of other libraries as recipes: their options are theirs, budget, verdict and counts are ours."""

import dataclasses
import inspect
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from spikeproof import (
    L1,
    L2,
    MLP,
    PGD,
    ATan,
    Bernoulli,
    Digits,
    Direct,
    Events,
    Foolbox,
    Key,
    Latency,
    Linf,
    MeanPotential,
    ModelSpec,
    ReLU,
    Torchattacks,
    WorstOf,
    evaluate_attack,
    evaluate_clean,
)
from spikeproof.auditing.assess import attack_evidence
from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS
from spikeproof.learning.backprop import BPTT
from spikeproof.neurons import LIF
from spikeproof.threats import L0

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both libraries warn on import, about themselves
    import foolbox
    import torchattacks

KEY = Key.of(0)
BUDGET = {Linf: 0.1, L2: 1.0, L1: 4.0, L0: 2}
BRIEF = {  # options that make each attack short
    "Square": {"n_queries": 30},
    "SPSA": {"nb_sample": 8},
    "EADL1": {"max_iterations": 10, "binary_search_steps": 2},
    "OnePixel": {"steps": 2},
    "APGDT": {"steps": 3},
    "FAB": {"steps": 3},
    "L2CarliniWagnerAttack": {"steps": 20, "binary_search_steps": 3},
    "EADAttack": {"steps": 20, "binary_search_steps": 3},
    "BoundaryAttack": {"steps": 20},
    "HopSkipJumpAttack": {"steps": 1, "max_gradient_eval_steps": 50},
    **{name: {"steps": 20} for name in ("LInfFMNAttack", "L2FMNAttack", "L1FMNAttack", "NewtonFoolAttack")},
    **{name: {"repeats": 5} for name in FOOLBOX if "Repeated" in name},
}
IN_TORCHATTACKS = [name for name in TORCHATTACKS if name != "AutoAttack"]  # which takes minutes
IN_FOOLBOX = list(FOOLBOX)
ROWS = [(Torchattacks, name) for name in IN_TORCHATTACKS] + [(Foolbox, name) for name in IN_FOOLBOX]


@pytest.fixture(scope="module")
def digits():
    return Digits().load().test


def trained(encoder, neuron):
    model = ModelSpec(encoder, MLP((30,)), neuron, ATan(), MeanPotential(), (1, 8, 8), 10).build(KEY)
    BPTT(epochs=3, lr=0.01).train(model, Digits().load(), KEY)
    return model.eval()


@pytest.fixture(scope="module")
def ann():
    return trained(Direct(1), ReLU())


@pytest.fixture(scope="module")
def spiking():
    return trained(Latency(4), LIF())


def made(kind, name, **options):
    table = TORCHATTACKS if kind is Torchattacks else FOOLBOX
    return kind(attack=table[name](**(options or BRIEF.get(name, {}))))


def evaluated(model, recipe, threat, digits, n=8, **more):
    x, y = digits.images[:n], digits.labels[:n]
    clean = evaluate_clean(model, x, y, KEY)
    return evaluate_attack(model, recipe(threat), threat, x, y, clean, KEY, **more)


@pytest.mark.parametrize(
    ("home", "table"), [(torchattacks, TORCHATTACKS), (foolbox.attacks, FOOLBOX)], ids=["ta", "fb"]
)
def test_options_and_defaults_are_those_of_the_library(home, table):
    for name, member in table.items():
        parameters = inspect.signature(getattr(home, name).__init__).parameters
        for option in dataclasses.fields(member):
            assert parameters[option.name].default == option.default, (name, option.name)
        if home is torchattacks:
            assert {*member.takes} <= {*parameters}, name


@pytest.mark.parametrize(("kind", "name"), ROWS, ids=[f"{kind.package}-{name}" for kind, name in ROWS])
def test_every_peer_stays_in_its_budget_and_is_judged_by_the_model(kind, name, ann, digits):
    recipe = made(kind, name)
    for norm in recipe.attack.norms:
        threat = norm(BUDGET[norm])
        found = evaluated(ann, recipe, threat, digits)
        assert found.within.all(), norm
        with torch.no_grad():
            right = ann(found.x_adv).argmax(1) == found.label
        assert torch.equal(found.right == 1, right & (found.right_clean == 1))
        attacked = found.right_clean > 0
        assert (found.queries[attacked] > 1).all()
        assert bool((found.backward_queries[attacked] > 0).all()) != recipe.gradient_free


class Counting(torch.nn.Module):
    """Counts rows and backward passes without any help of the adapter."""

    def __init__(self, model):
        super().__init__()
        self.model, self.rows, self.back = model, 0, 0
        self.eval()

    def forward(self, images, key=None):
        self.rows += len(images)
        logits = self.model(images, key)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad):
        self.back += len(grad)


@pytest.mark.parametrize(
    ("kind", "name", "threat"),
    [
        (Torchattacks, "PGD", Linf(0.1)),
        (Torchattacks, "Square", Linf(0.1)),
        (Torchattacks, "DeepFool", L2(1.0)),
        (Torchattacks, "APGDT", Linf(0.1)),
        (Foolbox, "LinfPGD", Linf(0.1)),
        (Foolbox, "L2CarliniWagnerAttack", L2(1.0)),
    ],
)
def test_queries_are_counted_and_not_claimed(kind, name, threat, ann, digits):
    x, y = digits.images[:8], digits.labels[:8]
    counting = Counting(ann)
    found = made(kind, name)(threat)(counting, x, y, KEY)
    assert (
        found.queries.sum() == counting.rows - 1
    )  # one forward pass on one image gives the number of classes
    assert found.backward_queries.sum() == counting.back


@pytest.mark.parametrize(("kind", "name"), [(Torchattacks, "PGD"), (Foolbox, "LinfPGD")])
def test_a_peers_number_depends_on_no_batch_and_on_no_generator(kind, name, ann, digits):
    recipe, threat = made(kind, name, steps=3), Linf(0.1)
    torch.manual_seed(1)
    first = evaluated(ann, recipe, threat, digits, 70, batch_size=70)
    torch.manual_seed(2)
    np.random.seed(2)
    random.seed(2)
    again = evaluated(ann, recipe, threat, digits, 70, batch_size=7)
    assert torch.equal(first.x_adv, again.x_adv)
    assert torch.equal(first.queries, again.queries)
    state = torch.random.get_rng_state()
    both = WorstOf(attacks=(PGD(steps=2), recipe))
    one, other = (evaluated(ann, both, threat, digits, 60, batch_size=size) for size in (60, 7))
    assert torch.equal(one.x_adv, other.x_adv)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_forward_passes_outside_the_box_are_counted(ann, digits):
    class Looking(nn.Module):
        """Counts what lies outside, whatever the library or the attack says."""

        def __init__(self):
            super().__init__()
            self.outside = 0
            self.eval()

        def forward(self, images):
            self.outside += int((images != images.clamp(0, 1)).flatten(1).any(1).sum())
            return ann(images.clamp(0, 1))

    x, y = digits.images[:8], digits.labels[:8]
    looking = Looking()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torchattacks.NIFGSM(looking, eps=0.1, steps=3)(x, y)
    recipe = made(Torchattacks, "NIFGSM", steps=3)
    assert recipe(Linf(0.1))(ann, x, y, KEY).outside.sum() == looking.outside > 0
    assert evaluated(ann, recipe, Linf(0.1), digits, 8).metrics()["outside_queries"] > 0
    assert evaluated(ann, made(Torchattacks, "PGD", steps=3), Linf(0.1), digits, 8).outside.sum() == 0


def test_a_peer_leaves_the_model_as_it_was(spiking, digits):
    before = [(weight.requires_grad, weight.grad) for weight in spiking.parameters()]
    weights = [weight.clone() for weight in spiking.parameters()]
    evaluated(spiking, made(Torchattacks, "PGD", steps=2), Linf(0.1), digits)
    evaluated(spiking, made(Foolbox, "LinfDeepFoolAttack", steps=2), Linf(0.1), digits)
    assert [(weight.requires_grad, weight.grad) for weight in spiking.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(weights, spiking.parameters(), strict=True))
    assert not spiking.training


def test_a_peer_weighs_as_the_library_itself_does(spiking, digits):
    found = evaluated(spiking, made(Torchattacks, "BIM", steps=10), Linf(0.1), digits, 40)
    x, y = digits.images[:40], digits.labels[:40]
    theirs = torchattacks.BIM(spiking, eps=0.1, steps=10)(x, y)
    right = spiking(theirs).argmax(1) == y
    attacked = found.right_clean > 0
    assert torch.equal(found.right[attacked] == 1, right[attacked])
    evidence = attack_evidence("peer", made(Torchattacks, "BIM", steps=10), found.metrics())
    assert (evidence.gradient_source, evidence.steps, evidence.violations) == ("model", 10, 0)
    assert len(evidence.losses) == 10


def test_images_outside_the_budget_are_flagged_and_count_as_not_attacked(ann, digits):
    class Faulty(Torchattacks):
        def images(self, ear, threat, x, y, classes, seed):
            ear(x)
            return (x + 2 * threat.epsilon * torch.sign(torch.randn(x.shape))).clamp(0, 1)

    found = evaluated(ann, Faulty(attack=TORCHATTACKS["FGSM"]()), Linf(0.2), digits)
    attacked = found.right_clean > 0
    assert found.metrics()["budget_violations"] == attacked.sum()
    assert torch.equal(found.right, found.right_clean)


def test_peers_refuse_what_they_cannot_attack(ann, digits):
    with pytest.raises(InputError, match=r"PGD of torchattacks works with the threats Linf: got L2"):
        made(Torchattacks, "PGD", steps=2)(L2(1.0))
    recipe = made(Foolbox, "LinfPGD", steps=2)
    drawing = ModelSpec(Bernoulli(4), MLP((8,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10).build(KEY)
    with pytest.raises(InputError, match="needs a deterministic model, and this model draws"):
        evaluated(drawing.eval(), recipe, Linf(0.1), digits)
    events = ModelSpec(Events(4), MLP((8,)), LIF(), ATan(), MeanPotential(), (2, 3, 3), 4).build(KEY).eval()
    x, y = torch.zeros(2, 4, 2, 3, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InputError, match="takes whole events"):
        recipe(Linf(0.1))(events, x, y, KEY)
    with pytest.raises(InputError, match=r"LinfPGD needs steps of at least 1: got steps=0"):
        made(Foolbox, "LinfPGD", steps=0)


@pytest.mark.parametrize(("kind", "name"), [(Torchattacks, "PGD"), (Foolbox, "LinfPGD")])
def test_a_missing_package_is_named_with_the_extra_that_has_it(kind, name, monkeypatch):
    monkeypatch.setitem(sys.modules, kind.package, None)
    with pytest.raises(InputError, match=r"pip install 'spikeproof\[peers\]'") as error:
        made(kind, name, steps=2)(Linf(0.1))
    assert ("--no-deps torchattacks" in str(error.value)) == (kind is Torchattacks)


@pytest.mark.parametrize("epsilon", [0, 0.1])
def test_the_smallest_budget_and_a_batch_of_one(epsilon, ann, digits):
    found = evaluated(ann, made(Torchattacks, "PGD", steps=2), Linf(epsilon), digits, 1)
    assert found.within.all()
    assert len(found.right) == 1


STUDY = """\
name: peers
data: digits
models:
  - encoder: direct
    network: {mlp: {hidden: [8]}}
attacks:
  - torchattacks: {attack: {PGD: {steps: 20}}}
  - foolbox: {attack: L2PGD}
epsilons: [0.1]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("PGD: {steps: 20}", "PGDD: {steps: 20}", r"study.yaml:7: .*Did you mean 'PGD'"),
        ("PGD: {steps: 20}", "__init__: {}", r"study.yaml:7: expected a name of kind InTorchattacks"),
        ("steps: 20", "stepps: 20", r"study.yaml:7: 'PGD' has no such option.*Did you mean 'steps'"),
        ("steps: 20", "steps: a", r"study.yaml:7: expected a whole number"),
        ("steps: 20", "eps: 0.5", r"study.yaml:7: 'PGD' has no such option"),
        ("digits", "digits", r"study.yaml:8: L2PGD of foolbox works with the threats L2: got Linf"),
    ],
)
def test_unknown_peer_attacks_options_and_threats_in_a_study_are_refused_with_their_line(old, new, message):
    with pytest.raises(InputError, match=message):
        study_of(parse(STUDY.replace(old, new), "study.yaml"))
