"""Laws of updated first layers: what a change of few pixels leads to is what the whole model answers."""

import pytest
import torch

import spikeproof as sp
from spikeproof.attacks.answers import reachable
from spikeproof.attacks.answers.reachable import level_code
from spikeproof.attacks.answers.updates import Changed, Updates, updates_of
from spikeproof.attacks.parts.objectives import answers_margin
from spikeproof.attacks.search import evaluator
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.encoders import LevelCode
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.protocols import Encoder

KEY = sp.Key.of(0)
IMAGES = KEY.fold("images").uniform((5, 1, 16, 16))
MEMBERS = [
    part for part in MODEL_PARTS[Encoder].values() if isinstance(part, type) and issubclass(part, LevelCode)
]
CODES = [code for part in MEMBERS if (code := part(steps=8)).local] + [sp.Reversed(sp.Latency(8))]
DECODERS = [sp.MeanPotential(), sp.Count(), sp.FirstSpike(), sp.ConfidenceExit(sp.Count()), sp.MeanCurrent()]


def built(code=CODES[0], decoder=DECODERS[0], network=sp.MLP((20, 10)), **others):
    spec = sp.ModelSpec(code, network, sp.LIF(), sp.ATan(), decoder, (1, 16, 16), 4, **others)
    return spec.build(KEY).eval()


def some_changes(code, x, share, images):
    """Images that differ from rows of `x` in a share of their pixels, and the same as a list of changes."""
    base = torch.arange(images) % len(x)
    other = KEY.fold("other").uniform((images, *x.shape[1:]))
    moved = torch.where(KEY.fold("where").uniform(other.shape) < share, other, x[base])
    before, after = code.level(x[base]).flatten(1), code.level(moved).flatten(1)
    image, pixel = (before != after).nonzero(as_tuple=True)
    return base, moved, Changed(image, pixel, before[image, pixel], after[image, pixel])


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("decoder", DECODERS, ids=repr)
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_changes_lead_to_what_the_model_answers(code, decoder, share):
    model, levels = built(code, decoder), level_code(code)
    first, margin = updates_of(model, levels, IMAGES), answers_margin(model)
    base, moved, changed = some_changes(levels, IMAGES, share, 40)
    y = torch.arange(40) % 4
    with torch.no_grad():
        value, fooled = first.answers(first.currents(levels.level(IMAGES)), base, changed, margin, y)
        expected, wrong = evaluator(model, margin, y)(moved, KEY)
    assert len(CODES) >= 5
    assert torch.allclose(value, expected, atol=1e-4)
    assert torch.equal(fooled, wrong)


@pytest.mark.parametrize("epsilon", [0.008, 0.012])
def test_the_search_finds_the_same_with_and_without_them(epsilon, monkeypatch):
    model = Steady(built(sp.Latency(6)))
    y, threat = model(IMAGES).argmax(1), sp.Linf(epsilon)
    searches = sp.LevelSearch(queries=600), sp.EncoderAwareSearch(steps=1, restarts=1, refine=90)
    for attack in (search(threat) for search in searches):
        quick = attack(model, IMAGES, y, KEY)
        with monkeypatch.context() as patched:
            patched.setattr(reachable, "updates_of", lambda *_: None)
            slow = attack(model, IMAGES, y, KEY)
        assert 0 < quick.success.sum() < len(y)
        assert torch.equal(quick.success, slow.success)
        assert torch.equal(quick.x_adv, slow.x_adv)
        assert (quick.queries >= slow.queries).all()  # what seems to fool the model is shown to it once more


def test_an_image_counts_as_broken_only_by_the_answer_of_the_model(monkeypatch):
    """Currents that claim that every change fools the model change nothing about what the model answers."""
    model = built(sp.Latency(6))
    y = model(IMAGES).argmax(1)
    claim = lambda self, currents, base, *_: (torch.ones(len(base)), torch.ones(len(base)))  # noqa: E731
    monkeypatch.setattr(Updates, "answers", claim)
    found = sp.LevelSearch(queries=200)(sp.Linf(0.001))(model, IMAGES, y, KEY)
    assert not found.success.all()
    assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
    assert torch.equal(found.fell >= 0, found.success)


class Blurred(torch.nn.Module):
    """A wrapper that says that it answers as the model inside, and answers for other images."""

    transparent = True

    def __init__(self, model):
        super().__init__()
        self.model, self.encoder = model, model.encoder

    def forward(self, x, key=None):
        return self.model(x / 2, key)


class Purified(torch.nn.Module):
    """A wrapper that answers for other images where they are dark, and says nothing about it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.encoder = model, model.encoder

    def forward(self, x, key=None):
        dark = x.flatten(1).mean(1) < 0.2
        return self.model(torch.where(dark.view(-1, 1, 1, 1), x / 2, x), key)


def hooked():
    model = built()
    model.network.layers[0][1].register_forward_hook(lambda layer, args, out: 2 * out)
    return model


@pytest.mark.parametrize(
    "model",
    [
        Blurred(built()).eval(),
        Purified(built()).eval(),
        hooked(),
        built(network=sp.ConvNet((4,))),
        built(network=sp.MLP(())),
        built(normalise=sp.Normalise((0.5,), (0.5,))),
    ],
    ids=[
        "answers for other images",
        "for other dark images",
        "hook",
        "convolutions",
        "no hidden layer",
        "normalised",
    ],
)
def test_where_updates_are_not_known_to_be_right_there_are_none(model):
    found = updates_of(model, CODES[0], IMAGES)
    if found is not None:  # a linear classifier begins with a linear layer, too
        assert model.spec.network == sp.MLP(())


def test_small_images_are_computed_whole():
    spec = sp.ModelSpec(sp.Latency(4), sp.MLP((9,)), sp.LIF(), sp.ATan(), sp.Count(), (1, 8, 8), 4)
    small = spec.build(KEY).eval()
    assert updates_of(small, sp.Latency(4), IMAGES[:, :, :8, :8]) is None
    for network in (sp.MLP((9,)), sp.LSNN()):
        assert updates_of(built(network=network), CODES[0], IMAGES) is not None
