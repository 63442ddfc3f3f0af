"""Foreign attack libraries run unchanged on a loaded model, and agree with ours where both mean the same."""

import functools
import warnings

import pytest
import torch

from spikeproof import (
    APGD,
    APGDDLR,
    BIM,
    FGSM,
    L2,
    MLP,
    ATan,
    Bernoulli,
    CarliniWagner,
    Count,
    DeepFool,
    Digits,
    Direct,
    Key,
    Latency,
    Linf,
    MeanPotential,
    ModelSpec,
    ReLU,
    SquareSearch,
    load,
    save,
)
from spikeproof.attacks.nearest.minimum import MinimumNorm
from spikeproof.attacks.parts import schedules
from spikeproof.attacks.parts.schedules import Oscillation
from spikeproof.attacks.parts.steps import HeavyBall, Momentum
from spikeproof.attacks.search import GradientAttack
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import DLR, LogitCrossEntropy
from spikeproof.neurons import LIF

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both libraries warn on import, about themselves
    import foolbox
    import torchattacks

EPSILON = 0.1


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


def trained(tmp, data, encoder, neuron, decoder):
    model = ModelSpec(encoder, MLP((40,)), neuron, ATan(), decoder, (1, 8, 8), 10).build(Key.of(0))
    BPTT(epochs=4, lr=0.01).train(model, data, Key.of(0))
    save(model, tmp)
    return load(tmp)


@pytest.fixture(scope="module")
def spiking(tmp_path_factory, digits):
    return trained(tmp_path_factory.mktemp("spiking"), digits, Latency(6), LIF(), Count())


@pytest.fixture(scope="module")
def ann(tmp_path_factory, digits):
    return trained(tmp_path_factory.mktemp("ann"), digits, Direct(1), ReLU(), MeanPotential())


def batch(data, n=40):
    return data.test.images[:n], data.test.labels[:n]


def accuracy(model, x, y):
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


@pytest.mark.parametrize(
    "attack",
    [
        lambda m: torchattacks.FGSM(m, eps=EPSILON),
        lambda m: torchattacks.PGD(m, eps=EPSILON, alpha=EPSILON / 4, steps=10),
        lambda m: torchattacks.MIFGSM(m, eps=EPSILON, alpha=EPSILON / 4, steps=10),
        lambda m: torchattacks.PGDL2(m, eps=1.0, alpha=0.2, steps=10),
        lambda m: torchattacks.Square(m, eps=EPSILON, n_queries=50),
    ],
    ids=["fgsm", "pgd", "mifgsm", "pgdl2", "square"],
)
def test_torchattacks_runs_on_a_loaded_spiking_model(attack, spiking, digits):
    x, y = batch(digits)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Square counts with a deprecated call
        x_adv = attack(spiking)(x, y)
    assert x_adv.shape == x.shape
    assert ((x_adv >= 0) & (x_adv <= 1)).all()
    assert accuracy(spiking, x_adv, y) < accuracy(spiking, x, y)
    assert torch.equal(spiking(x), spiking(x))


@pytest.mark.parametrize(
    "attack",
    [foolbox.attacks.LinfPGD(steps=10), foolbox.attacks.FGSM(), foolbox.attacks.L2DeepFoolAttack(steps=10)],
)
def test_foolbox_runs_on_a_loaded_spiking_model(attack, spiking, digits):
    x, y = batch(digits, 20)
    torch.manual_seed(0)
    budget = 1.5 if isinstance(attack, foolbox.attacks.L2DeepFoolAttack) else EPSILON
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(spiking, bounds=(0, 1), device="cpu")
        _, clipped, success = attack(model, x, y, epsilons=budget)
    assert clipped.shape == x.shape
    assert success.any()
    assert accuracy(spiking, clipped, y) < accuracy(spiking, x, y)


def test_a_stochastic_model_draws_from_the_global_generator_for_foreign_libraries(digits):
    model = ModelSpec(Bernoulli(6), MLP((40,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10).build(
        Key.of(0)
    )
    model.eval()
    x, y = batch(digits, 5)
    torch.manual_seed(1)
    first = model(x)
    assert not torch.equal(model(x), first)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)
    assert torchattacks.EOTPGD(model, eps=0.1, steps=2)(x, y).shape == x.shape


def test_our_fgsm_gives_the_images_of_torchattacks(ann, digits):
    x, y = batch(digits)
    right = ann(x).argmax(1) == y  # ours leaves alone what is wrong already
    x, y = x[right], y[right]
    theirs = torchattacks.FGSM(ann, eps=EPSILON)(x, y)
    assert torch.allclose(FGSM()(Linf(EPSILON))(ann, x, y, Key.of(0)).x_adv, theirs, atol=1e-5)


class Recorder(torch.nn.Module):
    """A model that notes every image it is asked about."""

    def __init__(self, model):
        super().__init__()
        self.asked, self.model = [], model
        self.eval()

    def forward(self, images, key=None):
        self.asked.append(images.detach().clone())
        return self.model(images, key)


def apart(ours, theirs):
    """The largest difference of a value, per step and example."""
    return torch.stack([(a - b).abs().flatten(1).amax(1) for a, b in zip(ours, theirs, strict=True)])


@pytest.mark.parametrize(
    ("peer", "step"),
    [
        (lambda model: torchattacks.PGD(model, eps=EPSILON, alpha=0.01, steps=40, random_start=False), {}),
        (lambda model: torchattacks.BIM(model, eps=EPSILON, alpha=0.01, steps=40), {}),
        (lambda model: torchattacks.MIFGSM(model, eps=EPSILON, alpha=0.01, steps=40), {"step": Momentum()}),
    ],
    ids=["pgd", "bim", "mim"],
)
def test_every_step_of_pgd_and_mim_equals_that_of_the_peers(ann, digits, peer, step):
    x, y = batch(digits, 200)
    theirs, ours = Recorder(ann), Recorder(ann)
    end = peer(theirs)(x, y)
    GradientAttack(Linf(EPSILON), 40, 0.01, random_start=False, stop_when_fooled=False, **step)(
        ours, x, y, Key.of(0)
    )
    assert apart(ours.asked[:41], [*theirs.asked, end]).max() <= 1e-5


def test_ours_is_no_weaker_at_equal_budget(ann, spiking, digits):
    x, y = batch(digits, 100)
    for model in (ann, spiking):
        torch.manual_seed(0)
        theirs = torchattacks.BIM(model, eps=EPSILON, alpha=EPSILON / 8, steps=20)(x, y)
        ours = BIM(steps=20)(Linf(EPSILON))(model, x, y, Key.of(0))
        assert (~ours.success).float().mean().item() <= accuracy(model, theirs, y) + 0.01


class TheirStart(Linf):
    """The cube, with the start that Torchattacks' APGD draws from the global generator."""

    def start(self, x, key):
        torch.manual_seed(0)
        noise = 2 * torch.rand(x.shape) - 1
        return (x + self.epsilon * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


class TheirFirstRise(Oscillation):
    """The schedule of APGD with a fault of theirs: the evaluation after the start is compared with zero."""

    def __call__(self, sight, memory):
        if sight.step == 1:
            memory = {**memory, "last": torch.zeros_like(memory["last"])}
        return super().__call__(sight, memory)


def first_of_equals(sight, memory):
    """The best evaluation so far, theirs at a tie being the older one."""
    better = sight.value > memory["best"]
    pick = better.view(-1, *[1] * (sight.here.ndim - 1))
    return {
        **memory,
        "best": torch.where(better, sight.value, memory["best"]),
        "best_here": torch.where(pick, sight.here, memory["best_here"]),
        "best_grad": torch.where(pick, sight.grad, memory["best_grad"]),
    }, better


def both_auto_pgds(ann, digits, steps, objective, name, schedule):
    """Images that either asks about, example by example, and our trace."""
    x, y = batch(digits, 200)
    x, y = (part[ann(x).argmax(1) == y] for part in (x, y))
    theirs, ours = Recorder(ann), Recorder(ann)
    torch.manual_seed(0)
    torchattacks.APGD(theirs, eps=EPSILON, steps=steps, loss=name).attack_single_run(x, y)
    attack = GradientAttack(
        *(TheirStart(EPSILON), steps, 2 * EPSILON),
        objective=objective,
        stop_when_fooled=False,
        step=HeavyBall(),
        schedule=schedule,
    )
    found = attack(ours, x, y, Key.of(0))
    return apart(ours.asked[: steps + 1], theirs.asked), found.losses


OBJECTIVES = pytest.mark.parametrize(
    ("objective", "name"), [(LogitCrossEntropy(), "ce"), (DLR(), "dlr")], ids=["ce", "dlr"]
)


@OBJECTIVES
@pytest.mark.parametrize("steps", [10, 25, 50])
def test_every_step_of_auto_pgd_equals_that_of_torchattacks(ann, digits, steps, objective, name):
    """Where the two known differences say nothing: the first evaluation, and points of one value."""
    distance, losses = both_auto_pgds(ann, digits, steps, objective, name, Oscillation())
    same_rise = (losses[1] > losses[0]) == (losses[1] > 0)
    no_tie = ~(losses[1:] == losses.cummax(0).values[:-1]).any(0)  # in corners of the cube ties are frequent
    compared = same_rise & no_tie
    assert compared.sum() > 10
    assert distance[:, compared].max() <= 1e-5


@OBJECTIVES
@pytest.mark.parametrize("steps", [10, 25, 50])
def test_with_the_step_rule_of_torchattacks_auto_pgd_is_theirs_in_every_step(
    ann, digits, steps, objective, name, monkeypatch
):
    """With their reading of both, every step of every example is theirs."""
    monkeypatch.setattr(schedules, "_remembered", first_of_equals)
    distance, _ = both_auto_pgds(ann, digits, steps, objective, name, TheirFirstRise())
    assert distance.shape[1] > 150
    assert distance.max() <= 1e-5


def test_ours_leave_no_more_standing_at_equal_budget(ann, digits):
    x, y = batch(digits, 200)
    pairs = [
        (APGD(steps=25), torchattacks.APGD(ann, eps=EPSILON, steps=25)),
        (APGDDLR(steps=25), torchattacks.APGD(ann, eps=EPSILON, steps=25, loss="dlr")),
        (SquareSearch(queries=300), torchattacks.Square(ann, eps=EPSILON, n_queries=300)),
    ]
    for ours, theirs in pairs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            standing = accuracy(ann, theirs(x, y), y)
        left = (~ours(Linf(EPSILON))(ann, x, y, Key.of(0)).success).float().mean().item()
        assert left <= standing + 0.005, ours


CW = CarliniWagner(searches=5)


@pytest.fixture(scope="module")
def nearest(ann, digits):
    """Images that the network gets right, their labels, and our searches on them, each made once."""
    x, y = batch(digits)
    right = ann(x).argmax(1) == y
    x, y = x[right], y[right]

    @functools.cache
    def search(recipe, norm):
        return MinimumNorm(norm(1.0), recipe, stop=False).search(ann, x, y, Key.of(1))

    return x, y, search


@pytest.mark.parametrize(
    ("recipe", "norm", "peer"),
    [
        (DeepFool(), L2, foolbox.attacks.L2DeepFoolAttack()),
        (DeepFool(), Linf, foolbox.attacks.LinfDeepFoolAttack()),
        (CW, L2, foolbox.attacks.L2CarliniWagnerAttack(steps=200, binary_search_steps=5)),
    ],
    ids=["deepfool-l2", "deepfool-linf", "carlini-wagner"],
)
def test_nearest_images_are_as_near_as_those_of_foolbox(ann, nearest, recipe, norm, peer):
    x, y, search = nearest
    threat, found = norm(1.0), search(recipe, norm)
    foreign = peer(foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1].detach()
    assert accuracy(ann, found.x_adv, y) == 0
    fooled = ann(foreign).argmax(1) != y
    assert fooled.float().mean() > 0.9
    ours, theirs = found.distance[fooled].median(), threat.distance(foreign, x)[fooled].median()
    assert ours <= 1.02 * theirs, (float(ours), float(theirs))


@pytest.mark.parametrize(
    ("recipe", "peer", "images"),
    [
        (DeepFool(), lambda model: torchattacks.DeepFool(model), 12),  # takes images one by one
        (CW, lambda model: torchattacks.CW(model, c=1, steps=200), 40),
    ],
    ids=["deepfool", "carlini-wagner"],
)
def test_nearest_images_are_as_near_as_those_of_torchattacks(ann, nearest, recipe, peer, images):
    x, y, search = nearest
    x, y, distance = x[:images], y[:images], search(recipe, L2).distance[:images]
    foreign = peer(ann)(x, y).detach()
    fooled = ann(foreign).argmax(1) != y
    assert fooled.any()
    ours, theirs = distance[fooled].median(), L2(1.0).distance(foreign, x)[fooled].median()
    assert ours <= 1.02 * theirs, (float(ours), float(theirs))
