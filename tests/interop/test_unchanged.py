"""Every attack of Torchattacks and Foolbox, as the libraries list them, on what `load` and `wrap` return."""

import inspect
import warnings
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from spikeproof import (
    IBP,
    MLP,
    PGD,
    AsTorchattacks,
    ATan,
    Digits,
    Direct,
    InputError,
    Key,
    Latency,
    Linf,
    MeanCurrent,
    ModelSpec,
    evaluate_attack,
    evaluate_clean,
    load,
    save,
    substitute,
    wrap,
)
from spikeproof.attacks.search import judge
from spikeproof.datasets import Split
from spikeproof.learning.backprop import BPTT
from spikeproof.networks import Classifier, Outside
from spikeproof.neurons import LIF

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both libraries warn on import, about themselves
    import foolbox
    import torchattacks
    from foolbox.attacks.base import Attack as OfFoolbox
    from torchattacks.attack import Attack as OfTorchattacks

KEY, EPSILON = Key.of(3), 0.1


def members(module, base):
    """The attacks of a library that can be made, each once where it has several names."""
    found = {c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, base) and c is not base}
    return sorted((c for c in found if not inspect.isabstract(c)), key=lambda c: c.__name__)


IN_TORCHATTACKS = members(torchattacks, OfTorchattacks)
IN_FOOLBOX = members(foolbox.attacks, OfFoolbox)
UNAVAILABLE = {  # attack of Foolbox -> how it says that it runs on no model here
    "BinarizationRefinementAttack": (ValueError, "threshold"),  # for models that round every pixel to 0 or 1
}
if find_spec("numba") is None:
    needs_numba = [f"{norm}BrendelBethgeAttack" for norm in ("L0", "L1", "L2", "Linfinity")]
    UNAVAILABLE |= dict.fromkeys(needs_numba, (ModuleNotFoundError, "numba"))
BRIEF = {  # options under which an attack is short; any attack with one of these options gets it
    "steps": 3,
    "binary_search_steps": 1,
    "max_iterations": 10,
    "repeats": 3,
    "directions": 3,
    "initial_gradient_eval_steps": 4,
    "max_gradient_eval_steps": 8,
    "n_queries": 5,
    "popsize": 5,
    "nb_sample": 4,
    "restarts": 2,
    "num_iter_set": 2,
    "noise_batch_size": 2,
}
LEAVE_THE_BOX = {"NIFGSM", "SINIFGSM", "VMIFGSM", "VNIFGSM", "SPSA", "EADL1", "EADEN", "PGDRS", "PGDRSL2"}


def coloured(part):
    """Three channels, which some attacks of Torchattacks need."""
    return Split(part.images.expand(-1, 3, -1, -1).contiguous(), part.labels, part.ids)


@pytest.fixture(scope="module")
def data():
    part = coloured(Digits().load().test)
    return part.images[:6], part.labels[:6]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    digits = Digits().load()
    three = replace(digits, train=coloured(digits.train), validation=coloured(digits.validation))
    model = ModelSpec(Latency(4), MLP((16,)), LIF(), ATan(), MeanCurrent(), (3, 8, 8), 10).build(KEY)
    BPTT(epochs=2, lr=0.01).train(model, three, KEY)
    folder = tmp_path_factory.mktemp("saved")
    save(model.eval(), folder)
    return folder


class Nearest(nn.Module):
    """A linear network of plain PyTorch: the class whose mean image is nearest."""

    def __init__(self, part):
        super().__init__()
        means = torch.stack([part.images[part.labels == k].mean(0).flatten() for k in range(10)])
        self.linear = nn.Linear(192, 10)
        self.linear.weight.data, self.linear.bias.data = means, -(means**2).sum(1) / 2

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.fixture(params=["load", "wrap"])
def model(request, saved, data):
    """A fresh model, with a record of its own."""
    return (
        load(saved)
        if request.param == "load"
        else wrap(Nearest(coloured(Digits().load().train)).eval(), data[0])
    )


def briefly(attack):
    """The options of an attack that make it short."""
    known = inspect.signature(attack.__init__).parameters
    return {name: value for name, value in BRIEF.items() if name in known}


@pytest.mark.filterwarnings("ignore")  # of the libraries, about functions that they use
@pytest.mark.parametrize("attack", IN_TORCHATTACKS, ids=lambda attack: attack.__name__)
def test_every_attack_of_torchattacks_runs_unchanged(attack, model, data, capsys):
    x, y = data
    options = briefly(attack)
    if attack is torchattacks.LGV:  # trains copies of the model on batches
        options |= {"trainloader": [(x, y)], "epochs": 1, "nb_models_epoch": 1, "verbose": False}
        options |= {"attack_class": torchattacks.BIM}
    made = (
        attack([torchattacks.FGSM(model), torchattacks.NIFGSM(model)])
        if attack is torchattacks.MultiAttack
        else attack(model, **options)
    )
    if attack is torchattacks.AutoAttack:  # has no options that make it short, but its members have
        for member in made._autoattack.attacks:
            vars(member).update({name: value for name, value in BRIEF.items() if name in vars(member)})
    if attack is torchattacks.LGV and not isinstance(model, Classifier):
        with pytest.raises(InputError, match="evaluation mode"):  # it trains the network of others
            made(x, y)
        return
    found = made(x, y)
    assert found.shape == x.shape
    assert (found.clamp(0, 1) - found).abs().max() < 1e-5  # some return images outside by a rounding
    if attack.__name__ in LEAVE_THE_BOX:
        assert model.outside.values >= model.outside.images > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attack", IN_FOOLBOX, ids=lambda attack: attack.__name__)
def test_every_attack_of_foolbox_runs_unchanged(attack, model, data):
    x, y = data
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1))
    options, criterion, call = briefly(attack), y, {"epsilons": EPSILON}
    if "distance" in inspect.signature(attack.__init__).parameters:
        options["distance"] = foolbox.distances.linf
    if attack is foolbox.attacks.GenAttack:
        criterion = foolbox.criteria.TargetedMisclassification((y + 1) % 10)
    if attack in (foolbox.attacks.L0FMNAttack, foolbox.attacks.PointwiseAttack):
        call = {"epsilons": None}  # the library cannot measure their distances
    if attack in (foolbox.attacks.BinarizationRefinementAttack, foolbox.attacks.PointwiseAttack):
        answers = model(x).argmax(1)
        others = [int((answers != label).nonzero()[0]) for label in y]
        call["starting_points"] = x[others]
    if attack.__name__ in UNAVAILABLE:
        kind, reason = UNAVAILABLE[attack.__name__]
        with pytest.raises(kind, match=reason):
            attack(**options)(theirs, x, criterion, **call)
        return
    made = attack(**options)
    if attack is foolbox.attacks.DatasetAttack:
        made.feed(theirs, x.flip(0))
    found, _, _ = made(theirs, x, criterion, **call)
    assert found.shape == x.shape


@pytest.mark.filterwarnings("ignore")
def test_in_the_call_of_torchattacks_our_recipes_give_the_images_that_they_give_elsewhere(model, data):
    x, y = data
    found = AsTorchattacks(model, PGD(steps=3), Linf(EPSILON), KEY)(x, y)
    assert torch.equal(found, PGD(steps=3)(Linf(EPSILON))(model, x, y, KEY).x_adv)
    assert model.outside == Outside()


def test_a_call_without_a_key_answers_for_the_nearest_image_and_passes_the_gradient_through(model, data):
    x = data[0]
    far = x.clone()
    far[0, 0, 0, :2], far[2] = torch.tensor([-0.25, 1.5]), 3.0
    far.requires_grad_()
    near = far.detach().clamp(0, 1).requires_grad_()
    weight = Key.of(1).normal((len(x), 10))
    logits, wanted = model(far), model(near)
    assert torch.equal(logits, wanted)
    grads = [
        torch.autograd.grad((weight * found).sum(), at)[0] for found, at in ((logits, far), (wanted, near))
    ]
    assert torch.equal(*grads)
    assert grads[0][2].abs().sum() > 0  # outside as well
    assert model.outside == Outside(images=2, values=2 + x[0].numel(), farthest=2.0)


def test_what_is_no_number_gets_no_logits_and_the_other_images_of_its_batch_get_theirs(model, data):
    x = data[0].clone()
    wanted = model(x)
    x[1, 0, 0, 0] = torch.nan
    found = model(x)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2, 3, 4, 5]], wanted[[0, 2, 3, 4, 5]])
    assert model.outside.images == model.outside.values == 1


@pytest.mark.parametrize("change", [lambda x: 2 * x, lambda x: x - 0.01, lambda x: x / 0], ids="abc")
def test_evaluations_refuse_images_outside_the_box(model, data, change):
    x, y = change(data[0]), data[1]
    for evaluate in (
        lambda: evaluate_clean(model, x, y),
        lambda: judge(model, x, y, KEY),
        lambda: evaluate_attack(model, PGD(steps=1), Linf(EPSILON), x, y),
        lambda: AsTorchattacks(model, PGD(steps=1), Linf(EPSILON))(x, y),
    ):
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            evaluate()
    assert model.outside == Outside()


def test_a_model_that_was_built_here_refuses_them_in_every_call_and_twins_count_for_themselves(saved, data):
    x = data[0] + 0.5
    loaded = load(saved)
    built = loaded.spec.build(KEY).eval()
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        built(x)
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        IBP()(loaded, x, data[1], Linf(EPSILON), KEY)
    twin = substitute(loaded, surrogate=ATan(5.0))
    assert torch.equal(twin(x), loaded(x))
    assert twin.outside == loaded.outside != Outside()
    twin(x)
    assert twin.outside != loaded.outside


def test_a_network_that_was_rebuilt_counts_too():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), neuron.IFNode(), nn.Linear(20, 5)).eval()
    functional.set_step_mode(net, "s")
    x = torch.rand(8, 1, 6, 6)
    ours = wrap(net, x, steps=4, readout="mean", convert=True)
    assert ours.spec.encoder == Direct(4)
    assert torch.equal(ours(x + 0.5), ours((x + 0.5).clamp(0, 1)))
    assert ours.outside.images == 8
