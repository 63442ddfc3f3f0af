"""Mistakes with networks of other frameworks: each gives a clear error or the right number."""

import importlib
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from spikeproof import InputError, LeakError, Linf, wrap
from spikeproof.evaluation.suites import plan

X = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
T = 3


def framework(*names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = [importlib.import_module(name) for name in names]
        except ModuleNotFoundError as error:
            pytest.skip(f"needs {names[0].split('.')[0]}: {error}")
    return found[0] if len(found) == 1 else found


def weighted(net):
    for weight in net.parameters():
        generator = torch.Generator().manual_seed(weight.numel())
        weight.data = torch.rand(weight.shape, generator=generator) * (0.4 if weight.ndim > 1 else 0.1)
    return net.eval()


def jelly(**options):
    neuron, layer = framework(*(f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer")))
    options.setdefault("step_mode", "s")
    return weighted(
        nn.Sequential(
            layer.Flatten(step_mode=options["step_mode"]),
            nn.Linear(16, 8, bias=False),
            neuron.LIFNode(**options),
            nn.Linear(8, 4, bias=False),
            neuron.IFNode(**options),
        )
    )


def torchy(**options):
    snn = framework("snntorch")
    options = {"init_hidden": True, "beta": 0.9, **options}
    return weighted(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(16, 8, bias=False),
            snn.Leaky(**options),
            nn.Linear(8, 4, bias=False),
            snn.Leaky(**options),
        )
    )


def nordic():
    norse = framework("norse.torch")
    return weighted(
        norse.SequentialState(
            nn.Flatten(),
            nn.Linear(16, 8, bias=False),
            norse.LIFCell(dt=0.01),
            nn.Linear(8, 4, bias=False),
            norse.LIFCell(dt=0.01),
        )
    )


def plain():
    return weighted(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))


BUILDS = [jelly, torchy, nordic, plain]
every = pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)


def options(build):
    return {} if build is plain else {"steps": T, "readout": "sum"}


def logits(net, x):
    """In the framework's own way, from rest."""
    for module in net.modules():
        for name in ("reset", "reset_mem"):
            if callable(method := getattr(module, name, None)):
                method()
    outputs, state = [], None
    for _ in range(T):
        answer = net(x, state) if isinstance(net(x), tuple) else net(x)
        answer, state = answer if isinstance(answer, tuple) else (answer, None)
        outputs.append(answer)
    return torch.stack(outputs).sum(0)


@pytest.mark.parametrize("build", [jelly, torchy], ids=lambda build: build.__name__)
def test_a_forgotten_reset_changes_no_number(build):
    net = build()
    rested = wrap(net, X, **options(build))(X)
    for _ in range(3):
        net(X)  # as training leaves it
    assert torch.equal(wrap(net, X, **options(build))(X), rested)
    model = wrap(net, X, **options(build))
    net(X.flip(0))
    assert torch.equal(model(X), rested)


class Kept(nn.Module):
    """A neuron of nobody's framework, which keeps its potential in an attribute."""

    def __init__(self):
        super().__init__()
        self.potential = torch.zeros(1)

    def restart(self):
        self.potential = torch.zeros(1)

    def forward(self, x):
        self.potential = 0.5 * self.potential.sum() / 8 + x
        return self.potential


def test_a_state_that_no_reset_reaches_is_named():
    net = weighted(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Sequential(Kept())))
    with pytest.raises(LeakError, match=r"2\.0\.potential"):
        wrap(net, X)


def test_a_state_beside_the_modules_is_named():
    net, seen = plain(), []

    def call(x):
        seen.append(1.0)
        return net(x) + len(seen) * torch.arange(4)

    with pytest.raises(LeakError, match="variable seen"):
        wrap(call, X)


def test_a_reset_that_the_owner_names_is_used():
    net = weighted(nn.Sequential(nn.Flatten(), nn.Linear(16, 4), Kept()))
    model = wrap(net, X, reset=net[2].restart)
    net[2].restart()
    assert torch.equal(net(X), model(X))
    assert torch.equal(model(X), model(X))
    with pytest.raises(InputError, match="names a method"):
        wrap(net, X, reset="nothing")


def test_nested_hidden_neurons_are_reset():
    inner = torchy()
    net = nn.Sequential(nn.Sequential(nn.Sequential(inner))).eval()
    expected = wrap(inner, X, steps=T, readout="sum")(X)
    net(X)
    model = wrap(net, X, steps=T, readout="sum")
    assert torch.equal(model(X), expected)
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize("build", [jelly, torchy], ids=lambda build: build.__name__)
def test_two_networks_that_share_neurons_do_not_disturb_each_other(build):
    net = build()
    last = weighted(nn.Linear(8, 4, bias=False))
    last.weight.data *= -1
    other = nn.Sequential(*net[:3], last, net[4]).eval()
    a, b = (wrap(each, X, steps=T, readout="sum") for each in (net, other))
    first, second = a(X), b(X)
    assert not torch.equal(first, second)
    for _ in range(2):
        assert torch.equal(a(X), first)
        assert torch.equal(b(X), second)


def test_other_networks_of_the_process_keep_their_state():
    net, other = torchy(), torchy()
    other(X)
    kept = other[2].mem.clone()
    wrap(net, X, steps=T, readout="sum")(X)
    assert torch.equal(other[2].mem, kept)


def test_mixed_step_modes_are_refused_by_name():
    net = jelly()
    net[2].step_mode = "m"
    with pytest.raises(InputError, match=r"'m' in Sequential\.2 and 's' in Sequential\.0"):
        wrap(net, X, steps=T, readout="sum")


def test_single_steps_inside_a_container_are_no_mixture():
    layer = framework("spikingjelly.activation_based.layer")
    net = nn.Sequential(layer.MultiStepContainer(jelly())).eval()
    expected = wrap(jelly(), X, steps=T, readout="sum")(X)
    assert torch.equal(wrap(net, X, steps=T, readout="sum")(X), expected)


@every
def test_a_network_in_training_mode_is_refused(build):
    net = build()
    net[1].train()
    with pytest.raises(InputError, match=r"1 \(Linear\) in training mode.*eval"):
        wrap(net, X, **options(build))
    model = wrap(net.eval(), X, **options(build))
    net.train()
    with pytest.raises(InputError, match="training mode"):
        model(X)
    assert model.eval()(X).shape == (5, 4)


@every
def test_weights_that_are_no_numbers_are_refused_by_name(build):
    net = build()
    net[1].weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"NaN or infinity in 1\.weight"):
        wrap(net, X, **options(build))


class Listed(nn.Module):
    """Keeps its layers in a plain list, which PyTorch does not look into."""

    def __init__(self, layers):
        super().__init__()
        self.layers = {"all": [*layers]}

    def forward(self, x):
        for layer in self.layers["all"]:
            x = layer(x)
        return x


def test_layers_in_a_plain_list_are_reset_and_checked():
    net = jelly()
    hidden = Listed([*net, nn.Hardtanh()]).eval()  # whose mode does not matter
    expected = wrap(net, X, **options(jelly))(X)
    net(X)
    model = wrap(hidden, X, **options(jelly))
    assert torch.equal(model(X), expected)
    assert torch.equal(model(X), expected)
    net[2].train()
    with pytest.raises(
        InputError, match=r"Listed\.layers\['all'\]\[2\] \(LIFNode\) in training mode.*ModuleList"
    ):
        wrap(hidden, X, **options(jelly))
    net.eval()[1].weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"NaN or infinity in Listed\.layers\['all'\]\[1\]\.weight"):
        wrap(hidden, X, **options(jelly))


def test_answers_that_are_no_numbers_are_refused():
    net = plain()
    with pytest.raises(InputError, match="none"):
        wrap(lambda x: net(x) / 0, X)


@every
def test_another_number_of_classes_is_refused(build):
    assert wrap(build(), X, classes=4, **options(build)).classes == 4
    with pytest.raises(InputError, match="10 classes: got 4 scores"):
        wrap(build(), X, classes=10, **options(build))


@pytest.mark.parametrize("steps", [3, 5])  # fewer than examples, and as many
def test_outputs_with_examples_before_steps_give_the_right_number(steps):
    net = plain()

    def over_time(x):
        return torch.stack([net(x) * (t + 1) for t in range(steps)])

    expected = wrap(over_time, X, readout="last")(X)
    found = wrap(lambda x: over_time(x).transpose(0, 1), X, axes="BTK", readout="last")(X)
    assert torch.equal(found, expected)
    assert torch.equal(expected, net(X) * steps)


def test_outputs_of_unknown_axes_are_asked_about():
    net = plain()
    with pytest.raises(InputError, match="axes='TBK', 'BTK' or 'BKT'"):
        wrap(lambda x: torch.stack([net(x)] * 3, 1), X, readout="mean")
    with pytest.raises(InputError, match="BTK"):  # which it is not
        wrap(lambda x: torch.stack([net(x)] * 3), X, readout="mean", axes="BTK")


@every
def test_probabilities_are_refused(build):
    net = build()
    with pytest.raises(InputError, match="softmax"):
        wrap(lambda x: picked(net(x)).softmax(1), X, **options(build) | stateful(build))


@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_saturated_probabilities_are_refused_too(spread):
    net = plain()
    with pytest.raises(InputError, match="softmax"):
        wrap(lambda x: (spread * net(x)).softmax(1), X)
    with pytest.raises(InputError, match="softmax"):  # decisions
        wrap(lambda x: (net(x) == net(x).amax(1, keepdim=True)).float(), X)


def test_one_spike_at_every_step_is_no_probability():
    net = plain()

    def first(x):
        return torch.stack([(net(x) == net(x).amax(1, keepdim=True)).float()] * 4)

    assert wrap(first, X, readout="sum")(X).sum(1).tolist() == [4.0] * 5


def test_a_single_score_is_no_classifier():
    net = plain()
    with pytest.raises(InputError, match=r"at least 2 classes: got 1 scores.*\[-s, s\]"):
        wrap(lambda x: net(x)[:, :1], X)
    with pytest.raises(InputError, match="A number of classes: got classes='4'"):
        wrap(net, X, classes="4")


def test_an_operation_in_place_on_images_is_refused_and_leaves_them_alone():
    net, images = plain(), X.clone()
    for steps in ({}, {"steps": T, "readout": "sum", "time": "calls"}):
        with pytest.raises(InputError, match="in place"):
            wrap(lambda x: net(x.sub_(0.1)), images, **steps)
        assert torch.equal(images, X)
    with torch.inference_mode():
        assert torch.equal(wrap(net, X)(X), net(X))


def picked(answer):
    return answer[0] if isinstance(answer, tuple) else answer


def stateful(build):
    return {"time": "calls"} if build is nordic else {}


@pytest.mark.parametrize("build", [jelly, torchy, nordic], ids=lambda build: build.__name__)
def test_steps_and_the_read_out_are_asked_for(build):
    with pytest.raises(InputError, match="steps=8"):
        wrap(build(), X)
    with pytest.raises(InputError, match="readout='mean', 'sum' or 'last'"):
        wrap(build(), X, steps=T)
    with pytest.raises(InputError, match="Did you mean 'mean'"):
        wrap(build(), X, steps=T, readout="maen")


def test_steps_of_a_network_that_makes_its_own_time_are_refused():
    body = jelly(step_mode="m")
    call = lambda x: body(x.expand(T, *x.shape))  # noqa: E731
    assert wrap(call, X, readout="mean")(X).shape == (5, 4)
    with pytest.raises(InputError, match="Leave out steps"):
        wrap(call, X, steps=T, readout="mean")


class Trace(nn.Module):
    """A part of its owner's, with a state and the `reset` that SpikingJelly calls."""

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        self.past = 0.0

    def forward(self, x):
        self.past = 0.5 * self.past + x
        return self.past


def test_spikingjelly_resets_what_has_a_reset():
    net = nn.Sequential(jelly(), Trace()).eval()
    model = wrap(net, X, steps=T, readout="last")
    expected = model(X)
    net(X)
    assert torch.equal(model(X), expected)
    assert isinstance(net[1].past, torch.Tensor)  # what its owner left there


def test_a_network_that_gets_images_for_time_is_found_out():
    net = jelly(step_mode="m")
    with pytest.raises(InputError, match="steps="):
        wrap(net, X.flatten(2), output=None)


def test_norse_cells_without_their_state_are_not_called_step_by_step():
    net = nordic()
    with pytest.raises(InputError, match="no state"):
        wrap(lambda x: net(x)[0], X, steps=T, readout="sum")


def test_several_tensors_are_asked_about():
    net = plain()
    with pytest.raises(InputError, match="output="):
        wrap(lambda x: (net(x), -net(x)), X)
    assert torch.equal(wrap(lambda x: (net(x), -net(x)), X, output=1)(X), -net(X))
    assert torch.equal(wrap(lambda x: {"logits": net(x)}, X, output="logits")(X), net(X))
    with pytest.raises(InputError, match="output=2"):
        wrap(lambda x: (net(x), -net(x)), X, output=2)


def test_statistics_of_a_batch_are_found_out():
    net = plain()
    with pytest.raises(InputError, match="others of a batch"):
        wrap(lambda x: net(x) - net(x).mean(0), X)


@pytest.mark.parametrize(
    ("given", "settings", "message"),
    [
        (None, {}, r"wrap\(net, images\[:8\]\)"),
        (X[:2], {}, "At least 3 examples"),
        (X[:1].expand(5, 1, 4, 4), {}, "different"),
        (X * 2, {}, r"Images in \[0, 1\].*\(x - mean\) / std"),
        (X, {"time": "first"}, "how many steps"),
        (X, {"time": "inside", "steps": 3}, "leave out steps"),
        (X, {"steps": 0}, "number of time steps"),
        (X, {"time": "frist"}, "Did you mean 'first'"),
        (X, {"readout": "mean"}, "Leave out readout"),
        (X, {"axes": "KTB", "readout": "mean"}, "Leave out readout"),
        (X[:, :, :2], {}, "cannot be called"),
        (X, {"steps": 4}, "cannot be called"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, settings, message):
    with pytest.raises(InputError, match=message):
        wrap(plain(), given, **settings)


def test_what_holds_no_network_is_refused():
    for nothing in (3, lambda x: x.flatten(1)):
        with pytest.raises(InputError, match="a function that calls one"):
            wrap(nothing, X)


def test_examples_of_another_shape_are_refused_later_too():
    with pytest.raises(InputError, match=r"\[B, 1, 4, 4\]"):
        wrap(plain(), X)(X[:, :, :2])


def test_statistics_of_a_batch_are_found_behind_spikes_that_do_not_show_them():
    net = jelly()
    quiet = lambda x: net(x / x.max() * 1e-3)  # noqa: E731
    with pytest.raises(InputError, match="other values at 0 for"):
        wrap(quiet, X, **options(jelly))
    norm = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Sequential(*net)).eval()
    net[1].weight.data *= 1e-3
    with pytest.raises(InputError, match="other values at 0 for"):
        wrap(norm, X, **options(jelly))


def test_an_encoder_that_looks_at_the_batch_is_found_out():
    net = jelly()
    with pytest.raises(InputError, match="other values at the encoder for"):
        wrap(net, X, encoder=lambda x: torch.stack([x / x.max()] * T) * 1e-3, readout="sum")


@pytest.mark.parametrize("build", [jelly, torchy], ids=lambda build: build.__name__)
def test_a_compiled_network_is_wrapped_as_it_was_written(build):
    net = build()
    compiled = torch.compile(net, backend="eager")
    model = wrap(compiled, X, **options(build))
    assert torch.equal(model(X), wrap(net, X, **options(build))(X))
    assert model.spiking
    with pytest.raises(InputError, match=r"0 compiled by torch\.compile"):
        wrap(nn.Sequential(compiled).eval(), X, **options(build))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_of_torchscript_is_wrapped_without_a_look_inside():
    net = plain()
    for program in (torch.jit.trace(net, X), torch.jit.script(net)):
        assert torch.equal(wrap(program, X)(X), net(X))


class Step(torch.autograd.Function):
    """A spike function that nobody knows."""

    @staticmethod
    def forward(ctx, x):
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_unknown_neurons_are_said_once_and_attacked_without_a_substitute():
    net = plain()
    with pytest.warns(UserWarning, match=r"surrogates of Step cannot be exchanged") as told:
        model = wrap(lambda x: Step.apply(net(x)) + net(x), X)
    assert len(told) == 1
    names = [member.name for member in plan("standard", model, Linf(0.1))]
    assert "stand-in" in names
    assert "width-sweep" not in names


def test_an_unknown_neuron_beside_known_ones_is_said():
    net = torchy()
    with pytest.warns(UserWarning, match="Step"):
        model = wrap(lambda x: Step.apply(net(x) - 0.5), X, steps=T, readout="sum")
    assert not model.spiking


def test_no_framework_is_imported_that_the_network_does_not_bring():
    code = (
        "import sys, torch; from torch import nn; import spikeproof as sp\n"
        "net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()\n"
        "sp.wrap(net, torch.rand(3, 1, 2, 2))\n"
        "print({'spikingjelly', 'snntorch', 'norse', 'sinabs'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
