"""Gradients and training steps of our models, of the same ones in other frameworks, and of linear maps alone.

    python benchmarks/throughput.py [--only NAME ...] [--rounds N] [--examples N] [--threads N] [--out FILE]

Every case runs the same weights in several ways: in SpikingJelly, snnTorch and Norse; as our model, with
written and with compiled loops over time, these also with channels last and with gradients in bfloat16; and
as the floor, in which every layer of neurons hands its current on. The ways take turns, and a call, which
follows an untimed one, is measured in processor time. The ratios of one round come from the same moments of
a machine, so that other work on it disturbs them less than it disturbs the times; medians and quartiles over
rounds are printed and written. Our ways and the floor keep memory between operations, as `spikeproof run`
does; the other frameworks run as they come, and SpikingJelly also with memory kept. Extra memory is the peak
of one gradient in a fresh process, above what the process held before.

Written and compiled loops must give equal logits and gradients to the bit, or the command ends with an
error. How far a framework agrees with our model of its neuron and surrogate is written with the times:
its convolutions and poolings round separately.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from in_frameworks import FRAMEWORKS
from torch import Tensor, nn

import spikeproof as sp
from spikeproof.compiled import Backward, Loops, fixed_weights, keeping_memory, using_backward, using_loops
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking
from spikeproof.surrogates import Surrogate

GREY, COLOUR = (1, 28, 28), (3, 32, 32)
CONV = sp.ConvNet((32, 64), (256,))


PEER = "spikingjelly"
"""The framework that ratios refer to."""

QUICK = (PEER, "compiled", "floor")
"""The ways that show how cost grows."""

ALL = (*FRAMEWORKS, f"{PEER}, memory kept", "written", "compiled", "channels last", "bfloat16", "floor")
"""Every way of a case."""

FREE = tuple(FRAMEWORKS)
"""Ways that run with the allocator as it comes."""


@dataclass(frozen=True)
class Case:
    """What is measured: a network, its time steps and batch, whether weights get gradients too, and the
    ways."""

    network: Any
    steps: int
    batch: int
    shape: tuple[int, int, int] = GREY
    trains: bool = False
    ways: tuple[str, ...] = ALL


def grown() -> dict[str, Case]:
    """Cases that differ in one size only, by `size, value`."""
    cases = {f"steps, {steps}": Case(CONV, steps, 16, ways=QUICK) for steps in (4, 8, 16, 32, 64)}
    cases |= {f"batch, {batch}": Case(CONV, 8, batch, ways=QUICK) for batch in (4, 16, 64, 256)}
    widths = ((8, 16), (16, 32), (32, 64), (64, 128))
    return cases | {f"width, {w[0]}": Case(sp.ConvNet(w, (4 * w[1],)), 8, 16, ways=QUICK) for w in widths}


CASES = {
    "mlp": Case(sp.MLP((400,)), 8, 64),
    "convnet 16-32": Case(sp.ConvNet((16, 32)), 8, 64),
    "convnet 32-64-256": Case(CONV, 8, 64),
    "vgg-9 half": Case(sp.VGG9(width=0.5, hidden=(512,)), 4, 32, COLOUR),
    "training, mlp": Case(sp.MLP((400,)), 8, 64, trains=True),
    "training, convnet 32-64-256": Case(CONV, 8, 64, trains=True),
    "training, vgg-9 half": Case(sp.VGG9(width=0.5, hidden=(512,)), 4, 32, COLOUR, trains=True),
    **grown(),
}
MEMORY = {"convnet 32-64-256, T 16": Case(CONV, 16, 64)}

BACKWARD = {
    "compiled": Backward.PLAIN,
    "bfloat16": Backward.BFLOAT16,
}
"""Ways with compiled loops, and their backward passes of linear maps."""

ATTACKED = {
    "written": (Loops.WRITTEN, Backward.PLAIN),
    "compiled": (Loops.COMPILED, Backward.PLAIN),
    "bfloat16": (Loops.COMPILED, Backward.BFLOAT16),
}
COLUMNS = ("right", "spikes", "x_adv")
"""What must be equal with written and compiled loops, for every example."""

ATTACKS = {"attack, mlp": sp.MLP((400,)), "attack, convnet 16-32": sp.ConvNet((16, 32))}
"""Models of handwritten digits that are attacked."""

Way = Callable[[Tensor], Tensor]
"""Images to logits."""


class Unspiking(nn.Module):
    """A layer of neurons of the floor: it hands its current on, in a tensor that holds every step."""

    def forward(self, current: Tensor) -> Tensor:
        return current.contiguous()


def floor(model: Classifier) -> Way:
    """The linear maps of a model."""
    bare = copy.deepcopy(model)
    layers = bare.network.layers
    for i, layer in enumerate(layers):
        if isinstance(layer, Spiking):
            layers[i] = Unspiking()
    return bare


class Compiled(nn.Module):
    """Our model with compiled loops over time, and with a choice of backward passes of linear maps."""

    def __init__(self, model: Classifier, backward: Backward) -> None:
        super().__init__()
        self.model, self.backward = model, backward

    def forward(self, images: Tensor) -> Tensor:
        with using_loops(Loops.COMPILED), using_backward(self.backward):
            return self.model(images)


def model_of(case: Case, neuron: sp.LIF = sp.LIF(), surrogate: Surrogate = sp.ATan(2.0)) -> Classifier:
    """Our model of a case, with the same weights whatever its neurons."""
    spec = sp.ModelSpec(sp.Direct(case.steps), case.network, neuron, surrogate, sp.Count(), case.shape, 10)
    return spec.build(sp.Key.of(0)).train(case.trains)


def ways(case: Case) -> dict[str, Way]:
    """The ways to run a case, by name, with the same weights."""
    model = model_of(case)
    found: dict[str, Way] = {"written": model, "floor": floor(model).train(case.trains)}
    for name, framework in FRAMEWORKS.items():
        found[name] = framework(model).train(case.trains)
    found[f"{PEER}, memory kept"] = found[PEER]
    for name, backward in BACKWARD.items():
        if backward is Backward.PLAIN or not case.trains:
            found[name] = Compiled(copy.deepcopy(model), backward)
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found["channels last"] = Compiled(turned, Backward.PLAIN)
    return {name: found[name] for name in case.ways if name in found}


def batch_of(case: Case) -> tuple[Tensor, Tensor]:
    """Images, half of whose pixels are black as in Fashion-MNIST, and labels."""
    key, size = sp.Key.of(0), (case.batch, *case.shape)
    grey = key.fold("grey").uniform(size) * (key.fold("black").uniform(size) < 0.5)
    return grey, torch.arange(case.batch) % 10


def work(way: Way, case: Case, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """One gradient on the images, or of the weights in training; returned with the logits."""
    if case.trains:
        assert isinstance(way, nn.Module)
        way.zero_grad()
        logits = way(x)
        F.cross_entropy(logits, y).backward()
        return logits.detach(), next(way.parameters()).grad
    x = x.detach().requires_grad_()
    with fixed_weights():  # as attacks of ours ask for gradients; other frameworks know no such choice
        logits = way(x)
    return logits.detach(), torch.autograd.grad(F.cross_entropy(logits, y), x)[0]


def close(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """How far two ways agree: the share of equal logits, and the relative distance of their gradients."""
    apart = (one[1] - other[1]).norm() / one[1].norm().clamp(min=1e-30)
    return {"equal_logits": (one[0] == other[0]).double().mean().item(), "gradients_apart": apart.item()}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high}


def agreement(case: Case, found: dict[str, Way], x: Tensor, y: Tensor) -> dict[str, dict[str, float]]:
    """How far each framework agrees with our model of its neuron and surrogate."""
    return {
        name: close(
            work(model_of(case, kind.neuron, kind.surrogate), case, x, y), work(found[name], case, x, y)
        )
        for name, kind in FRAMEWORKS.items()
        if name in found
    }


def taken(name: str, way: Way, case: Case, x: Tensor, y: Tensor) -> float:
    """Processor seconds of one call, which follows another one."""
    with nullcontext() if name in FREE else keeping_memory():
        work(way, case, x, y)
        began = time.process_time()
        work(way, case, x, y)
        return time.process_time() - began


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """Times, ratios within rounds, and agreement of all ways of a case."""
    x, y = batch_of(case)
    found = ways(case)
    if "written" in found:
        pairs = zip(*(work(found[name], case, x, y) for name in ("written", "compiled")), strict=True)
        for one, other in pairs:
            assert torch.equal(one, other), "compiled loops must give equal numbers"
    agree = agreement(case, found, x, y)
    times = {name: [] for name in found}
    for _ in range(rounds):
        for name, way in found.items():
            times[name].append(taken(name, way, case, x, y))
    ours = [name for name in found if name in (*ATTACKED, "channels last")]
    others = [name for name in found if name not in (*ours, "floor")]
    pairs = [(other, "compiled") for other in others] + [(name, "floor") for name in ours]
    pairs += [(PEER, name) for name in ours if name != "compiled"]
    pairs = [pair for pair in pairs if found.keys() >= set(pair)]
    return {
        **summary(case, times, pairs),
        "agreement": agree,
    }


def summary(
    case: Case, times: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Milliseconds of every way, and the ratios of pairs of them round by round."""
    return {
        "steps": case.steps,
        "batch": case.batch,
        "milliseconds": {name: spread(1000 * t for t in each) for name, each in times.items()},
        "ratios": {
            f"{one} / {other}": spread(a / b for a, b in zip(times[one], times[other], strict=True))
            for one, other in pairs
        },
    }


def held(field: str) -> float:
    """MiB of this process, now or at its peak, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak(case: Case, name: str) -> float:
    """MiB that one gradient takes at its peak, in this process."""
    x, y = batch_of(case)
    way = ways(case)[name]
    work(way, case, x[:1], y[:1])
    before = held("VmRSS")
    with nullcontext() if name in FREE else keeping_memory():
        work(way, case, x, y)
    return held("VmHWM") - before


def memory(name: str, case: Case) -> dict[str, float]:
    """MiB at the peak for every way, each in a process of its own."""
    command = [sys.executable, __file__, "--peak", name]
    found = ways(case)
    return {way: float(subprocess.check_output([*command, way])) for way in found}


def attacked(network: Any, examples: int) -> dict[str, Any]:
    """PGD of 50 steps on a trained model, with written and compiled loops and with gradients in bfloat16.

    Written and compiled loops must leave the same images and verdicts, to the bit. Times are in processor
    seconds. The share of equal signs is that of the gradients on the test images.
    """
    data, key = sp.Digits().load(), sp.Key.of(0)
    spec = sp.ModelSpec(sp.Direct(8), network, sp.LIF(), sp.ATan(2.0), sp.Count(), (1, 8, 8), 10)
    model = spec.build(key)
    with using_loops(Loops.COMPILED):
        sp.BPTT(epochs=8, lr=2e-3).train(model, data, key)
    model.eval()
    x, y = data.test.images[:examples], data.test.labels[:examples]
    rows: dict[str, Any] = {}
    for epsilon in (0.05, 0.1, 0.15):
        threat, outcomes, seconds = sp.Linf(epsilon), {}, {}
        for name, (loops, backward) in ATTACKED.items():
            began = time.process_time()
            with using_loops(loops), using_backward(backward):
                outcomes[name] = sp.evaluate_attack(model, sp.PGD(steps=50), threat, x, y, key=key)
            seconds[name] = time.process_time() - began
        for column in COLUMNS:
            pair = (getattr(outcomes[name], column) for name in ("written", "compiled"))
            assert torch.equal(*pair), "compiled loops must give equal verdicts"
        robust = {name: found.right.double().mean().item() for name, found in outcomes.items()}
        rows[f"linf {epsilon}"] = {"robust_accuracy": robust, "seconds": seconds}
    plain, coarse = (signs(model, x, y, backward) for backward in BACKWARD.values())
    told = plain != 0
    rows["equal_signs"] = (plain == coarse)[told].double().mean().item()
    return rows


def signs(model: Classifier, x: Tensor, y: Tensor, backward: Backward) -> Tensor:
    """Signs of the gradient on images."""
    with using_loops(Loops.COMPILED), using_backward(backward):
        seen = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(seen), y), seen)[0].sign()


def shown(name: str, found: dict[str, Any]) -> str:
    """One line of text for a case."""
    times = ", ".join(f"{way} {t['median']:.1f}" for way, t in found["milliseconds"].items())
    ratios = ", ".join(
        f"{pair} {r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for pair, r in found["ratios"].items()
    )
    return f"{name}: ms {times}; {ratios}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--only", nargs="+", choices=[*CASES, *ATTACKS, "memory"], help="cases; all without it"
    )
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--examples", type=int, default=200, help="images that are attacked")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--out", type=Path)
    options.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.peak:
        print(peak(MEMORY[chosen.peak[0]], chosen.peak[1]))
        return
    record: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "cases": {},
        "attacks": {},
        "memory_mib": {},
    }
    for name, case in CASES.items():
        if chosen.only is None or name in chosen.only:
            record["cases"][name] = measured(case, chosen.rounds)
            print(shown(name, record["cases"][name]), flush=True)
    for name, network in ATTACKS.items():
        if chosen.only is None or name in chosen.only:
            record["attacks"][name] = attacked(network, chosen.examples)
            print(f"{name}: {record['attacks'][name]}", flush=True)
    for name, case in MEMORY.items():
        if chosen.only is None or "memory" in chosen.only:
            record["memory_mib"][name] = memory(name, case)
            print(f"{name}, batch {case.batch}: extra MiB {record['memory_mib'][name]}", flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
