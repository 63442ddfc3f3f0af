"""A synthetic store of any number of cells: time and memory of `status` and the report, and the page's size.

    python benchmarks/large_report.py --cells 5000 --out runs/large

The numbers are invented: only their amount and their shape are those of a study. Models differ in encoder,
decoder, neuron and seed; each has nine attacks at five budgets. The store is written as a run writes it, with
an extract of every cell; `--without-extracts` leaves these out, as in a store of an earlier version. `status`
and the report run in processes of their own, whose time and largest memory are printed.

`--openings 7` also opens the page so many times in Chromium, each time in a fresh context (extra `browser`).
Printed are the median times on the clock from the beginning of the navigation until the ranking is seen, and
to the end of the frame after the views are drawn, from which the page answers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from spikeproof.experiments.run.extracts import extract
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import CellRecord

N, STEPS, CLASSES, SIDE = 200, 8, 10, 8
EPSILONS = (2 / 255, 4 / 255, 8 / 255, 0.05, 0.1)
ATTACKS = ("fgsm", "pgd", "apgd-ce", "apgd-dlr", "square", "noise", "mim", "deepfool", "eot-pgd")
QUERIES = frozenset({"square", "noise"})
PARTS = {
    "encoder": ("direct", "latency", "bernoulli", "phase", "burst", "early-burst"),
    "decoder": ("count", "first-spike", "mean-potential"),
    "neuron": ("lif", "if", "plif"),
}
PER_MODEL = 3 + len(ATTACKS) * len(EPSILONS)


def encoded(document: object) -> bytes:
    """A document as it lies in a store."""
    return (json.dumps(document, indent=1) + "\n").encode()


def table(**columns: np.ndarray) -> bytes:
    """A table with one row per example."""
    file = io.BytesIO()
    whole = np.arange(N)
    pq.write_table(pa.table({"example": whole, "label": whole % CLASSES, **columns}), file)
    return file.getvalue()


def cell(
    root: Path, kind: str, spec: object, metrics: object, *, extracted: bool, **files: bytes
) -> CellRecord:
    """Write one cell; its record in the plan."""
    address = hashlib.sha256(encoded([kind, spec])).hexdigest()[:32]
    record: CellRecord = {"kind": kind, "address": address, "spec": spec}
    provenance = {
        "spikeproof": "synthetic",
        "command": ["spikeproof", "run", "synthetic.yaml"],
        "seconds": 1.0,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    documents = {"cell.json": record, "metrics.json": metrics, "provenance.json": provenance}
    contents = {
        **{name: encoded(document) for name, document in documents.items()},
        **{name.replace("__", "."): content for name, content in files.items()},
    }
    folder = root / "cells" / address
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    (folder / "MANIFEST.json").write_bytes(encoded(digests))
    if extracted:
        extract(Store(root), record, "benchmark")
    return record


def answers(right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The label where an answer is right, and another class elsewhere."""
    label = np.arange(N) % CLASSES
    return np.where(right == 1, label, (label + rng.integers(1, CLASSES, N)) % CLASSES)


def outcome(right: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The columns that tables of clean and attacked images share."""
    return {
        "right": right,
        "right_selection": right,
        "tie": np.zeros(N),
        "silent": np.zeros(N),
        "prediction": answers(right, rng),
    }


def model_cells(root: Path, parts: Mapping[str, str], seed: int, *, extracted: bool) -> Iterator[CellRecord]:
    """All cells of one model."""
    rng = np.random.default_rng([seed, *"".join(parts.values()).encode()])
    model = {axis: {"name": name} for axis, name in parts.items()}
    model["encoder"]["steps"] = STEPS
    spec = {
        "model": {
            **model,
            "network": {"name": "mlp", "hidden": [100]},
            "surrogate": {"name": "arctangent"},
            "classes": CLASSES,
        },
        "dataset": {"name": "synthetic", "sha256": "0"},
        "rule": {"name": "bptt"},
        "seed": seed,
    }
    trained = {"epochs": epochs(rng), "validation_accuracy": 0.9, "parameters": 7_460}
    train = cell(root, "train", spec, trained, extracted=extracted)
    yield train
    shared = {"n": N, "draws": 1, "tie_share": 0.0, "silent_share": 0.0}
    hardness = rng.random(N)
    clean = float(rng.uniform(0.85, 0.99))
    numbers = {"clean_accuracy": clean, "clean_all_draws": clean, "ci_low": clean - 0.04, "ci_high": clean}
    costs = {"stochastic": False, "spikes_per_inference": float(rng.uniform(50, 400)), "mean_exit": STEPS}
    of = {"train": train["address"]}
    right = (hardness < clean).astype(float)
    yield cell(
        root,
        "clean",
        of,
        {**shared, **numbers, **costs},
        extracted=extracted,
        examples__parquet=table(**outcome(right, rng)),
    )
    yield cell(root, "inspect", of, {}, extracted=extracted)
    slope = rng.uniform(4, 12)
    for epsilon, attack in itertools.product(EPSILONS, ATTACKS):
        strength = rng.uniform(0.5, 1.0) * (0.2 if attack in QUERIES else 1)
        share = clean * float(np.exp(-slope * strength * epsilon))
        after = (hardness < share).astype(float)
        measured = {
            "robust_accuracy": float(after.mean()),
            "robust_all_draws": float(after.mean()),
            "ci_low": max(0.0, share - 0.06),
            "ci_high": min(1.0, share + 0.06),
            "gradient_free": attack in QUERIES,
            "budget_violations": 0,
            "attacked": N,
            "forward_queries": 40 * N,
            "backward_queries": 0 if attack in QUERIES else 40 * N,
            "losses": np.sort(rng.random(41)).tolist(),
        }
        described = {**of, "attack": {"name": attack}, "threat": {"name": "linf"}, "epsilon": epsilon}
        yield cell(
            root,
            "attack",
            described,
            {**shared, **measured},
            extracted=extracted,
            examples__parquet=table(**outcome(after, rng), right_clean=right),
            arrays__safetensors=pictures(rng, epsilon),
        )


def epochs(rng: np.random.Generator) -> list[dict[str, object]]:
    """Ten epochs of a training."""
    loss = np.sort(rng.random(10))[::-1].tolist()
    return [
        {
            "epoch": k,
            "loss": each,
            "validation_accuracy": 1 - each / 2,
            "seconds": 1.0,
            "processor_seconds": 0.9,
        }
        for k, each in enumerate(loss, 1)
    ]


def pictures(rng: np.random.Generator, epsilon: float) -> bytes:
    """Two attacked images with the spikes of both."""
    x = rng.random((2, 1, SIDE, SIDE), dtype=np.float32)
    moved = np.clip(x + epsilon * rng.choice([-1.0, 1.0], x.shape), 0, 1).astype(np.float32)
    spikes, after = ((rng.random((2, STEPS, 1, SIDE, SIDE)) < 0.2).astype(np.uint8) for _ in range(2))
    return save({"x": x, "x_adv": moved, "spikes": spikes, "spikes_adv": after, "example": np.arange(2)})


def written(root: Path, cells: int, *, extracted: bool = True) -> int:
    """Write the store; the number of its cells."""
    plan: list[CellRecord] = []
    root.mkdir()
    for seed in itertools.count():
        for names in itertools.product(*PARTS.values()):
            if len(plan) + PER_MODEL > cells:
                study = {"study": "synthetic", "spec": {"name": "synthetic"}, "plan": plan, "created": "-"}
                study["cells"] = [record["address"] for record in plan]
                (root / "study.json").write_bytes(encoded(study))
                return len(plan)
            plan += model_cells(root, dict(zip(PARTS, names, strict=True)), seed, extracted=extracted)
    raise AssertionError


def measured(words: str, directory: Path) -> str:
    """Run a command on the store; its time on the clock, its processor time and its largest memory."""
    start = time.monotonic()
    command = [sys.executable, "-m", "spikeproof", words, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return (
        f"{words}: {time.monotonic() - start:.1f} s, processor {used.ru_utime + used.ru_stime:.1f} s, "
        f"at most {used.ru_maxrss / 1024:.0f} MiB"
    )


WATCH = """const look = () => requestAnimationFrame(document.querySelector("#ranking tbody td") ?
    () => { window.seen = performance.now(); } : look); look();"""
"""Notes when the frame begins that follows the first one with a row of the ranking."""

CLOCK = """() => new Promise((told) => requestAnimationFrame(() => setTimeout(() =>
    told([window.seen, performance.now()]))))"""
"""Milliseconds from the beginning of the navigation until the ranking is seen, and to the end of a frame."""


def opened(page: Path, times: int, size: tuple[int, int] = (1400, 900)) -> str:
    """Open a page so many times; the median times until its ranking is seen and until it answers."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = []
        for _ in range(times):
            context = browser.new_context(viewport={"width": size[0], "height": size[1]}, offline=True)
            view = context.new_page()
            view.add_init_script(WATCH)
            view.goto(page.resolve().as_uri(), wait_until="commit")
            view.wait_for_selector("#view > *")
            view.wait_for_selector("#ranking tbody tr")
            found.append(view.evaluate(CLOCK))
            context.close()
        browser.close()
    seen, answers = (statistics.median(each) / 1000 for each in zip(*found, strict=True))
    worst = max(answer for _, answer in found) / 1000
    return (
        f"opened {times} times: ranking seen after {seen:.2f} s, answers after {answers:.2f} s, "
        f"at most {worst:.2f} s"
    )


def main() -> None:
    """Write a store, ask for its status and draw its report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=5000)
    parser.add_argument("--out", type=Path, required=True, help="written if it does not exist")
    parser.add_argument("--without-extracts", action="store_true", help="as before there were any")
    parser.add_argument("--openings", type=int, default=0, help="how often to open the page in Chromium")
    arguments = parser.parse_args()
    if not arguments.out.exists():
        count = written(arguments.out, arguments.cells, extracted=not arguments.without_extracts)
        print(f"{count} cells in {arguments.out}")
    for words in ("status", "status", "report"):
        print(measured(words, arguments.out), flush=True)
    print(f"page: {(arguments.out / 'report.html').stat().st_size / 1e6:.1f} MB", flush=True)
    if arguments.openings:
        print(opened(arguments.out / "report.html", arguments.openings))


if __name__ == "__main__":
    main()
