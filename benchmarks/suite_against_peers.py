"""The suites beside public attacks, on the same weights, images and budget, with our own judge.

    python benchmarks/suite_against_peers.py MODEL [MODEL ...] --out DIR
    python benchmarks/suite_against_peers.py MODEL [MODEL ...] --out DIR --threat l1 --epsilon 8
    python benchmarks/suite_against_peers.py --out DIR

MODEL is a train cell of a study. Every opponent attacks all images that the model classifies correctly, also
those that another attack has broken. DIR gets one JSON file per model and budget, which is written after
every attack, so that an interrupted run continues where it stopped; `--again NAME` repeats an attack.
Without a MODEL, the command only prints the tables in Markdown. Seconds are processor seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from opponents import opponents
from torch import Tensor

from spikeproof.catalogue.saved import load
from spikeproof.datasets import ClassProportional
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import Clean, evaluate_clean
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.threats import L0, L1, Ball, Linf, parse_epsilon

THREATS: dict[str, type[Ball]] = {"linf": Linf, "l1": L1, "l0": L0}

SUITE = "standard"
"""The suite that the opponents are compared with."""

LARGER = "extreme"
"""The suite that must not find much more."""

DRAWS = 10
"""Per verdict of a stochastic model."""

ROUNDING = 1e-3
"""An opponent's image that exceeds its budget by at most this share is drawn back into it."""

Entry = dict[str, Any]
"""What one attack left: `standing` per image, `seconds`, and of a suite its `members`."""


def within(x_adv: Tensor, x: Tensor, threat: Ball) -> Tensor:
    """An opponent's images within the budget, checked in double precision; elsewhere the clean image."""
    clean = x.double()
    change = x_adv.double().clamp(0, 1).nan_to_num(0) - clean
    far = threat.distance(clean + change, clean).view(-1, *[1] * (x.ndim - 1))
    share = (threat.epsilon / far.clamp(min=1e-30)).clamp(max=1)
    if isinstance(threat, L0):  # a count cannot be drawn back
        share = (share >= 1).double()
    images = (clean + torch.where(share >= 1 - ROUNDING, share, torch.zeros_like(share)) * change).to(x.dtype)
    inside = threat.contains(images.double(), clean)
    return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), images, x)


def standing(model: Classifier, images: Tensor, y: Tensor, clean: Clean) -> Tensor:
    """Share of draws in which each image is classified correctly, a tie being an error."""
    seen = evaluate_clean(model, images, y, Key.of(1), draws=DRAWS).right
    if model.stochastic:  # the better of two noisy means would be too low
        return seen
    return torch.minimum(seen, clean.right)


def opposed(name: str, model: Classifier, threat: Ball, x: Tensor, y: Tensor, clean: Clean) -> Entry:
    """One opponent on the images that are classified correctly."""
    rows, images = (clean.right > 0).nonzero().flatten(), x.clone()
    torch.manual_seed(0)
    attack = opponents(model, threat)[name]
    began = time.process_time()
    found = attack(x[rows].clone(), y[rows].clone()).detach()
    seconds = time.process_time() - began
    images[rows] = within(found, x[rows], threat)
    return {"standing": standing(model, images, y, clean).tolist(), "seconds": seconds}


def suited(level: str, model: Classifier, threat: Ball, x: Tensor, y: Tensor, clean: Clean) -> Entry:
    """One suite."""
    began = time.process_time()
    found = evaluate_suite(model, level, threat, x, y, clean, Key.of(0), draws=DRAWS)
    seconds = time.process_time() - began
    shown = ("name", "attacked", "broke", "seconds")
    members = [{key: member[key] for key in shown} for member in found.members]
    return {"standing": found.attacked.right.tolist(), "seconds": seconds, "members": members}


def measure(path: Path, threat: Ball, options: argparse.Namespace) -> None:
    """Run what is missing, and write it down after every attack."""
    model, whole = load(path), dataset_of(path, None, None).test
    test = ClassProportional()(whole, options.examples)
    kind = next(name for name, each in THREATS.items() if isinstance(threat, each))
    clean = evaluate_clean(model, test.images, test.labels, Key.of(0), draws=DRAWS)
    file = options.out / f"{path.name[:12]}-{kind}-{threat.epsilon:.4g}-{options.examples}.json"
    spec = model.spec
    parts = (spec.network, spec.encoder, spec.decoder, spec.neuron)
    record: dict[str, Any] = {
        "model": ", ".join(type(part).__name__ for part in parts),
        "threat": kind,
        "epsilon": threat.epsilon,
        "clean": clean.right.tolist(),
        "versions": {name: version(name) for name in ("torch", "torchattacks", "foolbox")},
        "attacks": {},
    }
    if file.exists():
        record = json.loads(file.read_text())
    levels = [SUITE, LARGER] if options.extreme else [SUITE]
    for name in (*levels, *opponents(model, threat)):
        wanted = not options.only or any(each in name for each in options.only)
        if not wanted or (name in record["attacks"] and not any(each in name for each in options.again)):
            continue
        run = suited if name in levels else opposed
        record["attacks"][name] = run(name, model, threat, test.images, test.labels, clean)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1))
        part.replace(file)
        entry = record["attacks"][name]
        left = 100 * sum(entry["standing"]) / len(test.labels)
        print(
            f"{record['model']}: {name}: {left:.1f} in {entry['seconds']:.1f} s", file=sys.stderr, flush=True
        )


def _mean(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _rows(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The table of one budget."""
    names = list(dict.fromkeys(name for r in records for name in r["attacks"] if name not in (SUITE, LARGER)))
    heads = ["model", "clean", "suite", *names, "all opponents", "of what the suite left they break"]
    heads += ["suite, s", "opponents, s", "ratio"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for record in records:
        attacks, ours = record["attacks"], record["attacks"][SUITE]
        theirs = [attacks[name]["standing"] for name in names if name in attacks]
        union = [min(each) for each in zip(record["clean"], *theirs, strict=True)]
        more = sum(max(a - b, 0.0) for a, b in zip(ours["standing"], union, strict=True))
        seconds = sum(attacks[name]["seconds"] for name in names if name in attacks)
        least = min(_mean(each) for each in theirs)
        cells = [record["model"], f"{_mean(record['clean']):.1f}"]
        cells += [
            f"**{_mean(ours['standing']):.1f}**" + (" !" if least < _mean(ours["standing"]) - 0.01 else "")
        ]
        cells += [f"{_mean(attacks[name]['standing']):.1f}" if name in attacks else "" for name in names]
        cells += [f"{_mean(union):.1f}", f"{more:.0f}" if more == int(more) else f"{more:.1f}"]
        cells += [f"{ours['seconds']:.0f}", f"{seconds:.0f}", f"{ours['seconds'] / max(seconds, 1e-9):.2f}"]
        yield f"| {' | '.join(cells)} |"


def _levels(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The two suites, where both were run."""
    yield f"| model | threat | {SUITE} | {LARGER} | {SUITE}, s | {LARGER}, s |"
    yield f"|{'---|' * 6}"
    for record in records:
        attacks = record["attacks"]
        if LARGER in attacks:
            both = [attacks[level] for level in (SUITE, LARGER)]
            cells = [record["model"], f"{record['threat']} {record['epsilon']:.3g}"]
            cells += [f"{_mean(each['standing']):.1f}" for each in both]
            cells += [f"{each['seconds']:.0f}" for each in both]
            yield f"| {' | '.join(cells)} |"


def _members(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each member of the suite broke and took, in seconds of the clock, over all models."""
    yield "| member | models | broke | seconds |"
    yield f"|{'---|' * 4}"
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        for member in record["attacks"][SUITE]["members"]:
            found.setdefault(member["name"], []).append(member)
    for name, each in found.items():
        broke, seconds = sum(m["broke"] for m in each), sum(m["seconds"] for m in each)
        yield f"| {name} | {len(each)} | {broke:.1f} | {seconds:.0f} |"


def tables(out: Path) -> Iterator[str]:
    """All tables, of what was measured so far."""
    records = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    records = [record for record in records if SUITE in record["attacks"]]
    rivals = [record for record in records if set(record["attacks"]) - {SUITE, LARGER}]
    budgets = sorted({(list(THREATS).index(r["threat"]), r["epsilon"]) for r in rivals})
    for place, epsilon in budgets:
        kind = list(THREATS)[place]
        chosen = [r for r in rivals if (r["threat"], r["epsilon"]) == (kind, epsilon)]
        yield f"\n## {kind}, {epsilon:.4g}\n"
        yield from _rows(sorted(chosen, key=lambda r: r["model"]))
        yield ""
        yield from _members(chosen)
    yield "\n## Two suites\n"
    yield from _levels(records)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threat", default="linf", choices=THREATS)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--extreme", action="store_true", help="the larger suite as well")
    parser.add_argument("--only", nargs="*", default=[], help="attacks whose name holds one of these")
    parser.add_argument("--again", nargs="*", default=[], help="attacks to be run once more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in options.models:
        measure(path, THREATS[options.threat](parse_epsilon(options.epsilon)), options)
    print("\n".join(tables(options.out)))


if __name__ == "__main__":
    main()
