"""Run a campaign of small cells while workers, drivers and nodes are killed at random, and check the store.

    python scripts/campaign.py --executor processes --cells 300 --kills 20 --out runs/campaign
    python scripts/campaign.py --executor ray --cells 300 --kills 20 --nodes 2 --out runs/campaign-ray

Two drivers work on one store at a time, as two machines would. A killed driver is started again, and so is a
killed node of Ray. At the end every cell has to be there, undamaged and with the right numbers, no cell may
have been begun after it was finished, and nothing may be held or set aside. `--kills 0` measures the time
that a cell costs beyond its computation instead, and `--attacks 8` how many more cells two workers finish
than one, where each attacks a small network so many times: runs with one and with two workers alternate, and
the processor time of a cell shows whether the workers are in each other's way.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).parents[1]
SYNTHETIC = str(ROOT / "tests" / "unit")
sys.path.insert(0, SYNTHETIC)
os.environ["PYTHONPATH"] = os.pathsep.join([SYNTHETIC, *filter(None, [os.environ.get("PYTHONPATH")])])

import synthetic  # noqa: E402

from spikeproof.experiments.run.driver import Pace  # noqa: E402
from spikeproof.experiments.run.executors import Executor, Processes, Serial, pools  # noqa: E402
from spikeproof.experiments.run.queue.failures import Failures  # noqa: E402
from spikeproof.experiments.run.queue.leases import Leases  # noqa: E402
from spikeproof.experiments.run.store import Store  # noqa: E402

PACE = Pace(beat=0.5, stale=8.0, grace=0.5)
MODELS = 10


def executor_of(name: str, workers: int, address: str | None) -> Executor:
    """The executor of one driver."""
    from spikeproof.experiments.run.executors.on_ray import Ray
    from spikeproof.experiments.run.executors.on_slurm import Slurm

    made: dict[str, Callable[[], Executor]] = {
        "serial": Serial,
        "processes": lambda: Processes(workers),
        "ray": lambda: Ray(workers, address),
        "slurm": lambda: Slurm(workers, {"timeout_min": 60}, "local"),
    }
    return made[name]()


def drive(asked: argparse.Namespace) -> None:
    """One driver, which runs until nothing remains to be done."""
    pools.START = multiprocessing.get_context(asked.start)
    cells = synthetic.cells_of_models(MODELS, asked.cells // MODELS - 1)
    executor = executor_of(asked.executor, asked.workers, asked.address)
    work = work_of(asked)
    print(synthetic.go(asked.out, cells, executor, work=work, pace=PACE))


def work_of(asked: argparse.Namespace) -> synthetic.Work:
    """What a cell computes: it sleeps, or it attacks a network."""
    if asked.attacks:
        return synthetic.Computing(asked.out, asked.attacks)
    return synthetic.Work(asked.out, asked.seconds)


def logged(asked: argparse.Namespace, log: Path) -> None:
    """One driver, with what it prints at the end of a file."""
    with log.open("ab") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    drive(asked)


class Campaign:
    """The drivers of a campaign, and whatever can be killed."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.random = random.Random(asked.seed)
        self.kills: Counter[str] = Counter()
        self.drivers = [self.driver() for _ in range(asked.drivers)]

    def driver(self) -> BaseProcess:
        """A driver in a process of its own."""
        context = multiprocessing.get_context(self.asked.start)
        driver: BaseProcess = context.Process(target=logged, args=(self.asked, self.log))
        driver.start()
        return driver

    @property
    def log(self) -> Path:
        """What the drivers print."""
        return self.asked.out.with_name(f"{self.asked.out.name}.drivers")

    def revive(self) -> bool:
        """Start drivers again that were killed; whether any is still needed."""
        for place, driver in enumerate(self.drivers):
            if (code := driver.exitcode) not in (None, 0):
                if code > 0 and code != 128 + signal.SIGTERM:
                    raise SystemExit(f"a driver failed with {code}: see {self.log}")
                self.drivers[place] = self.driver()
        return any(driver.exitcode is None for driver in self.drivers)

    def kill(self) -> None:
        """Kill the worker of a random cell under way, or a driver, by a random signal."""
        held = [holder for holder in Leases(self.asked.out, "").observe().values() if holder is not None]
        if not held:  # workers are starting
            return
        how = self.random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        running = [driver.pid for driver in self.drivers if driver.exitcode is None]
        if not running or self.random.random() < 0.75:
            self.send("worker", self.random.choice(held).pid, how)
        else:
            self.send("driver", self.random.choice(running), how)

    def send(self, whom: str, pid: int, how: signal.Signals) -> None:
        """Send a signal, and count it."""
        with suppress(ProcessLookupError):
            os.kill(pid, how)
            self.kills[f"{whom} {how.name}"] += 1


@contextmanager
def cluster(asked: argparse.Namespace) -> Iterator[tuple[str | None, Callable[[], None]]]:
    """A cluster of Ray with several nodes on this machine: its address, and what kills one node."""
    if asked.executor != "ray":
        yield None, lambda: None
        return
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [made.add_node(num_cpus=asked.workers) for _ in range(asked.nodes)]

    def kill() -> None:
        made.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(made.add_node(num_cpus=asked.workers))

    try:
        yield made.address, kill
    finally:
        made.shutdown()


def check(asked: argparse.Namespace) -> dict[str, object]:
    """Whether the store has what it has to have."""
    cells = synthetic.cells_of_models(MODELS, asked.cells // MODELS - 1)
    store, found = Store(asked.out), synthetic.noted(asked.out)
    missing = {cell.address for cell in cells} - store.addresses()
    wrong = [
        cell.address
        for cell in cells
        if cell.address not in missing
        and store.planned(cell.record()).metrics != synthetic.metrics_of(cell)  # a damaged one raises
    ]
    begun = Counter(address for word, address, _ in found if word == "begin")
    return {
        "cells": len(cells),
        "missing": len(missing),
        "wrong": len(wrong),
        "begun after they were finished": sum(word == "again" for word, _, _ in found),
        "begun more than once": sum(times > 1 for times in begun.values()),
        "held": len(Leases(asked.out, "").observe()),
        "failures": len(Failures(asked.out).addresses()),
        "processes": len({process for _, _, process in found}),
    }


def endure(asked: argparse.Namespace) -> dict[str, object]:
    """The campaign with its kills."""
    began = time.monotonic()
    with cluster(asked) as (address, kill_node):
        asked.address = address
        campaign = Campaign(asked)
        while campaign.revive():
            time.sleep(campaign.random.uniform(0.5, 1.5) * asked.every)
            total = sum(campaign.kills.values())
            if total < asked.kills and not done(asked):
                if address and campaign.random.random() < 0.2:
                    kill_node()
                    campaign.kills["node"] += 1
                else:
                    campaign.kill()
    result = {"executor": asked.executor, "kills": dict(campaign.kills), **check(asked)}
    return {**result, "killed": sum(campaign.kills.values()), "seconds": round(time.monotonic() - began, 1)}


def done(asked: argparse.Namespace) -> bool:
    """Whether every cell is stored."""
    return len(Store(asked.out).addresses()) >= asked.cells // MODELS * MODELS


def apart(asked: argparse.Namespace) -> float:
    """Run the campaign without kills; the seconds from one cell to the next, once workers have started."""
    with cluster(asked) as (address, _):
        asked.address = address
        drive(asked)
    stored = sorted(path.stat().st_mtime for path in (asked.out / "cells").iterdir())
    skipped = len(stored) // 5
    return (stored[-1] - stored[skipped]) / (len(stored) - 1 - skipped)


def measure(asked: argparse.Namespace) -> dict[str, object]:
    """The time of a cell beyond its computation."""
    each = apart(asked) * asked.workers
    found = {"executor": asked.executor, "workers": asked.workers, "computation of a cell": asked.seconds}
    return {**found, "milliseconds beyond it": round(1000 * (each - asked.seconds), 1), **check(asked)}


def compare(asked: argparse.Namespace) -> dict[str, object]:
    """How many more cells two workers finish than one in the same time, in runs that alternate."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    spent: dict[int, list[float]] = {1: [], 2: []}
    loads = [os.getloadavg()[0]]
    for _ in range(asked.pairs):
        for workers in rates:
            begin(asked.out)
            asked.workers = workers
            rates[workers].append(1 / apart(asked))
            cells = (asked.out / "cells").iterdir()
            seconds = [json.loads((cell / "provenance.json").read_text())["seconds"] for cell in cells]
            spent[workers].append(fmean(seconds))
            loads.append(os.getloadavg()[0])
    return {
        "executor": asked.executor,
        "cells per second with one worker": rates[1],
        "cells per second with two": rates[2],
        "times as many": round(fmean(rates[2]) / fmean(rates[1]), 2),
        "processor seconds of a cell with one worker": spent[1],
        "processor seconds of a cell with two": spent[2],
        "load averages": loads,
        **check(asked),
    }


def begin(out: Path) -> None:
    """An empty output directory."""
    shutil.rmtree(out, ignore_errors=True)
    synthetic.log_of(out).unlink(missing_ok=True)
    out.mkdir(parents=True)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--executor", choices=("serial", "processes", "ray", "slurm"), default="processes")
    parser.add_argument("--cells", type=int, default=300, help="number of cells, a multiple of 10")
    parser.add_argument("--kills", type=int, default=20, help="0 to measure the time of a cell")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--workers", type=int, default=2, help="of each driver, and CPUs of each node")
    parser.add_argument("--drivers", type=int, default=2)
    parser.add_argument("--nodes", type=int, default=2, help="of the cluster of Ray")
    parser.add_argument("--seconds", type=float, default=0.2, help="computation of a cell")
    parser.add_argument("--attacks", type=int, default=0, help="of a cell on a network, instead of its sleep")
    parser.add_argument("--pairs", type=int, default=3, help="runs with one and with two workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    starts = ("spawn", "forkserver")
    parser.add_argument("--start", choices=starts, default="spawn", help="of drivers and worker processes")
    asked = parser.parse_args(namespace=argparse.Namespace(address=None))
    begin(asked.out)
    found = (compare if asked.attacks else endure if asked.kills else measure)(asked)
    print(json.dumps(found, indent=1))
    wrong = ("missing", "wrong", "begun after they were finished", "held", "failures")
    sys.exit(1 if any(found[name] for name in wrong) else 0)


if __name__ == "__main__":
    main()
