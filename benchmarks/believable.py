"""Are the numbers of a study believable? Every number attacked again by far more, and by a search of its own.

    spikeproof run quickstart --out runs/quickstart
    cp -r runs/quickstart runs/single; spikeproof run quickstart --out runs/single suite=[]
    cp -r runs/quickstart runs/quick; spikeproof run quickstart --out runs/quick suite=quick
    python benchmarks/believable.py runs/quickstart --weaker runs/single runs/quick --out believable.md

For every model and budget of a study with the standard suite: the suite `extreme`, and on what it leaves a
greedy search over single pixels (each to either end of its budget, the best change kept, until no change
helps). The first table says how many numbers fall below the 95 % interval that was printed, by verdict. A
supported number should not fall; a doubt means something if many doubtful ones do. With `--weaker`, as much
is said of studies of the same models and images under weaker attacks. The last table holds the same model,
budget and images under changes that keep the function. What is measured goes to a file beside the study, and
a command that was stopped goes on from there; `--part 1/2` and `--part 2/2` share the work between two
processes, and a last call without `--part` writes the page.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import spikeproof as sp
from spikeproof.datasets import Split
from spikeproof.decoders import decide
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import records
from spikeproof.losses import Margin
from spikeproof.networks import Classifier
from spikeproof.threats import Linf

KEY = sp.Key.of(0)


class Number(NamedTuple):
    """One headline number of the study, and what more attacks leave of it."""

    model: str
    epsilon: float
    verdict: str
    printed: float
    low: float
    extreme: float
    greedy: float

    @property
    def falls(self) -> bool:
        return self.greedy < self.low


def greedy(model: Classifier, x: Tensor, y: Tensor, x_adv: Tensor, epsilon: float, rounds: int) -> Tensor:
    """Images after a greedy search over single pixels from `x_adv`, one image at a time."""
    low, high = (x - epsilon).clamp(min=0), (x + epsilon).clamp(max=1)
    found = x_adv.clone()
    for row in range(len(x)):
        now, size = found[row].flatten(), x[row].numel()
        for _ in range(rounds):
            changes = now.repeat(2 * size, 1)
            index = torch.arange(size)
            changes[index, index] = low[row].flatten()
            changes[index + size, index] = high[row].flatten()
            logits = model(changes.view(-1, *x.shape[1:]), KEY.for_rows([row] * (2 * size)))
            margins = Margin()(logits, y[row].expand(2 * size))
            before = Margin()(model(now.view(1, *x.shape[1:]), KEY.for_rows([row])), y[row : row + 1])
            fooled = (decide(logits) != y[row]).nonzero().flatten()
            best = int(fooled[0]) if len(fooled) else int(margins.argmax())
            if not len(fooled) and float(margins[best]) <= float(before):
                break
            now = changes[best]
            if len(fooled):
                break
        found[row] = now.view(x.shape[1:])
    return found


class Notes:
    """What has been measured, each under a name, in a file of one line each.

    Args:
        path: of the file; processes that share the work have one each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[object]] = {}
        for each in path.parent.glob("believable*.jsonl"):
            for line in each.read_text("utf-8").splitlines():
                name, found = json.loads(line)
                self.known[name] = found

    def of(self, name: str, measured: Callable[[], Sequence[object]]) -> list[object]:
        if name not in self.known:
            self.known[name] = list(measured())
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, self.known[name]]) + "\n")
            print(name, *self.known[name], file=sys.stderr, flush=True)
        return self.known[name]


def measure(directory: Path, examples: int, rounds: int, notes: Notes, share: slice) -> Iterator[Number]:
    rows = [row for row in records(directory) if row["attack"] == "worst-case" and not row["stochastic"]]
    data = sp.Digits().load()
    part = sp.ClassProportional()(data.test, examples)
    for row in rows[share]:

        def number(row: Record = row) -> tuple[float, float]:
            return left_by_more(row, part, rounds)

        extreme, left = (float(str(each)) for each in notes.of(f"{row['cell']} {examples} {rounds}", number))
        yield Number(
            f"{row['encoder']}, {row['decoder']}",
            row["epsilon"],
            str(row["verdict"]),
            row["robust_accuracy"],
            row["ci_low"],
            extreme,
            left,
        )


VERDICTS = ("supported", "preliminary", "doubtful")


def counted(falls: Sequence[tuple[str, bool]]) -> list[str]:
    """By verdict, how many numbers there are, and how many of them fall."""
    lines = ["| verdict | numbers | fall below their interval | share |", "|---|---|---|---|"]
    for verdict in VERDICTS:
        some = [fell for each, fell in falls if each == verdict]
        share = f"{100 * sum(some) / len(some):.0f} %" if some else "none"
        lines.append(f"| {verdict} | {len(some)} | {sum(some)} | {share} |")
    return lines


def weaker(study: Path, directory: Path) -> list[tuple[str, bool]]:
    """Per number of a study under weaker attacks: its verdict, and whether the suite of `study` lowers it."""

    def numbers(of: Path) -> dict[tuple[str, ...], Record]:
        return {
            tuple(str(row[name]) for name in ("encoder", "decoder", "neuron", "epsilon")): row
            for row in records(of)
            if row["attack"] == "worst-case"
        }

    strong = numbers(study)
    return [
        (str(row["verdict"]), strong[name]["robust_accuracy"] < row["ci_low"])
        for name, row in numbers(directory).items()
        if row["epsilon"] > 0
    ]


def left_by_more(row: Record, part: Split, rounds: int) -> tuple[float, float]:
    """The accuracy that the suite `extreme` leaves, and that the greedy search after it leaves."""
    model = sp.load(row["model"])
    threat = Linf(row["epsilon"])
    report = sp.audit(model, part.images, part.labels, threat, "extreme", key=KEY)
    attacked = report.suited.attacked
    standing = (attacked.right > 0).nonzero().flatten()
    with torch.no_grad():
        x, y = part.images[standing], part.labels[standing]
        images = greedy(model, x, y, report.images[standing], row["epsilon"], rounds)
        assert threat.contains(images, x).all()
        left = int((decide(model(images)) == y).sum()) if len(standing) else 0
    return report.accuracy, left / len(part.labels)


def scaled(model: Classifier, factor: float) -> Classifier:
    """Every current and every threshold times a factor: the same spikes at the same times."""
    neuron = replace(model.spec.neuron, threshold=factor)
    spec = replace(model.spec, neuron=neuron)
    twin = spec.build(KEY)
    twin.load_state_dict({name: value * factor for name, value in model.state_dict().items()})
    return twin.eval()


def permuted(model: Classifier) -> Classifier:
    """The hidden neurons in another order."""
    twin = copy.deepcopy(model)
    first, second = (m for m in twin.modules() if isinstance(m, torch.nn.Linear))
    order = torch.randperm(len(first.weight), generator=torch.Generator().manual_seed(3))
    first.weight.data, first.bias.data = first.weight.data[order], first.bias.data[order]
    second.weight.data = second.weight.data[:, order]
    return twin


Change = Callable[[Classifier], Callable[[Tensor], Tensor]]

CHANGES: dict[str, Change] = {
    "the model itself": lambda model: model,
    "weights and threshold times 32": lambda model: scaled(model, 32.0),
    "weights and threshold divided by 128": lambda model: scaled(model, 1 / 128),
    "hidden neurons permuted": permuted,
    "as a plain function": lambda model: lambda images: model(images),
    "as a plain function, logits times 1e-7": lambda model: lambda images: model(images) * 1e-7,
    "as a plain function, logits times 1e6": lambda model: lambda images: model(images) * 1e6,
    "as a plain function, logits plus 64": lambda model: lambda images: model(images) + 64,
    "as a plain function, logits of half precision": lambda model: (
        lambda images: model(images).bfloat16().float()
    ),
}


def invariance(
    directory: Path, examples: int, epsilon: float, every: int, notes: Notes, share: slice
) -> dict[str, list[tuple[float, str]]]:
    """Change -> per model the robust accuracy and the verdict under the standard suite."""
    rows = [row for row in records(directory) if row["neuron"] != "relu" and not row["stochastic"]]
    named = {f"{row['encoder']}, {row['decoder']}": row["model"] for row in rows}
    models = dict(list(named.items())[::every][share])
    part = sp.ClassProportional()(sp.Digits().load().test, examples)
    found: dict[str, list[tuple[float, str]]] = {"": [(float("nan"), name) for name in models]}
    for change, make in CHANGES.items():
        found[change] = []
        for path in models.values():

            def cell(path: str = path, make: Change = make) -> tuple[float, str]:
                report = sp.audit(make(sp.load(path)), part.images, part.labels, Linf(epsilon), key=KEY)
                return report.accuracy, report.verdict.verdict

            accuracy, verdict = notes.of(f"{change} {path} {examples} {epsilon}", cell)
            found[change].append((float(str(accuracy)), str(verdict)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "study", type=Path, help="output directory of a study on digits with the standard suite"
    )
    parser.add_argument(
        "--weaker", type=Path, nargs="*", default=[], help="studies of the same models under weaker attacks"
    )
    parser.add_argument("--examples", type=int, default=150, help="test images for the attacks that follow")
    parser.add_argument("--invariant", type=int, default=60, help="test images for the table of invariances")
    parser.add_argument("--every", type=int, default=1, help="which models it holds: every so many")
    parser.add_argument("--rounds", type=int, default=30, help="most pixels that the greedy search changes")
    parser.add_argument("--epsilon", type=float, default=0.1, help="budget of the table of invariances")
    parser.add_argument("--part", help="which part of the work, such as 1/2; nothing is written to --out")
    parser.add_argument("--out", type=Path, help="write Markdown there, between the lines that mark it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    which, _, parts = (options.part or "1/1").partition("/")
    share = slice(int(which) - 1, None, int(parts))
    notes = Notes(options.study / f"believable-{which}-of-{parts}.jsonl")
    numbers = list(measure(options.study, options.examples, options.rounds, notes, share))
    lines = counted([(n.verdict, n.falls) for n in numbers])
    lines += [
        "",
        "| model | epsilon | printed | from | extreme | and greedy | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for n in numbers:
        shares = " | ".join(f"{100 * v:.1f}" for v in (n.printed, n.low, n.extreme, n.greedy))
        lines.append(f"| {n.model} | {n.epsilon:g} | {shares} | {n.verdict} |")
    for directory in options.weaker:
        lines += ["", f"`{directory.name}`, against the suite of `{options.study.name}`:", ""]
        lines += counted(weaker(options.study, directory))
    table = invariance(options.study, options.invariant, options.epsilon, options.every, notes, share)
    names = [name for _, name in table.pop("")]
    lines += ["", f"| linf {options.epsilon:g} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for change, cells in table.items():
        lines.append(f"| {change} | {' | '.join(f'{100 * a:.1f} {v}' for a, v in cells)} |")
    print(f"{time.process_time() - began:.0f} s of one core.", file=sys.stderr)
    text = "\n".join(lines) + "\n"
    if options.out is not None and options.part is None:
        head = options.out.read_text("utf-8").split("<!-- measured -->")[0] if options.out.exists() else ""
        options.out.write_text(f"{head}<!-- measured -->\n\n{text}", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
