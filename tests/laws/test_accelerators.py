"""Verdicts with everything on that makes an evaluation faster, and with everything off."""

from contextlib import ExitStack

import pytest
import torch

import spikeproof as sp
from spikeproof.attacks.answers import reachable
from spikeproof.attacks.search import GradientAttack
from spikeproof.compiled import Loops, keeping_memory, using_loops, why_not_compiled
from spikeproof.evaluation import verdicts
from spikeproof.evaluation.suites import evaluate_suite

KEY = sp.Key.of(4)
MODELS = {
    "direct, count": (sp.Direct(4), sp.Count(), sp.MLP((32,)), (1, 6, 6), 40, 0.015),
    "direct, convnet": (sp.Direct(3), sp.MeanPotential(), sp.ConvNet((4, 6)), (1, 8, 8), 40, 0.03),
    "latency": (sp.Latency(5), sp.MeanPotential(), sp.MLP((24,)), (1, 16, 16), 24, 0.015),
}


def evaluated(model, x, y, epsilon):
    clean = sp.evaluate_clean(model, x, y, KEY)
    return evaluate_suite(model, "standard", sp.Linf(epsilon), x, y, clean, KEY, batch_size=64)


def evidence(member):
    """What a member did, without its cost: an update of a first layer is followed by a query."""
    return {name: member[name] for name in ("name", "attacked", "broke")}


@pytest.mark.skipif(bool(why_not_compiled()), reason="no C++ compiler")
@pytest.mark.parametrize("name", MODELS)
def test_a_suite_ends_with_the_same_images_and_verdicts_with_every_accelerator_and_with_none(
    name, monkeypatch
):
    encoder, decoder, network, shape, images, epsilon = MODELS[name]
    spec = sp.ModelSpec(encoder, network, sp.LIF(threshold=0.4), sp.ATan(), decoder, shape, 10)
    model = spec.build(sp.Key.of(3)).eval()
    x = sp.Key.of(8).uniform((images, *shape))
    y = model(x).argmax(1)
    with using_loops(Loops.COMPILED), keeping_memory():
        fast = evaluated(model, x, y, epsilon)
    with ExitStack() as off:
        off.enter_context(using_loops(Loops.WRITTEN))
        patched = off.enter_context(monkeypatch.context())
        patched.setattr(verdicts, "TOGETHER", 1)
        patched.setattr(GradientAttack, "_side_by_side", lambda *_: 1)
        patched.setattr(reachable, "updates_of", lambda *_: None)
        plain = evaluated(model, x, y, epsilon)
    assert torch.equal(fast.attacked.right, plain.attacked.right)
    assert torch.equal(fast.attacked.x_adv, plain.attacked.x_adv)
    assert torch.equal(fast.broken_by, plain.broken_by)
    assert list(map(evidence, fast.members)) == list(map(evidence, plain.members))
    assert 0 < fast.accuracy < 1
    assert len(set(fast.broken_by.tolist())) > 2
