"""Cells that compute next to nothing, with which executors are tested: two kinds, with known numbers."""

import hashlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

import spikeproof.experiments.run.driver as running
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.decoders import Count
from spikeproof.encoders import Direct
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.experiments.run.shapes import FORMAT
from spikeproof.experiments.run.store import Store, as_json
from spikeproof.experiments.study.cells import MEASURING_VERSION, TRAINING_VERSION, Cell
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

FORKING = multiprocessing.get_context("forkserver")
"""Starts processes by forking one that has imported what cells need, so that they need not."""
FORKING.set_forkserver_preload(
    [
        "pytest",
        "spikeproof.attacks.gradient.plain",
        "spikeproof.experiments.run.compute",
        "torch._dynamo",  # which training imports
        "spikeproof.report.page",
    ]
)

QUICK = running.Pace(beat=0.2, stale=2.0, grace=0.2)
PARTS = ("network", "neuron", "encoder", "decoder", "surrogate")


def cells_of_models(models, each):
    """As many train cells as there are models, and so many other cells for each of them."""
    cells = []
    for seed in range(models):
        spec = {
            "dataset": {"name": "digits", "sha256": "0"},
            "model": {**{part: {"name": part} for part in PARTS}, "classes": 10},
            "rule": {"name": "rule"},
            "seed": seed,
            "code_version": TRAINING_VERSION,
        }
        cells.append(train := Cell.of("train", spec))
        for number in range(each):
            measured = {"train": train.address, "examples": number + 1, "draws": 1}
            cells.append(Cell.of("inspect", {**measured, "code_version": MEASURING_VERSION}))
    return cells


def weights_of(address):
    return hashlib.sha256(address.encode()).hexdigest()


def metrics_of(cell):
    return {"weights": weights_of(cell.spec.get("train", cell.address))}


def files_of(cell, seconds=0.0):
    documents = {
        "cell.json": {"format": FORMAT, **cell.record()},
        "metrics.json": metrics_of(cell),
        "provenance.json": {"seconds": seconds},
    }
    return {name: as_json(content) for name, content in documents.items()}


@dataclass(frozen=True)
class Work:
    """Computes synthetic cells, and notes in a log beside the store what it does.

    A cell that was finished before its computation began is noted as `again`.
    """

    root: Path
    seconds: float = 0.0

    def __call__(self, cell, tell):
        store = Store(self.root)
        self.note("again" if store.has(cell.address) else "begin", cell)
        for need in cell.needs:
            assert store.read(need).metrics == {"weights": weights_of(need)}
        tell(Progress(1, 2, "half"))
        time.sleep(self.seconds)
        return files_of(cell, self.seconds)

    def note(self, word, cell):
        log = os.open(log_of(self.root), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{word} {cell.address} {os.getpid()}\n".encode())
        os.close(log)


@dataclass(frozen=True)
class Computing(Work):
    """Attacks a small spiking network instead of sleeping, always as much; `seconds` counts the attacks.

    The time that a cell states is that of the processor.
    """

    def __call__(self, cell, tell):
        torch.set_num_threads(1)
        began, model = time.process_time(), network()
        x, y = Key.of(1).uniform((100, 1, 8, 8)), torch.arange(100) % 10
        for number in range(round(self.seconds)):
            PGD(steps=10)(Linf(0.1))(model, x, y, Key.of(number).for_rows(range(100)))
        super(Computing, replace(self, seconds=0.0)).__call__(cell, tell)
        return files_of(cell, time.process_time() - began)


@cache
def network():
    """The network that is attacked, which a worker keeps in memory."""
    spec = ModelSpec(Direct(8), MLP((64,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
    return spec.build(Key.of(0)).eval()


def log_of(root):
    return root.with_name(f"{root.name}.log")


def noted(root):
    """What was noted: word, address and process."""
    return [tuple(line.split()) for line in log_of(root).read_text().splitlines()]


class Heard(running.Listener):
    def __init__(self):
        self.kept_cells, self.told, self.ended, self.tried, self.messages = [], [], [], [], []

    def kept(self, cell):
        self.kept_cells.append(cell)

    def progress(self, cell, progress):
        self.told.append((cell, progress))

    def finished(self, cell, failure):
        self.ended.append((cell, failure))

    def retrying(self, cell, failure):
        self.tried.append((cell, failure))

    def noted(self, message):
        self.messages.append(message)

    def damaged(self, message):
        self.messages.append(message)


def shown_in(file, what, *given):
    """Do something in a process of its own, with what it prints in a file."""
    with file.open("wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    what(*given)


def command_line(*words):
    """The command line of spikeproof."""
    from spikeproof.command.cli import main

    sys.argv = ["spikeproof", *map(str, words)]
    main()


def go(root, cells, executor, heard=None, work=None, pace=QUICK):
    """Run synthetic cells as a study."""
    work = work or Work(root)
    return running.run("synthetic", {}, cells, work, executor, root, heard or Heard(), pace)
