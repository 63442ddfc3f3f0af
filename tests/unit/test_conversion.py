"""Conversion: against the ANN's activations written out in NumPy, and against each source's own formula."""

import hashlib
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from spikeproof.catalogue.saved import load, save
from spikeproof.datasets import Dataset, Digits, Split
from spikeproof.decoders import Count, MeanCurrent, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, Events, Fused, Phase, Population, QuantisedDirect
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.learning.checkpoints import AsSaved, Later
from spikeproof.learning.from_ann.activations import Quantised, RateNorm
from spikeproof.learning.from_ann.balancing import Cao, DataBased, ModelBased, Rueckauer, SpikeNorm
from spikeproof.learning.from_ann.folding import Identity, Stage
from spikeproof.learning.from_ann.learned_bounds import QCFS, RateNormLayer
from spikeproof.learning.from_ann.scalegraph import neurons_of, passes, scale_graph
from spikeproof.learning.rule import Rule
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.deep import VGG9, ResNet18, ResNet19, SEWResNet
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import IF, LIF, PSP, PrimedIF, Spiking, ToZero, unroll
from spikeproof.surrogates import ATan

SHAPE = (1, 4, 4)
IMAGES = Key.of(9).uniform((40, *SHAPE)).double()
CHOSEN = Split(IMAGES, torch.arange(40) % 3, torch.arange(40))
RULES = [Cao(), ModelBased(), DataBased(), Rueckauer(percentile=100.0), SpikeNorm(), QCFS(), RateNormLayer()]
NEURONS = [IF(), IF(threshold=0.3), PrimedIF()]


def name(part):
    return type(part).__name__ if isinstance(part, Rule) else str(part)


def spec(network=MLP((20, 15)), neuron=IF(), steps=8, decoder=MeanPotential(), **options):
    return ModelSpec(Direct(steps), network, neuron, ATan(), decoder, SHAPE, 3, **options)


def pair(rule, described, seed=0, biases=True):
    """A model and its ANN in double precision, with random biases and normalisation."""
    model = described.build(Key.of(seed)).double().eval()
    ann = rule.twin(model).double().eval()
    for i, module in enumerate(ann.modules()):
        key = Key.of(seed).fold("shake", i)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None and biases:
            module.bias.data = key.normal(module.bias.shape).double() * 0.3
        if isinstance(module, nn.BatchNorm2d):
            for name in ("weight", "bias", "running_mean", "running_var"):
                drawn = key.fold(name).uniform(module.weight.shape).double()
                getattr(module, name).data.copy_(drawn + (0.5 if name in ("weight", "running_var") else -0.5))
    return model, ann


def maps_of(ann):
    return [link.weights.folded() for link in scale_graph(ann.network).links]


def answers(model, images):
    """What every layer of neurons does over time."""
    with torch.no_grad():
        x, found = model.encoder(images, None), []
        for layer in model.network.layers:
            x = layer(x)
            if not list(layer.children()):
                found.append(x)
    return found


def activations(ann, images):
    """Of a fully connected ReLU network, in NumPy."""
    x, found = images.flatten(1).numpy(), []
    for layer in (m for m in ann.modules() if isinstance(m, nn.Linear)):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        found.append(x)
        x = np.maximum(x, 0)
    return found


@pytest.mark.parametrize(
    "network", [ConvNet((3, 5), (7,)), ConvNet((3,), batch_norm=False), VGG9(0.05, (6,))]
)
def test_folding_is_exact(network):
    _, ann = pair(Rueckauer(), spec(network))
    wanted = ann(IMAGES)
    for link in scale_graph(ann.network).links:
        stage = link.weights
        stage.write(stage.folded())
        if isinstance(stage, Stage) and stage.norm is not None:
            assert not stage.norm.running_mean.any()
    assert torch.allclose(ann(IMAGES), wanted, rtol=0, atol=1e-12)
    assert wanted.std() > 0.01


@pytest.mark.parametrize("rule", [Rueckauer(percentile=100.0), DataBased(), ModelBased()], ids=name)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
@pytest.mark.parametrize("seed", [0, 1])
def test_rates_come_near_the_activations_as_fast_as_one_over_time(rule, neuron, seed):
    model, ann = pair(rule, spec(neuron=neuron), seed)
    scales = rule.scales(ann, model, maps_of(ann), CHOSEN, Key.of(0))
    wanted = [np.maximum(a, 0) / scale for a, scale in zip(activations(ann, IMAGES), scales, strict=True)]
    for steps in (32, 128, 512):
        longer, _ = pair(rule, spec(neuron=neuron, steps=steps), seed)
        rule.convert(ann, longer, CHOSEN, Key.of(0))
        rates = [spikes.mean(0).numpy() for spikes in answers(longer, IMAGES)[:-1]]
        worst = [np.abs(rate - a).max() for rate, a in zip(rates, wanted, strict=False)]
        assert worst[0] <= 1 / steps + 1e-9
        assert worst[1] <= 8 / steps
        logits = longer(IMAGES).detach().numpy()
        assert np.abs(logits - activations(ann, IMAGES)[-1]).max() <= 60 / steps
    assert max(a.max() for a in wanted[:-1]) > 0.3 or isinstance(rule, ModelBased)


@pytest.mark.parametrize("decoder", [MeanCurrent(), MeanPotential()], ids=repr)
def test_either_mean_approximates_the_logits_of_the_ann(decoder):
    rule = Rueckauer(percentile=100.0)
    model, ann = pair(rule, spec(steps=1000, decoder=decoder))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    assert torch.allclose(model(IMAGES), ann(IMAGES), atol=0.03)
    assert ann(IMAGES).std() > 0.2


def test_normalisation_inside_the_model_is_converted_with_it():
    rule, normalise = Rueckauer(percentile=100.0), Normalise((0.4,), (0.3,))
    model, ann = pair(rule, spec(ConvNet((4,), (6,)), steps=1000, normalise=normalise))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    assert torch.allclose(model(IMAGES), ann(IMAGES), atol=0.05)
    assert ann(IMAGES).std() > 0.2


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_a_threshold_folded_into_the_weights_changes_no_spike(rule):
    neuron = PrimedIF() if isinstance(rule, QCFS) else IF()
    spikes = []
    for threshold in (1.0, 0.25, 4.0):
        model, ann = pair(rule, spec(neuron=replace(neuron, threshold=threshold)), biases=rule.biased)
        rule.convert(ann, model, CHOSEN, Key.of(0))
        spikes.append(torch.cat([s.flatten() for s in answers(model, IMAGES)[:-1]]))
    assert spikes[0].any()
    assert all(torch.equal(spikes[0], other) for other in spikes[1:])


def test_cao_copies_weights_and_has_no_biases():
    rule = Cao(BPTT(epochs=2, batch_size=10))
    model, ann = pair(rule, spec(decoder=Count()), biases=False)
    assert not any(p.requires_grad for n, p in ann.named_parameters() if n.endswith("bias"))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    for name, weight in ann.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    trained = spec().build(Key.of(0))
    rule.train(trained, data_of(IMAGES.float()), Key.of(0))
    assert not any(p.any() for n, p in trained.named_parameters() if n.endswith("bias"))


def test_model_based_divides_by_the_largest_sum_of_positive_weights_and_bounds_every_current():
    rule = ModelBased()
    model, ann = pair(rule, spec(), biases=False)
    rule.convert(ann, model, CHOSEN, Key.of(0))
    before, after = ([m.weight for m in net.modules() if isinstance(m, nn.Linear)] for net in (ann, model))
    for old, new in zip(before[:-1], after, strict=False):
        largest = old.clamp(min=0).sum(1).max()
        assert torch.allclose(new, old / largest)
        worst = (new > 0).double()  # for every neuron, the input that drives it most
        assert (new * worst).sum(1).max().item() == pytest.approx(1)


@pytest.mark.parametrize("network", [MLP((20, 15)), ConvNet((4, 3), (6,)), ConvNet((4,), batch_norm=False)])
def test_no_input_drives_a_model_based_network_beyond_its_threshold(network):
    rule = ModelBased()
    model, ann = pair(rule, spec(network, decoder=Count()))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    corners = torch.cat([(IMAGES > 0.5).double(), torch.ones_like(IMAGES[:1]), IMAGES])
    with torch.no_grad():
        x = model.encoder(corners, None)
        for layer in model.network.layers:
            x = layer(x)
            if list(layer.children()):
                assert x.max() <= 1 + 1e-9


def test_data_based_and_percentile_scales_are_their_formulas():
    model, ann = pair(DataBased(), spec())
    maps = maps_of(ann)
    seen = [np.maximum(a, 0) for a in activations(ann, IMAGES)]
    weights = [m.weight.detach().numpy() for m in ann.modules() if isinstance(m, nn.Linear)]
    found = DataBased().scales(ann, model, maps, CHOSEN, Key.of(0))
    wanted = [max(a.max(), w.max()) for a, w in zip(seen, weights, strict=True)]
    assert found[:2] == pytest.approx(wanted[:2])
    for percentile in (50.0, 99.0, 100.0):
        found = Rueckauer(percentile=percentile).scales(ann, model, maps, CHOSEN, Key.of(0))
        ranked = [np.sort(a.ravel()) for a in seen]
        for scale, a in zip(found, ranked, strict=True):
            place = percentile / 100 * (len(a) - 1)
            low, high = a[int(np.floor(place))], a[int(np.ceil(place))]
            exact = low + (high - low) * (place - np.floor(place))
            assert scale == pytest.approx(exact)


def test_spike_norm_is_its_algorithm_step_by_step():
    rule = SpikeNorm()
    model, ann = pair(rule, spec(steps=30, decoder=Count()), biases=False)
    rule.convert(ann, model, CHOSEN, Key.of(0))
    weights = [m.weight.detach().numpy() for m in ann.modules() if isinstance(m, nn.Linear)]
    signal = np.stack([IMAGES.flatten(1).numpy()] * 30)
    for weight, link in zip(weights, scale_graph(model.network).links, strict=True):
        current = signal @ weight.T
        threshold = current.max()
        assert np.allclose(link.weights.layer.weight.detach().numpy(), weight / threshold)
        v, spikes = 0.0, []
        for i in current / threshold:
            v = v + i
            spikes.append((v >= 1 - 1e-12) * 1.0)
            v = v - spikes[-1]
        signal = np.stack(spikes)


def test_spike_norm_sees_the_models_own_stochastic_code():
    rule, code = SpikeNorm(), Bernoulli(20)
    found = []
    for seed in (0, 0, 1):
        model, ann = pair(rule, replace(spec(), encoder=code))
        rule.convert(ann, model, CHOSEN, Key.of(seed))
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_qcfs_fires_exactly_at_its_activation_when_time_equals_levels(levels):
    rule = QCFS(levels=levels, bound=0.8)
    model, ann = pair(rule, spec(MLP((200,)), PrimedIF(), steps=levels))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    counts = answers(model, IMAGES)[0].sum(0).numpy()
    current = activations(ann, IMAGES)[0]
    exact = np.floor(np.clip(current / 0.8, 0, 1) * levels + 0.5)
    assert np.array_equal(counts, exact)
    with torch.no_grad():
        hidden = ann.network.layers[1](ann.network.layers[0](ann.encoder(IMAGES, None)))[0].numpy()
    assert np.allclose(hidden, exact * np.float32(0.8) / levels)
    assert len(np.unique(exact)) == levels + 1


@pytest.mark.parametrize("steps", [3, 5, 16])
def test_the_expected_error_of_qcfs_is_zero_for_any_time_and_that_of_plain_if_is_half_a_step(steps):
    """For activations spread evenly below the bound, as in the theorem."""
    shares = ((torch.arange(24_000).double() + 0.5) / 24_000).expand(steps, 1, -1)
    errors = [(Spiking(neuron)(shares).mean(0) - shares[0]).mean().item() for neuron in (PrimedIF(), IF())]
    assert errors[0] == pytest.approx(0, abs=1e-3 / steps)
    assert errors[1] == pytest.approx(-1 / (2 * steps), abs=1e-3 / steps)


def test_the_quantised_unit_and_its_gradient_are_their_formulas():
    unit = Quantised(4, 2.0).double()
    x = torch.tensor([[-1.0, 0.2, 0.26, 0.9, 1.8, 3.0]], dtype=torch.float64, requires_grad=True)
    y = unit(x)
    assert y.tolist() == [[0.0, 0.0, 0.5, 1.0, 2.0, 2.0]]
    for i, (by_x, by_bound) in enumerate(
        [(0, 0), (1, 0 - 0.1), (1, 0.25 - 0.13), (1, 0.5 - 0.45), (1, 1 - 0.9), (0, 1)]
    ):
        grads = torch.autograd.grad(y[0, i], [x, unit.bound], retain_graph=True)
        assert grads[0][0, i].item() == pytest.approx(by_x)
        assert grads[1].item() == pytest.approx(by_bound)


def test_the_rate_norm_unit_tracks_the_maximum_and_clips_at_its_share():
    unit, largest = RateNorm(), 1.0
    for peak in (3.0, 2.0, -1.0):
        unit.train()(torch.tensor([[peak, -5.0]]))
        largest = 0.9 * largest + 0.1 * max(peak, 0.0)
    assert unit.running_max.item() == pytest.approx(largest)
    x = torch.tensor([[-1.0, largest / 4, 2 * largest]])
    assert (unit.eval()(x) / largest).tolist()[0] == pytest.approx([0.0, 0.25, 1.0])
    unit.share = nn.Parameter(torch.tensor(0.0))
    assert (unit(x) / largest).tolist()[0] == pytest.approx([0.0, 0.25, 0.5])


def test_tuning_of_rate_norm_lowers_thresholds_and_only_them_and_what_holds_them_is_the_untuned_network():
    data = data_of(IMAGES.float())
    ends = {}
    for speed in (0.0, 0.1, 10.0):
        rule = RateNormLayer(BPTT(batch_size=10), tuning=20, speed=speed, share=0.9, lr=0.05)
        ann = rule.twin(spec().build(Key.of(0))).eval()
        before = {n: t.clone() for n, t in ann.state_dict().items()}
        rule.tune(ann, data, Key.of(0), Later(None, ""))
        after = ann.state_dict()
        assert all(torch.equal(t, after[n]) for n, t in before.items())
        ends[speed] = [unit.share.sigmoid().item() for unit in ann.modules() if isinstance(unit, RateNorm)]
    assert all(a > b > c for a, b, c in zip(*(ends[s] for s in (0.0, 0.1, 10.0)), strict=True))
    assert ends[0.0][0] > 0.9


RESIDUAL = [
    ResNet18((1, 2, 1, 1), 0.05),
    ResNet19((1, 1, 1), 0.03, hidden=(6,)),
    SEWResNet((2, 1, 1, 1), 0.05),
]


def quiet(part):
    return type(part).__name__


def spikes_of(model, images):
    """The spikes of every layer of neurons."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, answer: found.append(answer.flatten()))
        for layer in model.modules()
        if isinstance(layer, Spiking)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


@pytest.mark.parametrize("rule", [Rueckauer(percentile=100.0), DataBased()], ids=name)
@pytest.mark.parametrize("network", RESIDUAL, ids=quiet)
def test_residual_networks_come_near_their_ann_as_fast_as_one_over_time(rule, network):
    errors = []
    for steps in (40, 120, 360):
        model, ann = pair(rule, spec(network, steps=steps, decoder=MeanCurrent()))
        rule.convert(ann, model, CHOSEN, Key.of(0))
        with torch.no_grad():
            wanted = ann(IMAGES[:10])
            errors.append(float((model(IMAGES[:10]) - wanted).abs().max() / wanted.std()))
    assert all(error <= 60 / steps for error, steps in zip(errors, (40, 120, 360), strict=True)), errors
    assert errors[2] < errors[0] / 6
    assert spikes_of(model, IMAGES[:1]).mean() > 0.01


@pytest.mark.parametrize("network", RESIDUAL, ids=quiet)
def test_the_sum_of_two_paths_has_one_scale_and_an_identity_gets_a_weight(network):
    rule = Rueckauer(percentile=100.0)
    model, ann = pair(rule, spec(network, neuron=IF(threshold=0.5)))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    graph = scale_graph(model.network)
    scales = graph.shared(rule.scales(ann, model, maps_of(ann), CHOSEN, Key.of(0)))
    for link, affine in zip(graph.links, maps_of(ann), strict=True):
        last = link.behind == len(scales) - 1
        gain = 2 / 9 if last else 0.5 / scales[link.behind]
        written = link.weights.folded()
        assert torch.allclose(written.weight, affine.weight * gain * scales[link.before])
        assert torch.allclose(written.bias, affine.bias * gain)
    identities = [link for link in graph.links if isinstance(link.weights, Identity)]
    assert len(identities) == {"ResNet18": 2, "ResNet19": 1}.get(quiet(network), 0)
    added = {group for group in graph.groups if graph.groups.count(group) > 1}
    assert bool(added) == isinstance(network, SEWResNet)


@pytest.mark.parametrize("rule", [Rueckauer(), SpikeNorm(), RateNormLayer(), QCFS()], ids=name)
@pytest.mark.parametrize("network", RESIDUAL, ids=quiet)
def test_a_threshold_folded_into_residual_weights_changes_no_spike(rule, network):
    neuron = PrimedIF() if isinstance(rule, QCFS) else IF()
    spikes = []
    for threshold in (1.0, 0.25, 4.0):
        model, ann = pair(rule, spec(network, replace(neuron, threshold=threshold)))
        rule.convert(ann, model, CHOSEN, Key.of(0))
        spikes.append(spikes_of(model, IMAGES))
    assert spikes[0].any()
    assert all(torch.equal(spikes[0], other) for other in spikes[1:])


@pytest.mark.parametrize("network", RESIDUAL, ids=quiet)
def test_no_input_drives_a_model_based_residual_network_beyond_its_threshold(network):
    rule = ModelBased()
    model, ann = pair(rule, spec(network, decoder=Count()))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    corners = torch.cat([(IMAGES > 0.5).double(), torch.ones_like(IMAGES[:1]), IMAGES])
    with torch.no_grad():
        heard = list(passes(model.network.layers, [model.encoder(corners, None)]))
    assert max(float(each.current[0].max()) for each in heard) <= 1 + 1e-9
    assert len(heard) == len(scale_graph(model.network).groups) - 1


@pytest.mark.parametrize("network", RESIDUAL[:2], ids=quiet)
def test_spike_norm_takes_the_largest_current_after_the_two_paths_are_added(network):
    rule = SpikeNorm()
    model, ann = pair(rule, spec(network, steps=12, neuron=IF(threshold=0.5), decoder=Count()))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    with torch.no_grad():
        heard = list(passes(model.network.layers, [model.encoder(IMAGES, None)]))
    assert [float(each.current[0].max()) for each in heard] == pytest.approx([0.5] * len(heard))


def test_spike_norm_gives_the_layers_of_a_shared_threshold_spikes_that_follow_the_activations():
    """A threshold that is measured again under the shared one grows until the layer is silent."""
    rule = SpikeNorm()
    model, ann = pair(rule, spec(RESIDUAL[2], steps=256, decoder=Count()))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    with torch.no_grad():
        heard = passes(model.network.layers, [model.encoder(IMAGES, None)])
        units = passes(ann.network.layers, [ann.encoder(IMAGES, None)])
        stage = list(islice(zip(heard, units, strict=True), 5))
    groups = scale_graph(model.network).groups
    assert [i for i in range(1, len(groups)) if groups[i] == 1] == [1, 3, 5]
    for spiking, unit in stage:
        pairs = torch.stack([each.answer[0].mean(0).flatten() for each in (spiking, unit)])
        assert torch.corrcoef(pairs)[0, 1] > 0.95


@pytest.mark.parametrize(("rule", "kind"), [(QCFS(), Quantised), (RateNormLayer(), RateNorm)], ids=str)
def test_layers_whose_spikes_are_added_learn_one_bound(rule, kind):
    _, ann = pair(rule, spec(SEWResNet((2, 1, 1, 1), 0.05), PrimedIF()))
    graph, units = scale_graph(ann.network), neurons_of(ann.network.layers)
    assert all(isinstance(unit, kind) for unit in units[:-1])
    for i, group in enumerate(graph.groups[1:-1], 1):
        for j, other in enumerate(graph.groups[1:-1], 1):
            assert (units[i - 1] is units[j - 1]) == (group == other)


@pytest.mark.parametrize("rule", [QCFS(bound=2.0), RateNormLayer()], ids=name)
def test_an_ann_whose_layers_share_a_bound_is_trained(rule):
    rule = replace(rule, ann=BPTT(epochs=1, batch_size=10), calibration=20)
    model = spec(SEWResNet((2, 1, 1, 1), 0.05), PrimedIF()).build(Key.of(0))
    history = rule.train(model, data_of(IMAGES.float()), Key.of(0))
    assert len(history.epochs) == 2
    assert model(IMAGES.float()).isfinite().all()


def test_a_converted_residual_network_is_saved_and_loaded_with_the_weights_of_its_identities(tmp_path):
    rule = SpikeNorm()
    model, ann = pair(rule, spec(RESIDUAL[0]))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    model = model.float()
    gains = [name for name in model.state_dict() if name.endswith("gain")]
    assert len(gains) == 2
    assert not any(name.endswith("gain") for name in spec(RESIDUAL[0]).build(Key.of(0)).state_dict())
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded(IMAGES.float()), model(IMAGES.float()))
    given = spec(RESIDUAL[0]).build(Key.of(1))
    digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    AsSaved(str(tmp_path), digest).train(given, data_of(IMAGES.float()), Key.of(0))
    assert torch.equal(given(IMAGES.float()), model(IMAGES.float()))
    twin = substitute(model, unroll=unroll)
    assert torch.equal(twin(IMAGES.float()), model(IMAGES.float()))
    again = rule.twin(model.double())
    assert again.state_dict()[f"{gains[0]}"] == model.state_dict()[gains[0]]


CODES = [
    Fused((Direct(), QuantisedDirect())),
    Fused((Direct(), Phase(8), QuantisedDirect(8))),
    Population(Direct(), neurons=4),
]


def of_steps(code, steps):
    if isinstance(code, Fused):
        return Fused(tuple(replace(inner, steps=steps) for inner in code.codes))
    return replace(code, code=replace(code.code, steps=steps))


@pytest.mark.parametrize("code", CODES, ids=repr)
@pytest.mark.parametrize("network", [MLP((20,)), ConvNet((4,), (6,))], ids=quiet)
def test_a_code_with_other_channels_comes_near_the_ann_on_its_mean(code, network):
    rule, errors = Rueckauer(percentile=100.0), []
    for steps in (40, 160, 640):
        described = replace(spec(network, decoder=MeanCurrent()), encoder=of_steps(code, steps))
        model, ann = pair(rule, described)
        rule.convert(ann, model, CHOSEN, Key.of(0))
        mean = described.encoder(IMAGES).mean(0, keepdim=True)
        assert torch.equal(ann.encoder(IMAGES, None), mean)
        errors.append(float((model(IMAGES) - ann(IMAGES)).detach().abs().max()))
    assert all(error <= 20 / steps for error, steps in zip(errors, (40, 160, 640), strict=True)), errors
    assert ann(IMAGES).std() > 0.1


def test_a_stochastic_fused_code_is_converted_and_its_rates_are_those_of_the_ann_on_average():
    rule, code = Rueckauer(percentile=100.0), Fused((Direct(2000), Bernoulli(2000)))
    model, ann = pair(rule, replace(spec(decoder=MeanCurrent()), encoder=code))
    rule.convert(ann, model, CHOSEN, Key.of(0))
    key = Key.of(3)
    assert torch.allclose(model(IMAGES, key), ann(IMAGES, key), atol=0.05)
    assert ann(IMAGES, key).std() > 0.2


def test_recordings_of_events_are_converted_through_their_mean_frame():
    rule, frames = Rueckauer(percentile=100.0), 400
    described = replace(spec(decoder=MeanCurrent()), encoder=Events(frames))
    model, ann = pair(rule, described)
    events = (Key.of(4).uniform((30, frames, *SHAPE)) < 0.3).double()
    rule.convert(ann, model, Split(events, torch.arange(30) % 3, torch.arange(30)), Key.of(0))
    assert torch.allclose(model(events), ann(events), atol=0.1)
    assert ann(events).std() > 0.1


def data_of(images):
    part = Split(images, (images[:, 0, 0, 0] > 0.5).long(), torch.arange(len(images)))
    return Dataset("dots", part, part, part, ("a", "b", "c"), "d", "made here")


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_only_training_images_decide_the_weights(rule):
    rule = replace(rule, ann=BPTT(epochs=1, batch_size=10), calibration=20)
    data, found = data_of(IMAGES.float()), []
    noise = data_of(Key.of(3).uniform((40, *SHAPE))).test
    for told in (data, replace(data, test=noise, validation=noise)):
        model = spec(neuron=PrimedIF()).build(Key.of(0))
        rule.train(model, told, Key.of(0))
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("rule", "steps", "lost"),
    [
        (Rueckauer(), 32, 0.01),
        (DataBased(), 64, 0.01),
        (SpikeNorm(), 256, 0.02),
        (QCFS(levels=8, bound=4.0), 8, 0.01),
        (RateNormLayer(), 32, 0.01),
        (ModelBased(), 1024, 0.03),
    ],
    ids=name,
)
def test_a_converted_network_is_as_good_as_its_ann_at_the_time_stated(rule, steps, lost):
    data = Digits().load()
    rule = replace(rule, ann=BPTT(epochs=6, batch_size=32, lr=0.005))
    described = ModelSpec(Direct(steps), MLP((60,)), PrimedIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
    model = described.build(Key.of(0))
    history = rule.train(model, data, Key.of(0))
    ann, converted = history.epochs[-2], history.epochs[-1]
    assert ann.validation_accuracy > 0.9
    assert converted.validation_accuracy >= ann.validation_accuracy - lost
    assert converted.validation_accuracy == accuracy(model, data.validation, Key.of(0), 50)
    assert len(history.epochs) == rule.epochs == 7


@pytest.mark.parametrize(
    ("rule", "described", "word"),
    [
        (Rueckauer(), spec(neuron=LIF()), "without leak"),
        (Cao(), spec(neuron=IF(synapse=PSP())), "synapse"),
        (Rueckauer(), spec(neuron=IF(reset=ToZero())), "by-subtraction"),
        (QCFS(), spec(), "primed-if"),
        (QCFS(), spec(neuron=PrimedIF(initial=0.25)), "half"),
        (Rueckauer(), spec(ResNet18((1, 1, 1, 1), 0.05, "large")), "large-gated"),
        (Rueckauer(), spec(SEWResNet((1, 1, 1, 1), 0.05, connect="and")), "when spikes coincide"),
        (QCFS(), spec(SEWResNet((1, 1, 1, 1), 0.05, connect="iand"), PrimedIF()), "connect: add"),
        (Cao(), spec(ConvNet((3,))), "batch_norm: false"),
        (ModelBased(), spec(normalise=Normalise((0.5,), (0.5,))), "normalise"),
    ],
    ids=range(10),
)
def test_what_cannot_be_converted_is_refused_before_training(rule, described, word):
    seen = []

    def count(done, total):
        seen.append(done)

    with pytest.raises(InputError, match=word):
        rule.train(described.build(Key.of(0)), data_of(IMAGES.float()), Key.of(0), on_batch=count)
    assert not seen


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rueckauer(Rueckauer()),
        lambda: Cao(calibration=0),
        lambda: Rueckauer(percentile=0.0),
        lambda: Rueckauer(percentile=101.0),
        lambda: QCFS(levels=0),
        lambda: QCFS(bound=0.0),
        lambda: RateNormLayer(share=1.0),
        lambda: RateNormLayer(tuning=-1),
        lambda: RateNormLayer(lr=0.0),
        lambda: PrimedIF(initial=1.0),
    ],
    ids=range(10),
)
def test_conversions_with_levels_shares_or_rates_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()
