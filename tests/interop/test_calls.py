"""Our recipes in the calls of Torchattacks and Foolbox, with the libraries' own models and criteria."""

import warnings

import pytest
import torch
from torch import nn

from spikeproof import (
    L2,
    MIM,
    MLP,
    PGD,
    AsFoolbox,
    AsTorchattacks,
    ATan,
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
    StraightThrough,
)
from spikeproof.attacks.nearest.minimum import MinimumNorm
from spikeproof.errors import InputError
from spikeproof.evaluation.through import through
from spikeproof.learning.backprop import BPTT
from spikeproof.neurons import LIF

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both libraries warn on import, about themselves
    import eagerpy
    import foolbox
    import torchattacks

KEY, EPSILON = Key.of(3), 0.1


@pytest.fixture(scope="module")
def data():
    test = Digits().load().test
    return test.images[:30], test.labels[:30]


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


class Plain(nn.Module):
    """A model that knows nothing of keys, on pixels of another range."""

    def __init__(self, model, low=0.0, high=1.0):
        super().__init__()
        self.model, self.low, self.high = model, low, high
        self.eval()

    def forward(self, images):
        return self.model((images - self.low) / (self.high - self.low))


@pytest.mark.parametrize("recipe", [PGD(steps=5), MIM(steps=5), SquareSearch(queries=20)], ids=repr)
def test_the_call_of_torchattacks_gives_the_images_of_the_recipe(recipe, ann, spiking, data):
    x, y = data
    for model in (ann, spiking):
        attack = AsTorchattacks(model, recipe, Linf(EPSILON), KEY)
        found = attack(x, y)
        assert torch.equal(found, recipe(Linf(EPSILON))(model, x, y, KEY).x_adv)
        assert torch.equal(found, attack(x, y))  # no state survives a call
        assert torch.equal(found, AsTorchattacks(Plain(model), recipe, Linf(EPSILON), KEY)(x, y))
        assert not found.requires_grad
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)


def test_the_call_of_torchattacks_takes_gradients_from_the_source_that_the_recipe_names(spiking, data):
    x, y = data
    recipe = PGD(steps=5, backward=StraightThrough(), surrogate=ATan(1.0))
    expected = recipe(Linf(EPSILON))(spiking, x, y, KEY, through=through(spiking, recipe)).x_adv
    assert torch.equal(AsTorchattacks(spiking, recipe, Linf(EPSILON), KEY)(x, y), expected)


def test_a_targeted_call_of_torchattacks_leads_to_the_given_labels(ann, data):
    """As `set_mode_targeted_by_label` of Torchattacks, and no less successful."""
    x, y = data
    target, epsilon = (y + 1) % 10, 0.25
    ours = AsTorchattacks(ann, PGD(steps=20), Linf(epsilon), KEY, targeted=True)(x, target)
    theirs = torchattacks.PGD(ann, eps=epsilon, alpha=epsilon / 8, steps=20)
    theirs.set_mode_targeted_by_label(quiet=True)
    reached = [(ann(found).argmax(1) == target).float().mean().item() for found in (ours, theirs(x, target))]
    assert reached[0] >= reached[1] > 0.8
    assert Linf(epsilon).contains(ours, x).all()
    for recipe in (SquareSearch(), DeepFool()):
        with pytest.raises(InputError, match="towards given labels"):
            AsTorchattacks(ann, recipe, Linf(epsilon), KEY, targeted=True)(x, target)


def test_the_call_of_foolbox_has_three_answers(ann, data):
    x, y = data
    model = foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu")
    raw, clipped, success = AsFoolbox(PGD(steps=5), Linf, KEY)(model, x, y, epsilons=EPSILON)
    assert torch.equal(raw, clipped)
    assert torch.allclose(clipped, PGD(steps=5)(Linf(EPSILON))(ann, x, y, KEY).x_adv, atol=1e-6)
    assert torch.equal(success, ann(clipped).argmax(1) != y)
    assert success.dtype == torch.bool


@pytest.mark.parametrize("recipe", [PGD(steps=5), DeepFool()], ids=repr)
def test_a_list_of_epsilons_gives_lists(recipe, ann, data):
    x, y = data
    model, epsilons = foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu"), [0.0, 0.02, 0.1, 0.3]
    theirs = foolbox.attacks.LinfPGD(steps=5)(model, x, y, epsilons=epsilons)
    ours = AsFoolbox(recipe, Linf, KEY)(model, x, y, epsilons=epsilons)
    for mine, peers in zip(ours[:2], theirs[:2], strict=True):
        assert isinstance(mine, list)
        assert [part.shape for part in mine] == [part.shape for part in peers]
    assert (ours[2].shape, ours[2].dtype) == (theirs[2].shape, theirs[2].dtype)
    for epsilon, clipped, success in zip(epsilons, ours[1], ours[2], strict=True):
        assert (clipped - x).abs().max() <= epsilon + 1e-6
        assert torch.equal(success, ann(clipped).argmax(1) != y)
        one = AsFoolbox(recipe, Linf, KEY)(model, x, y, epsilons=epsilon)
        assert torch.equal(one[1], clipped)
    assert ours[2][0].float().mean() < ours[2][-1].float().mean()


def test_no_epsilon_asks_for_the_nearest_image(ann, data):
    x, y = data
    model = foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu")
    raw, clipped, success = AsFoolbox(DeepFool(), L2, KEY)(model, x, y, epsilons=None)
    nearest = MinimumNorm(L2(1.0), DeepFool(), stop=False).search(ann, x, y, KEY)
    assert torch.equal(raw, clipped)
    assert success.all()
    assert torch.allclose(L2(1.0).distance(raw, x), nearest.distance, atol=1e-5)
    with pytest.raises(InputError, match="needs an epsilon"):
        AsFoolbox(PGD())(model, x, y, epsilons=None)


def test_foolboxs_criteria_and_tensors_are_understood(ann, data):
    x, y = data
    model = foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu")
    attack = AsFoolbox(PGD(steps=20), Linf, KEY)
    images, labels = eagerpy.astensors(x, y)
    plain = attack(model, x, y, epsilons=EPSILON)
    for criterion in (labels, foolbox.criteria.Misclassification(labels)):
        eager = attack(model, images, criterion, epsilons=EPSILON)
        assert all(isinstance(part, eagerpy.Tensor) for part in eager)
        assert all(torch.equal(a.raw, b) for a, b in zip(eager, plain, strict=True))
    target = (y + 1) % 10
    criterion = foolbox.criteria.TargetedMisclassification(eagerpy.astensor(target))
    _, clipped, success = attack(model, x, criterion, epsilons=0.25)
    assert torch.equal(success, ann(clipped).argmax(1) == target)
    assert success.float().mean() > 0.8
    with pytest.raises(InputError, match="A criterion is a tensor of labels"):
        attack(model, x, "misclassification", epsilons=EPSILON)


def test_bounds_of_a_foolbox_model_are_kept(ann, data):
    """Pixels of [-1, 3] with four times the budget give the same images, stretched."""
    x, y = data
    stretched = foolbox.PyTorchModel(Plain(ann, -1.0, 3.0), bounds=(-1, 3), device="cpu")
    plain = foolbox.PyTorchModel(ann, bounds=(0, 1), device="cpu")
    attack = AsFoolbox(PGD(steps=5), Linf, KEY)
    _, wide, found = attack(stretched, 4 * x - 1, y, epsilons=4 * EPSILON)
    _, narrow, expected = attack(plain, x, y, epsilons=EPSILON)
    assert (wide - (4 * x - 1)).abs().max() <= 4 * EPSILON + 1e-5
    assert torch.allclose((wide + 1) / 4, narrow, atol=1e-4)
    assert (found == expected).float().mean() > 0.9


def test_gradient_sources_and_threats_that_foolbox_cannot_express_are_refused():
    with pytest.raises(InputError, match="gradients from the model that it attacks"):
        AsFoolbox(PGD(surrogate=ATan(1.0)))
    with pytest.raises(InputError, match="A norm for Foolbox is Linf"):
        AsFoolbox(PGD(), Linf(0.1))


def test_an_attack_goes_on_after_a_tie():
    """Where the first best class is the answer, a tie fools nobody; half of these images tie on the way."""

    def coarse(images):
        z = images.flatten(1)[:, :4] @ torch.tensor([[3.0, 0.0], [0.0, 3.0], [2.0, 1.0], [1.0, 2.0]])
        return z + ((2 * z).round() / 2 - z).detach()

    x = Key.of(0).uniform((40, 1, 2, 2))
    y = coarse(x).argmax(1)
    found = AsTorchattacks(coarse, PGD(steps=40, reach=5.0), Linf(0.2))(x, y)
    steepest = x + 0.2 * torch.tensor([1.0, -1, 1, -1]).view(1, 1, 2, 2) * (2 * y - 1).view(-1, 1, 1, 1)
    best = coarse(steepest.clamp(0, 1)).argmax(1)
    assert ((coarse(found).argmax(1) == y) <= (best == y)).all()
