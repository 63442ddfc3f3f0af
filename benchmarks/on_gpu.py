"""Gradients, training steps and memory on a GPU, against SpikingJelly there and against our own processor.

    python benchmarks/on_gpu.py [--device cuda] [--rounds N] [--out FILE]
    python benchmarks/on_gpu.py --device cpu --small

Without a GPU the first command says so and measures nothing. The second runs every part, on tiny sizes.

Cases of `throughput.py` run the same weights in several ways, in turn: in SpikingJelly, which takes its
Triton kernels on CUDA by itself (it has no CuPy kernels since its version 2.0); as our model with the written
loops and with programs of Inductor; and as the floor, in which layers of neurons hand their current on. Each
is measured with and without a CUDA graph, and training also under bfloat16 autocast, as `BPTT` trains on
CUDA. A time is that of a call from an idle device until it is idle again, after calls that are not timed.
What the first call cost, compilation included, is noted. Memory is the peak that PyTorch allocated in a call
above what it held before.

The command ends with an error if a layer of neurons that is given the same currents does not spike on the
device as on the processor, to the bit, or if the loops differ in a verdict of the device on clean images.
Linear maps of a device add up in their own order; how many verdicts are those of the processor is therefore
counted and written.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from in_frameworks import FRAMEWORKS
from throughput import CASES, Case, batch_of, floor, model_of, summary
from torch import Tensor, nn

import spikeproof as sp
from spikeproof.compiled import Loops, using_loops, why_not_compiled
from spikeproof.experiments.run.compute import in_full
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import ALIF, PLIF, CuBaLIF, Neuron, lif_unroll
from spikeproof.surrogates import ATan

PEER = "spikingjelly"
SIZES = ("steps, ", "batch, ")
"""What the names of cases that show growth begin with."""

TINY = {
    "mlp": Case(sp.MLP((12,)), 2, 4, (1, 12, 12)),
    "training, mlp": Case(sp.MLP((12,)), 2, 4, (1, 12, 12), trains=True),
    "steps, 2": Case(sp.MLP((12,)), 2, 8, (1, 12, 12)),
}
"""Cases that a test runs."""

CHOICES = (Loops.WRITTEN, Loops.INDUCTOR)

Step = Callable[[], Tensor]
"""One gradient, on images or, in training, on the first weights; it returns the gradient."""


class With(nn.Module):
    """A model with a choice of loops over time, and of autocast."""

    def __init__(self, model: Classifier, loops: Loops, half: bool = False) -> None:
        super().__init__()
        self.model, self.loops, self.half = model, loops, half

    def forward(self, images: Tensor) -> Tensor:
        mixed = torch.autocast(images.device.type, torch.bfloat16) if self.half else nullcontext()
        with using_loops(self.loops), mixed:
            return self.model(images)


def ways(case: Case, device: torch.device) -> dict[str, nn.Module]:
    """The ways to run a case, by name, with the same weights."""
    model = model_of(case)
    found: dict[str, nn.Module] = {loops.value: With(model_of(case), loops) for loops in CHOICES}
    if why_not_compiled(Loops.INDUCTOR, device):
        found.pop(Loops.INDUCTOR.value)
    if case.trains:
        found |= {f"{name}, bfloat16": With(way.model, way.loops, half=True) for name, way in found.items()}
    found["floor"] = floor(model)
    with suppress(ImportError):  # the rest is measured without it
        found[PEER] = FRAMEWORKS[PEER](model)
    return {name: way.to(device).train(case.trains) for name, way in found.items()}


def step_of(way: nn.Module, case: Case, x: Tensor, y: Tensor) -> Step:
    """What is measured of a way."""
    inputs = (
        [p for p in way.parameters() if p.requires_grad] if case.trains else [x.detach().requires_grad_()]
    )

    def step() -> Tensor:
        logits = way(x if case.trains else inputs[0])
        return torch.autograd.grad(F.cross_entropy(logits.float(), y), inputs)[0]

    return step


def graphed(step: Step) -> Step:
    """The same step as one CUDA graph, whose input and weights stay where they are.

    Raises:
        RuntimeError: something in it cannot be captured.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()

    def replayed() -> Tensor:
        graph.replay()
        return found

    return replayed


def idle(device: torch.device) -> None:
    """Wait until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def taken(step: Step, device: torch.device) -> float:
    """Seconds of one call."""
    idle(device)
    began = time.perf_counter()
    step()
    idle(device)
    return time.perf_counter() - began


def peak(step: Step, device: torch.device) -> float | None:
    """MiB that a call takes at its peak; None where PyTorch does not count them."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    idle(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measured(case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Times, ratios within rounds, first calls and memory of all ways of a case."""
    x, y = (each.to(device) for each in batch_of(case))
    steps = {name: step_of(way, case, x, y) for name, way in ways(case, device).items()}
    first = {name: taken(step, device) for name, step in steps.items()}
    memory = {name: peak(step, device) for name, step in steps.items()}
    refused: dict[str, str] = {}
    if device.type == "cuda":
        for name, step in list(steps.items()):
            try:
                steps[f"{name}, graph"] = graphed(step)
            except RuntimeError as error:  # a finding, and no end of the measurement
                refused[name] = str(error).strip().partition("\n")[0]
    wanted = steps[Loops.WRITTEN.value]().clone()
    apart = {
        name: ((step() - wanted).norm() / wanted.norm().clamp(min=1e-30)).item()
        for name, step in steps.items()
        if name.startswith(tuple(loops.value for loops in CHOICES))
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            times[name].append(taken(step, device))
    ours = [name for name in steps if not name.startswith((PEER, "floor"))]
    pairs = [(other, name) for other in steps if other.startswith(PEER) for name in ours]
    pairs += [(name, "floor") for name in ours]
    return {
        **summary(case, times, pairs),
        "first_call_seconds": first,
        "memory_mib": memory,
        "not_captured": refused,
        "gradients_apart": apart,
    }


NEURONS = (sp.LIF(), ALIF(0.7), sp.LIF(reset=sp.ToZero()), PLIF(0.4), CuBaLIF(0.6))


def same_spikes(
    device: torch.device, size: tuple[int, ...], neurons: Sequence[Neuron] = NEURONS
) -> dict[str, float]:
    """The largest relative distance of gradients from those of the processor, by neuron and loops.

    Given the same currents, spikes must be those of the processor to the bit.
    """
    current, found = sp.Key.of(1).normal(size), {}
    for neuron in neurons:
        wanted: tuple[Tensor, Tensor] | None = None
        for where, loops in ((torch.device("cpu"), Loops.WRITTEN), *((device, loops) for loops in CHOICES)):
            i = current.to(where).requires_grad_()
            with using_loops(loops):
                z, _ = lif_unroll(i, neuron.rest(i), neuron, ATan())
            weight = sp.Key.of(2).normal(z.shape).to(where)
            pair = z.detach().cpu(), torch.autograd.grad((z * weight).sum(), i)[0].cpu()
            wanted = wanted or pair
            assert torch.equal(pair[0], wanted[0]), f"{neuron!r} must spike as on the processor"
            distance = (pair[1] - wanted[1]).abs().max() / wanted[1].abs().max()
            found[f"{neuron!r}, {loops.value} on {where.type}"] = distance.item()
    return found


def same_verdicts(device: torch.device, examples: int, epochs: int) -> dict[str, Any]:
    """PGD on a model that the processor trained: verdicts on the device against the processor's.

    Clean images must be judged alike by both loops of the device. Attacked images come from gradients whose
    last digits differ, so that of these the shares are noted.
    """
    data, key = sp.Digits().load(), sp.Key.of(0)
    spec = sp.ModelSpec(sp.Direct(2), sp.MLP((64,)), sp.LIF(), ATan(2.0), sp.Count(), (1, 8, 8), 10)
    model = spec.build(key)
    sp.BPTT(epochs=epochs, lr=5e-3).train(model, data, key)
    x, y = data.test.images[:examples], data.test.labels[:examples]
    clean: dict[str, Tensor] = {}
    right: dict[str, Tensor] = {}
    for name, where, loops in (
        ("cpu", torch.device("cpu"), Loops.WRITTEN),
        *((f"{loops.value} on {device.type}", device, loops) for loops in CHOICES),
    ):
        model.to(where)
        with using_loops(loops):
            clean[name] = sp.evaluate_clean(model, x.to(where), y.to(where), key).right.cpu()
            attacked = sp.evaluate_attack(
                model, sp.PGD(steps=10), sp.Linf(0.05), x.to(where), y.to(where), key=key
            )
            right[name] = attacked.right.cpu()
    on_device = [each for name, each in clean.items() if name != "cpu"]
    assert torch.equal(*on_device), "no choice of loops changes a verdict"
    return {
        name: {
            "clean_verdicts_of_the_processor": (clean[name] == clean["cpu"]).double().mean().item(),
            "attacked_verdicts_of_the_processor": (right[name] == right["cpu"]).double().mean().item(),
            "robust_accuracy": right[name].double().mean().item(),
        }
        for name in right
    }


def shown(name: str, found: dict[str, Any]) -> str:
    """One line of text for a case."""
    times = ", ".join(f"{way} {t['median']:.3g}" for way, t in found["milliseconds"].items())
    memory = ", ".join(f"{way} {mib:.0f}" for way, mib in found["memory_mib"].items() if mib is not None)
    line = f"{name}: ms {times}" + (f"; MiB {memory}" if memory else "")
    return line + "".join(f"; no graph of {way}: {why}" for way, why in found["not_captured"].items())


def chosen(small: bool) -> dict[str, Case]:
    """The cases of the table, and of growth with steps and batch."""
    if small:
        return TINY
    table = {name: case for name, case in CASES.items() if not name.startswith(("width", *SIZES))}
    grown = {name: case for name, case in CASES.items() if name.startswith(SIZES)}
    large = {f"{name}, batch 512": replace(case, batch=512) for name, case in table.items()}
    return {**table, **large, **grown}


def main(given: list[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda", help="cuda, or cpu to try the command itself")
    options.add_argument("--small", action="store_true", help="tiny sizes, whose times mean nothing")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--out", type=Path)
    asked = options.parse_args(given)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("Nothing was measured, because PyTorch sees no GPU on this machine.")
        return
    rounds = 2 if asked.small else asked.rounds
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "rounds": rounds,
        "small": asked.small,
        "cases": {},
    }
    with in_full():
        few = ((2, 2, 40), NEURONS[:2]) if asked.small else ((37, 32, 3000), NEURONS)
        record["layers"] = same_spikes(device, *few)
        print(f"neurons spike as on the processor; gradients within {max(record['layers'].values()):.1e}")
        record["verdicts"] = same_verdicts(device, *((40, 4) if asked.small else (200, 8)))
        print(f"verdicts: {record['verdicts']}", flush=True)
        for name, case in chosen(asked.small).items():
            record["cases"][name] = measured(case, device, rounds)
            print(shown(name, record["cases"][name]), flush=True)
    record["no_programs"] = why_not_compiled(Loops.INDUCTOR, device)
    if record["no_programs"]:
        print(record["no_programs"])
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
