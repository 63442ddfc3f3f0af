"""Laws of sponges and of sensitivity: closed forms of linear models, and costs that never fall."""

import pytest
import torch

import spikeproof as sp
from spikeproof.analysis.energy import inference_cost
from spikeproof.analysis.sensitivity import gradient_norms, local_lipschitz
from spikeproof.analysis.sponge import Sponge
from spikeproof.errors import InputError
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.experiments.study.kinds import CellKind

IMAGES = sp.Key.of(4).uniform((6, 1, 8, 8))
KEY = sp.Key.of(0)


def model(encoder, decoder=None):
    spec = sp.ModelSpec(encoder, sp.MLP((20,)), sp.LIF(), sp.ATan(), decoder or sp.Count(), (1, 8, 8), 10)
    return spec.build(KEY).eval()


@pytest.mark.parametrize("encoder", [sp.Direct(4), sp.Latency(4), sp.EarlyBurst(4), sp.Bernoulli(4)])
@pytest.mark.parametrize("goal", ["spikes", "steps"])
def test_a_sponge_stays_in_its_budget_and_no_image_gets_cheaper(encoder, goal):
    net, threat = model(encoder, sp.MarginExit(sp.Count(), 1.0)), sp.Linf(0.1)
    key = KEY.for_rows(range(len(IMAGES)))
    found = Sponge(goal=goal, steps=5)(net, IMAGES, threat, key)
    assert threat.contains(found, IMAGES).all()
    clean, attacked = inference_cost(net, IMAGES, key), inference_cost(net, found, key)
    measured = {"spikes": (clean.picojoules, attacked.picojoules), "steps": (clean.steps, attacked.steps)}
    before, after = measured[goal]
    assert (after >= before).all()
    if goal == "spikes":
        assert (after > before).any()


def test_a_sponge_beats_random_images_of_the_same_budget():
    net, threat = model(sp.EarlyBurst(4)), sp.Linf(0.1)
    found = inference_cost(net, Sponge(steps=10)(net, IMAGES, threat, KEY)).picojoules
    random = [inference_cost(net, threat.start(IMAGES, KEY.fold(i))).picojoules for i in range(20)]
    assert (found > torch.stack(random).amax(0)).all()


def test_gradient_norms_of_a_linear_model_are_those_of_its_closed_form():
    weights = KEY.normal((64, 2)).double()

    def linear(x, key=None):
        return x.double().flatten(1) @ weights

    labels = torch.zeros(6, dtype=torch.int64)
    found = gradient_norms(linear, IMAGES, labels)
    wrong = linear(IMAGES).softmax(1)[:, 1]
    difference = weights[:, 1] - weights[:, 0]
    assert torch.allclose(found.l1.double(), wrong * difference.abs().sum(), rtol=1e-5)
    assert torch.allclose(found.l2.double(), wrong * difference.norm(), rtol=1e-5)
    assert found.inputs == 64


def test_copies_of_pixels_scale_the_gradient_norms_as_the_theory_says():
    """A linear model of the mean of the copies: the L1 norm stays, the L2 norm falls by the factor."""
    weights = KEY.normal((64, 3))

    def small(x, key=None):
        return torch.nn.functional.avg_pool2d(x, x.shape[-1] // 8).flatten(1) @ weights

    labels = torch.arange(6) % 3
    large = IMAGES.repeat_interleave(2, -1).repeat_interleave(2, -2)
    before, after = gradient_norms(small, IMAGES, labels), gradient_norms(small, large, labels)
    assert torch.allclose(after.l1, before.l1, rtol=1e-5)
    assert torch.allclose(after.l2, before.l2 / 2, rtol=1e-5)


def test_the_lipschitz_estimate_is_a_lower_bound_that_samples_raise():
    weights = KEY.normal((64, 5))
    bound = torch.linalg.matrix_norm(weights, 2)

    def linear(x, key=None):
        return x.flatten(1) @ weights

    few = local_lipschitz(linear, IMAGES, sp.L2(0.5), KEY, samples=2)
    many = local_lipschitz(linear, IMAGES, sp.L2(0.5), KEY, samples=40)
    assert (many >= few).all()
    assert (many <= bound).all()
    assert (many > 0.2 * bound).all()


def test_functions_of_images_alone_are_measured_too_and_no_images_have_no_norms():
    weights = KEY.normal((64, 5))
    labels = torch.arange(6) % 5
    found = gradient_norms(lambda x: x.flatten(1) @ weights, IMAGES, labels)
    assert torch.equal(
        found.l1, gradient_norms(lambda x, key=None: x.flatten(1) @ weights, IMAGES, labels).l1
    )
    assert gradient_norms(lambda x: x.flatten(1) @ weights, IMAGES[:0], labels[:0]).l1.shape == (0,)
    steep = local_lipschitz(lambda x: x.flatten(1) @ weights, IMAGES, sp.Linf(0.1), KEY)
    assert (steep > 0).all()


WAITING = """
name: waiting
data: digits
models:
  - {encoder: {latency: {steps: 3}}, decoder: DECODER}
analyses: [{spikes: {sponge: {goal: steps}}}]
threat: linf
epsilons: [1]
"""


def study(decoder, threat="linf"):
    text = WAITING.replace("DECODER", decoder).replace("threat: linf", f"threat: {threat}")
    return study_of(parse(text, "study.yaml"))


def test_an_analysis_by_a_sponge_that_needs_an_exit_is_left_out_for_models_without_one():
    both = study("[count, {margin-exit: {decoder: count, threshold: 1.0}}]")
    assert [cell.kind for cell in cells_of(both, sp.Digits().load())].count(CellKind.ANALYSE) == 1
    with pytest.raises(InputError, match="early exit"):
        study("count")
    with pytest.raises(InputError, match="whole events"):
        study("{margin-exit: {decoder: count, threshold: 1.0}}", "flips")


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match="at least one step"):
        Sponge(steps=0)
    with pytest.raises(InputError, match="positive size"):
        Sponge(size=0.0)
    with pytest.raises(InputError, match="needs samples"):
        local_lipschitz(lambda x, key=None: x, IMAGES, sp.Linf(0.1), KEY, samples=0)
    with pytest.raises(InputError, match="a goal among spikes, steps"):
        Sponge(goal="energy")
    with pytest.raises(InputError, match="an early exit"):
        Sponge(goal="steps")(model(sp.Direct(4)), IMAGES, sp.Linf(0.1), KEY)
    with pytest.raises(InputError, match="at least one image"):
        Sponge()(model(sp.Direct(4)), IMAGES[:0], sp.Linf(0.1), KEY)
    with pytest.raises(InputError, match="a model of ours"):
        Sponge()(lambda x: x.flatten(1), IMAGES, sp.Linf(0.1), KEY)
    for labels in (torch.zeros(2).long(), torch.full((6,), 10), torch.full((6,), -1)):
        with pytest.raises(InputError, match="the label of each image"):
            gradient_norms(model(sp.Direct(4)), IMAGES, labels)
    with pytest.raises(InputError, match="whole events"):
        Sponge()(model(sp.Direct(4)), IMAGES, sp.Flips(1), KEY)
    with pytest.raises(InputError, match="1 to 8 times"):
        sp.Enlarged(factor=0)
