"""The claims about spike timing and robustness: effects, intervals and verdicts, from the stores of studies.

    spikeproof run claim-codes --out runs/claim-codes   # and so on, one run for each study of the claims
    python benchmarks/claims.py docs/results/claims.yaml runs

Prints for every claim a table of its models and a table of comparisons. The effect of a comparison is the
share of images that model a answers rightly minus `factor` times that of model b, on the same images, after
several trainings of both.

Interval: images and trainings are crossed random effects. With D[s, i] the difference on image i after
training s, the variance of the mean is estimated as var(mean over i) / S + var(mean over s) / I, which counts
the interaction twice, so the interval is too wide rather than too narrow; the degrees of freedom are those of
Satterthwaite. As in `spikeproof.statistics.compare_trainings`, z^2 / 2 images are added on which only model a
is right and as many on which only model b is, and the variance over trainings is at least what outcomes that
were not seen to differ leave open, so that no interval has width zero.

Verdict of a comparison that a claim says is positive: *supported* if the whole interval lies above 0,
*contradicted* if it lies below 0, otherwise *not shown*. A doubtful number is an upper bound, so trainings
after which the number of the larger side is doubtful are left out; if fewer than three remain, the verdict is
*not shown (doubt)*. Two doubts do not count here: that an effect is lost at 8 bits, since the number holds
for real-valued images, and that there are too few examples, which the interval accounts for. Verdict of a
claim: supported if all its deciding comparisons are, contradicted if one of them is, otherwise not shown; a
claim that something can be reached (`enough: one`) is supported if one of its comparisons is, contradicted if
all are.

    python benchmarks/claims.py --inverted runs/inverted-digits.npz  # digits with black and white exchanged
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.special import stdtrit

import spikeproof as sp
from spikeproof.experiments.read.gathered.corrupted import corruption_records
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import WORST_CASE, outcomes, records
from spikeproof.experiments.read.worst import columns_of
from spikeproof.experiments.run.store import Store

Array = NDArray[np.float64]
Parts = Mapping[str, str]

FEWEST_TRAININGS = 3
CLEAN, AUDITED, CORRUPTED = "clean", "audited", "corrupted"
USUAL = ("fgsm", "pgd", AUDITED)
ATTACKS = {
    "fgsm": ("fgsm",),
    "pgd": ("pgd",),
    "transferred": ("transfer",),
    "noise": ("noise", "gaussian-noise"),
}
"""The attacks that a measure is the mean over; FGSM and PGD are those with the published gradients."""
PUBLISHED = ("fgsm", "pgd")
NO_BOUNDS = ("effect lost at 8 bits", "too few examples")
"""Doubts that do not say that more attacks may lower a number."""
SUPPORTED, CONTRADICTED, NOT_SHOWN, DOUBT = "supported", "contradicted", "not shown", "not shown (doubt)"
TOO_FEW = "not shown (too few trainings)"


class Comparison(TypedDict):
    """One comparison of the file of claims."""

    study: str
    a: Parts
    b: Parts
    factor: NotRequired[float]
    measures: NotRequired[list[str]]
    against: NotRequired[str]


class Claim(TypedDict):
    """One claim: the studies whose models are shown, and what decides and what explains it.

    `enough` is `one` where the claim holds if one of its comparisons does; otherwise all have to.
    """

    title: str
    studies: list[str]
    enough: NotRequired[str]
    decides: list[Comparison]
    explains: NotRequired[list[Comparison]]


class Effect(NamedTuple):
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    @property
    def verdict(self) -> str:
        """What the interval says of a difference that is claimed to be positive."""
        return SUPPORTED if self.low > 0 else CONTRADICTED if self.high < 0 else NOT_SHOWN


def effect(difference: Array, factor: float = 1.0) -> Effect:
    """The mean of differences `[trainings, images]` in [-factor, 1], with an interval over both.

    Example:
        >>> print(effect(np.array([[0.0, 1.0] * 50, [1.0, 1.0] * 50, [1.0, 1.0] * 50])))
        +83.3 [+11.4, +149.1]
        >>> print(effect(np.zeros((3, 300))))
        +0.0 [-1.4, +1.4]
    """
    trainings, images = difference.shape
    squared, mean, by_image = NormalDist().inv_cdf(0.975) ** 2, float(difference.mean()), difference.mean(0)
    ends, total = np.array([-factor, 1.0]), images + squared
    centre = float(by_image.sum() + squared / 2 * ends.sum()) / total
    squares = ((by_image - centre) ** 2).sum() + squared / 2 * ((ends - centre) ** 2).sum()
    b = float(squares) / total**2
    a = (
        max(float(difference.mean(1).var(ddof=1)), squared / (images * (trainings * images + squared)))
        / trainings
    )
    freedom = (a + b) ** 2 / (a**2 / (trainings - 1) + b**2 / (images - 1))
    half = float(stdtrit(freedom, 0.975) * np.sqrt(a + b))
    return Effect(mean, min(mean, centre - half), max(mean, centre + half))


@dataclass(frozen=True)
class Outcomes:
    """A model under one measure: outcomes `[trainings, images]`, and which trainings are in doubt."""

    right: Array
    images: Array
    doubtful: NDArray[np.bool_]

    def __str__(self) -> str:
        doubts = f" ({self.doubtful.sum()}?)" if self.doubtful.any() else ""
        return f"{100 * self.right.mean():.1f}{doubts}"


class Study:
    """The finished run of a study.

    Args:
        directory: its output directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.store = directory, Store(directory)

    @cached_property
    def rows(self) -> list[Record]:
        """Its records."""
        return records(self.directory)

    @cached_property
    def worst(self) -> list[Record]:
        """The worst case of every model."""
        return [row for row in self.rows if row["attack"] == WORST_CASE]

    @cached_property
    def has_suite(self) -> bool:
        """Whether its worst cases rest on a suite."""
        return any(row["attack"].startswith("suite") for row in self.rows)

    @cached_property
    def corrupted(self) -> dict[str, list[str]]:
        """The cells of the corruptions of every model."""
        cells: dict[str, list[str]] = {}
        for row in corruption_records(self.directory):
            cells.setdefault(row["model"], []).append(row["cell"])
        return cells

    def outcomes(self, parts: Parts, measure: str) -> Outcomes | None:
        """The outcomes of the model with these parts, or None where the study does not measure them."""
        rows = [row for row in self.worst if has(row, parts)]
        if len({row["model"] for row in rows}) > len({row["seed"] for row in rows}):
            raise SystemExit(f"{dict(parts)} names several models of {self.directory.name}")
        found = {row["seed"]: table for row in rows if (table := self._table(row, measure))}
        if not found:
            return None
        tables = [found[seed] for seed in sorted(found)]
        doubtful = [measure == AUDITED and in_doubt(row) for row in rows]
        return Outcomes(np.stack([right for right, _ in tables]), tables[0][1], np.array(doubtful))

    def _table(self, worst: Record, measure: str) -> tuple[Array, Array] | None:
        """The outcome and the number of every image after one training."""
        if measure == AUDITED:
            return outcomes(self.directory, worst, self.rows) if self.has_suite else None
        tables = [columns_of(self.store.read(Path(cell).name)) for cell in self._cells(worst, measure)]
        return (np.mean([table["right"] for table in tables], 0), tables[0]["example"]) if tables else None

    def _cells(self, worst: Record, measure: str) -> Iterator[str]:
        """The cells that a measure is the mean over."""
        if measure == CLEAN:
            yield worst["clean_cell"]
        elif measure == CORRUPTED:
            yield from self.corrupted.get(worst["model"], [])
        else:
            for row in self.rows:
                if row["train_cell"] == worst["train_cell"] and row["attack"] != WORST_CASE:
                    attack = self.store.read(Path(row["cell"]).name).cell["spec"]["attack"]
                    if attack["name"] in ATTACKS[measure] and (
                        measure not in PUBLISHED or attack["backward"] == {"name": "spike-gated"}
                    ):
                        yield row["cell"]


def in_doubt(worst: Record) -> bool:
    """Whether more attacks may lower a number."""
    bounds = [text for text in worst["warnings"] if not text.startswith(NO_BOUNDS)]
    return worst["verdict"] != SUPPORTED and (bool(bounds) or not worst["warnings"])


def has(row: Record, parts: Parts) -> bool:
    """Whether a record is of a model with these parts; a part without options stands for itself with any."""
    columns: Mapping[str, object] = {**row}
    return all(
        columns[kind] == part or str(columns[kind]).split("(")[0] == part for kind, part in parts.items()
    )


class Compared(NamedTuple):
    """One comparison under one measure."""

    effect: Effect
    verdict: str


def compare(a: Outcomes, b: Outcomes, factor: float) -> Compared:
    """The effect of a comparison, and its verdict without the trainings whose numbers are in doubt."""
    if not np.array_equal(a.images, b.images) or a.right.shape != b.right.shape:
        raise SystemExit("the two models of a comparison were measured on different images or trainings")
    difference = a.right - factor * b.right
    if len(difference) < FEWEST_TRAININGS:
        return Compared(Effect(float(difference.mean()), -1.0, 1.0), TOO_FEW)
    found = effect(difference, factor)
    kept = ~(a if found.mean > 0 else b).doubtful
    if found.verdict == NOT_SHOWN or kept.all():
        return Compared(found, found.verdict)
    if kept.sum() < FEWEST_TRAININGS:
        return Compared(found, DOUBT)
    return Compared(found, effect(difference[kept], factor).verdict)


def overall(verdicts: Sequence[str], *, one_is_enough: bool) -> str:
    """The verdict of a claim by those of its deciding comparisons."""
    decided, other = (SUPPORTED, CONTRADICTED) if one_is_enough else (CONTRADICTED, SUPPORTED)
    if decided in verdicts:
        return decided
    return other if set(verdicts) == {other} else NOT_SHOWN


def print_models(name: str, study: Study) -> None:
    """The table of the models of a study: means over trainings, and the number of those in doubt."""
    kinds = [
        k
        for k in ("encoder", "neuron", "decoder", "rule")
        if len({str({**row}[k]) for row in study.worst}) > 1
    ]
    models = list(dict.fromkeys(tuple((kind, str({**row}[kind])) for kind in kinds) for row in study.worst))
    measures = [
        m for m in (CLEAN, *ATTACKS, CORRUPTED, AUDITED) if study.outcomes(dict(models[0]), m) is not None
    ]
    first = study.outcomes(dict(models[0]), CLEAN)
    assert first is not None
    print(f"\n`{name}`: {first.right.shape[0]} trainings, {first.right.shape[1]} images.\n")
    print(f"| {' | '.join(kinds)} | {' | '.join(measures)} |\n|{'---|' * (len(kinds) + len(measures))}")
    for model in models:
        values = [str(study.outcomes(dict(model), measure) or "") for measure in measures]
        print(f"| {' | '.join(part for _, part in model)} | {' | '.join(values)} |")


def print_comparisons(
    comparisons: Sequence[Comparison], studies: Mapping[str, Study]
) -> dict[str, list[str]]:
    """The table of some comparisons, one column per measure; returns their verdicts by measure."""
    measures = list(dict.fromkeys(m for c in comparisons for m in c.get("measures", USUAL) if m != CLEAN))
    verdicts: dict[str, list[str]] = {measure: [] for measure in measures}
    print(f"\n| comparison | {' | '.join((CLEAN, *measures))} |\n|{'---|' * (2 + len(measures))}")
    for comparison in comparisons:
        study = studies.get(comparison["study"])
        if study is None:
            continue
        a, b, factor = comparison["a"], comparison["b"], comparison.get("factor", 1.0)
        times = "" if factor == 1 else f"{factor:g} x "
        cells = [f"`{comparison['study']}`: {', '.join(a.values())} - {times}{', '.join(b.values())}"]
        for measure in (CLEAN, *measures):
            wanted = measure == CLEAN or measure in comparison.get("measures", USUAL)
            other = measure if measure == CLEAN else comparison.get("against", measure)
            left, right = study.outcomes(a, measure), study.outcomes(b, other)
            if not wanted or left is None or right is None:
                cells.append("")
            elif measure == CLEAN:
                cells.append(str(compare(left, right, 1.0).effect))
            else:
                result = compare(left, right, factor)
                verdicts[measure].append(result.verdict)
                against = "" if other == measure else f" against {other}"
                cells.append(f"{result.effect}{against}, {result.verdict}")
        print(f"| {' | '.join(cells)} |")
    return verdicts


def inverted(path: Path) -> None:
    """Write digits with black and white exchanged."""
    data = sp.Digits().load()
    parts = {"train": data.train, "val": data.validation, "test": data.test}
    arrays = {f"x_{name}": 1 - part.images.numpy() for name, part in parts.items()}
    arrays |= {f"y_{name}": part.labels.numpy() for name, part in parts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("claims", type=Path, nargs="?", help="the file of claims")
    parser.add_argument("runs", type=Path, nargs="?", help="the directory that holds the run of every study")
    parser.add_argument(
        "--inverted", type=Path, help="write digits with black and white exchanged to this .npz"
    )
    options = parser.parse_args()
    if options.inverted:
        inverted(options.inverted)
        return
    studies = {path.parent.name: Study(path.parent) for path in options.runs.glob("claim-*/study.json")}
    claims: list[Claim] = yaml.safe_load(options.claims.read_text())
    for claim in claims:
        print(f"\n## {claim['title']}")
        for name in claim["studies"]:
            if name in studies:
                print_models(name, studies[name])
        verdicts = print_comparisons(claim["decides"], studies)
        if "explains" in claim:
            print_comparisons(claim["explains"], studies)
        print()
        for measure, found in verdicts.items():
            if found:
                print(f"- {measure}: **{overall(found, one_is_enough=claim.get('enough') == 'one')}**")


if __name__ == "__main__":
    main()
