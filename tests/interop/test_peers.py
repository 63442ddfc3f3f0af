"""Foreign attack libraries run unchanged on a loaded model, and agree with ours where both mean the same."""

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
from spikeproof.attacks.minimum import MinimumNorm
from spikeproof.attacks.schedules import Oscillation
from spikeproof.attacks.search import GradientAttack
from spikeproof.attacks.steps import HeavyBall, Momentum
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


def test_our_fgsm_is_theirs(ann, digits):
    x, y = batch(digits)
    right = ann(x).argmax(1) == y  # ours leaves alone what is wrong already
    x, y = x[right], y[right]
    theirs = torchattacks.FGSM(ann, eps=EPSILON)(x, y)
    assert torch.allclose(FGSM()(Linf(EPSILON))(ann, x, y, Key.of(0)).x_adv, theirs, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_our_deterministic_pgd_follows_theirs_step_by_step(ann, digits, steps):
    """Ours returns the best iterate; that both end at the same point shows in the last loss of the trace."""
    x, y = batch(digits)
    alpha = 0.02
    theirs = torchattacks.PGD(ann, eps=EPSILON, alpha=alpha, steps=steps, random_start=False)(x, y)
    ours = GradientAttack(Linf(EPSILON), steps, alpha, random_start=False, stop_when_fooled=False)
    found = ours(ann, x, y, Key.of(0))
    with torch.no_grad():
        at_theirs = torch.nn.functional.cross_entropy(ann(theirs), y, reduction="none")
    assert torch.allclose(found.losses[-1], at_theirs, rtol=1e-4, atol=1e-5)
    still = found.losses.argmax(0) == steps  # where the last iterate is the best one, the points are equal
    assert still.sum() > len(x) // 2
    assert torch.allclose(found.x_adv[still], theirs[still], atol=1e-5)


def test_ours_is_no_weaker_at_equal_budget(ann, spiking, digits):
    x, y = batch(digits, 100)
    for model in (ann, spiking):
        torch.manual_seed(0)
        theirs = torchattacks.BIM(model, eps=EPSILON, alpha=EPSILON / 8, steps=20)(x, y)
        ours = BIM(steps=20)(Linf(EPSILON))(model, x, y, Key.of(0))
        assert (~ours.success).float().mean().item() <= accuracy(model, theirs, y) + 0.01


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_our_momentum_follows_theirs_step_by_step(ann, digits, steps):
    x, y = batch(digits)
    theirs = torchattacks.MIFGSM(ann, eps=EPSILON, alpha=0.02, steps=steps)(x, y)
    ours = GradientAttack(
        Linf(EPSILON), steps, 0.02, random_start=False, stop_when_fooled=False, rule=Momentum()
    )
    found = ours(ann, x, y, Key.of(0))
    with torch.no_grad():
        at_theirs = torch.nn.functional.cross_entropy(ann(theirs), y, reduction="none")
    assert torch.allclose(found.losses[-1], at_theirs, rtol=1e-4, atol=1e-5)
    still = found.losses.argmax(0) == steps
    assert still.sum() > len(x) // 2
    assert torch.allclose(found.x_adv[still], theirs[still], atol=1e-5)


class TheirStart(Linf):
    """The cube, with the start that Torchattacks' APGD draws from the global generator."""

    def start(self, x, key):
        torch.manual_seed(0)
        noise = 2 * torch.rand(x.shape) - 1
        return (x + self.epsilon * noise / noise.abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1)


@pytest.mark.parametrize(("objective", "name"), [(LogitCrossEntropy(), "ce"), (DLR(), "dlr")], ids=repr)
@pytest.mark.parametrize("steps", [3, 10, 25, 40])
def test_our_auto_pgd_follows_theirs(ann, digits, steps, objective, name):
    """The best point by objective and its value, over runs that end at different checkpoints."""
    x, y = batch(digits)
    x, y = (part[ann(x).argmax(1) == y] for part in (x, y))
    theirs = torchattacks.APGD(ann, eps=EPSILON, steps=steps, loss=name)
    torch.manual_seed(0)
    best, _, value, _ = theirs.attack_single_run(x, y)
    ours = GradientAttack(
        *(TheirStart(EPSILON), steps, 2 * EPSILON),
        objective=objective,
        stop_when_fooled=False,
        rule=HeavyBall(),
        schedule=Oscillation(),
    )
    found = ours(ann, x, y, Key.of(0))
    # they count the first step as a rise when the objective is above zero, ours when it rose
    same = (found.losses[1] > found.losses[0]) == (found.losses[1] > 0)
    assert same.sum() > 10
    assert torch.allclose(found.losses.amax(0)[same], value[same], rtol=1e-4, atol=1e-5)
    top = found.losses.topk(2, 0).values
    one_best = same & (top[0] > top[1] + 1e-5)  # of equal ones theirs keeps the first, ours the last
    with torch.no_grad():
        fooled_there = ann(best).argmax(1) != y  # ours prefers what fools; where their best does, it is ours
    compared = one_best & fooled_there
    assert compared.any() or steps > 10  # a longer run often reaches one corner of the cube many times
    assert torch.allclose(found.x_adv[compared], best[compared], atol=1e-5)


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


@pytest.mark.parametrize(
    ("recipe", "norm", "peer"),
    [
        (DeepFool(), L2, foolbox.attacks.L2DeepFoolAttack()),
        (DeepFool(), Linf, foolbox.attacks.LinfDeepFoolAttack()),
        (CarliniWagner(), L2, foolbox.attacks.L2CarliniWagnerAttack(steps=200)),
    ],
    ids=["deepfool-l2", "deepfool-linf", "carlini-wagner"],
)
def test_nearest_images_are_as_near_as_those_of_foolbox(ann, digits, recipe, norm, peer):
    x, y = batch(digits)
    right = ann(x).argmax(1) == y
    x, y = x[right], y[right]
    threat = norm(1.0)
    found = MinimumNorm(threat, recipe, stop=False).search(ann, x, y, Key.of(1))
    foreign = peer(foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1].detach()
    assert accuracy(ann, found.x_adv, y) == 0
    fooled = ann(foreign).argmax(1) != y
    assert fooled.float().mean() > 0.9
    ours, theirs = found.distance[fooled].median(), threat.distance(foreign, x)[fooled].median()
    assert ours <= 1.02 * theirs, (float(ours), float(theirs))


@pytest.mark.parametrize(
    ("recipe", "peer"),
    [
        (DeepFool(), lambda model: torchattacks.DeepFool(model)),
        (CarliniWagner(), lambda model: torchattacks.CW(model, c=1, steps=200)),
    ],
    ids=["deepfool", "carlini-wagner"],
)
def test_nearest_images_are_as_near_as_those_of_torchattacks(ann, digits, recipe, peer):
    x, y = batch(digits)
    right = ann(x).argmax(1) == y
    x, y = x[right], y[right]
    found = MinimumNorm(L2(1.0), recipe, stop=False).search(ann, x, y, Key.of(1))
    foreign = peer(ann)(x, y).detach()
    fooled = ann(foreign).argmax(1) != y
    assert fooled.any()
    ours, theirs = found.distance[fooled].median(), L2(1.0).distance(foreign, x)[fooled].median()
    assert ours <= 1.02 * theirs, (float(ours), float(theirs))
