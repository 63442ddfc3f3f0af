"""What the command line shows: progress while a study runs, a summary and a table when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spikeproof.auditing.checks import DOUBTFUL, MARKS, PRELIMINARY, WITHHELD
from spikeproof.command.arguments import command_line
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.gathered.across_seeds import CLEAN, PARTS, SeedComparison, SeedMean
from spikeproof.experiments.read.ranking import Ranking, most_separating
from spikeproof.experiments.read.record import (
    CorruptionError,
    CorruptionRecord,
    DistanceRecord,
    ProbeRecord,
    Record,
    SpikeRecord,
    TransferGrid,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.run.driver import Alive, Listener, Summary
from spikeproof.experiments.run.executors import Failure, Progress
from spikeproof.experiments.study.cells import Cell, CellSpec
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.owned import is_owned
from spikeproof.report.tables import (
    ARCHITECTURE,
    MISSING,
    Budget,
    Headline,
    argmaxes,
    budgets,
    epsilon_text,
    far,
    headlines,
    interval,
    judged,
    label,
    number,
    percent,
    seeds,
    varying,
)
from spikeproof.report.trust import ranking_words
from spikeproof.statistics import Interval

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from spikeproof.auditing.signoff import Report
    from spikeproof.experiments.repair.repairs import Repaired
    from spikeproof.experiments.repair.signing import Mended

__all__ = ["listener", "print_next", "print_ranking", "print_records", "print_summary", "summary_words"]

SECONDS_BETWEEN_LINES = 5.0

SECONDS_BETWEEN_SIGNS = 30.0
"""Seconds without a line after which one says what is being computed, and how long the rest will take."""


@contextmanager
def listener() -> Iterator[Listener]:
    """Progress bars on a terminal, a plain line every few seconds elsewhere."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}"), transient=True) as bars:
        yield OnTerminal(bars)


class Lines(Listener):
    """Plain lines: what happens to be said, at most one every few seconds, and every failure."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.names: dict[str, str] = {}
        self.began = self.said = time.monotonic()
        self.left: float | None = None

    def planned(self, cells: Sequence[Cell]) -> None:
        self.total, self.done = len(cells), 0
        self.names = cell_names(cells)

    def kept(self, cell: Cell) -> None:
        self.done += 1

    def damaged(self, message: str) -> None:
        self.line(f"damaged: {message}")

    def noted(self, message: str) -> None:
        self.line(f"note: {message}")

    def progress(self, cell: Cell, progress: Progress) -> None:
        self.say(f"{self.names[cell.address]}: {_in_words(progress)}")

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        self.done += 1
        if failure is not None:
            self.line(f"failed: {self.names[cell.address]}: {failure.error}")
        self.say(self.names[cell.address])

    def retrying(self, cell: Cell, failure: Failure) -> None:
        self.line(f"once more in {failure.pause:.0f} s: {self.names[cell.address]}: {failure.error}")

    def alive(self, state: Alive) -> None:
        self.left = state.seconds_left
        busy = [
            f"{self.names[each.cell.address]} for {each.seconds:.0f} s"
            + (f" ({words})" if (words := _in_words(each.progress)) else "")
            for each in state.busy[:3]
        ]
        more = f" and {len(state.busy) - 3} more" if len(state.busy) > 3 else ""
        self.say(f"{', '.join(busy) or 'nothing'}{more}", SECONDS_BETWEEN_SIGNS)

    def say(self, words: str, apart: float = SECONDS_BETWEEN_LINES) -> None:
        now = time.monotonic()
        if now - self.said > apart:
            self.said = now
            self.line(
                f"{self.done} of {self.total} cells, {now - self.began:.0f} s, {_left(self.left)}; {words}"
            )

    def line(self, text: str) -> None:
        click.echo(text)
        sys.stdout.flush()


class OnTerminal(Lines):
    """One bar for the study and one for each model that is being trained."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self.bars = bars
        self.study = bars.add_task("cells", total=None, note="")
        self.training: dict[str, TaskID] = {}

    def planned(self, cells: Sequence[Cell]) -> None:
        super().planned(cells)
        self.bars.update(self.study, total=len(cells), completed=0)

    def kept(self, cell: Cell) -> None:
        self.bars.advance(self.study)

    def progress(self, cell: Cell, progress: Progress) -> None:
        if cell.address not in self.training:
            name = self.names[cell.address]
            self.training[cell.address] = self.bars.add_task(name, total=None, note="")
        total = progress.total or None  # a stage without parts shows that it goes on
        bar = self.training[cell.address]
        self.bars.update(bar, completed=progress.done, total=total, note=progress.note)

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        if cell.address in self.training:
            self.bars.remove_task(self.training.pop(cell.address))
        self.bars.update(self.study, advance=1, note=self.names[cell.address])
        if failure is not None:
            self.line(f"failed: {self.names[cell.address]}: {failure.error}")

    def retrying(self, cell: Cell, failure: Failure) -> None:
        if cell.address in self.training:
            self.bars.remove_task(self.training.pop(cell.address))
        super().retrying(cell, failure)

    def alive(self, state: Alive) -> None:
        self.bars.update(self.study, completed=state.done, note=_left(state.seconds_left))

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)


def _in_words(progress: Progress) -> str:
    """The progress of a cell, in words; nothing where none is known."""
    share = f"{progress.done} of {progress.total}" if progress.total else ""
    return ", ".join(filter(None, (share, progress.note)))


def _left(seconds: float | None) -> str:
    """How long the rest will take, in words."""
    if seconds is None:
        return "no forecast yet"
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


def cell_names(cells: Sequence[Cell]) -> dict[str, str]:
    """A few words for every cell, by address."""
    names: dict[str, str] = {}
    for cell in cells:
        spec = cell.spec
        if not cell.needs:
            model = spec["model"]
            shown = ("encoder",) if is_owned(model) else ("network", "neuron", "encoder", "decoder")
            parts = "/".join(model[axis]["name"] for axis in shown)
            names[cell.address] = f"train {parts}"
        else:
            names[cell.address] = (
                f"{_measured(cell.kind, spec)} on {names[cell.needs[0]].removeprefix('train ')}"
            )
    return names


def _measured(kind: CellKind, spec: CellSpec) -> str:
    """What a cell measures of its model, in a few words."""
    match kind:
        case CellKind.ATTACK:
            return f"{spec['attack']['name']} {spec['epsilon']:.3g}"
        case CellKind.CERTIFY:
            return f"{spec['certificate']['name']} {spec['epsilon']:.3g}"
        case CellKind.DISTANCE:
            return f"distance by {spec['attack']['name']}"
        case CellKind.PROBE:
            return f"probe {spec['probe']['name']}"
        case CellKind.ANALYSE:
            return f"{spec['analysis']['name']} {spec['epsilon']:.3g}"
        case CellKind.CORRUPT:
            return f"{spec['corruption']['name']} {spec['severity']}"
    return kind


def print_summary(summary: Summary) -> None:
    """The result of a run, in one line."""
    click.echo(summary_words(summary))


def summary_words(summary: Summary) -> str:
    """The result of a run, in words."""
    words = f"{summary.total} cells: {summary.computed} computed, {summary.kept} kept"
    if summary.failed:
        words += f", {summary.failed} failed and {summary.blocked} could not be tried"
    return words


def print_records(records: Sequence[Record]) -> None:
    """Clean accuracy and worst-case robust accuracy of every model, and the warnings in brief."""
    if not records:
        click.echo("No number is finished yet.")
        return
    axes, columns = varying(records) or ["encoder"], budgets(records)
    rows = headlines(records)
    worst = {budget: [row.worst[budget] for row in rows if budget in row.worst] for budget in columns}
    proved = [budget for budget in columns if any(map(_certified, worst[budget]))]
    head = [*axes, "clean"]
    for budget in columns:
        head += [f"{budget.threat} {epsilon_text(budget.epsilon)}", *(["proved"] if budget in proved else [])]
    lines = [_line(row, axes, columns, proved) for row in rows]
    exits = any((row["mean_exit"] or row["steps"]) < row["steps"] for row in records)
    if exits:
        head.append("exit")
        lines = [[*line, number(row.model["mean_exit"], 2)] for line, row in zip(lines, rows, strict=True)]
    _print_columns([head, *lines], len(axes))
    first = records[0]
    click.echo(f"\nAccuracy in % on {first['n']} images of {first['dataset']}; ties count as errors.")
    if exits:
        click.echo("Exit: the mean number of time steps until a clean image is decided.")
    if proved:
        click.echo("Proved: a lower bound, where the number before it is an upper one.")
    if columns:
        click.echo("Under attack: the worst case over all attacks of the study, image by image.")
        verdicts = {row["verdict"] for row in records}
        _print_marks(verdicts, any(row["nested"] for row in records), "the reasons below")
    for text in _argmax(rows, axes, columns):
        click.echo(text)
    for warning in _warnings(records):
        click.echo(f"warning: {warning}")
    if count := sum(row["before_verdict"] is not None for row in records):
        click.echo(
            f"{count} of these numbers were tried again by `spikeproof audit`; with --verdicts it says what "
            "they were before."
        )


def _argmax(rows: Sequence[Headline], axes: Sequence[str], columns: Sequence[Budget]) -> list[str]:
    """The accuracy by argmax of every model that has ties."""
    lines = [
        f"  {', '.join(_parts(row.model, axes))}: {argmaxes(row, columns)}"
        for row in rows
        if row.model["tie_share"] or any(worst["adversarial_tie_share"] for worst in row.worst.values())
    ]
    head = "With the first of the best classes for an answer, clean and at each budget, where there are ties:"
    return [head, *lines] if lines else []


def _print_marks(verdicts: set[str | None], nested: bool, reasons: str) -> None:
    if PRELIMINARY in verdicts:
        click.echo(f"{MARKS[PRELIMINARY]}: preliminary; too few attacks ran for the verdict supported.")
    if DOUBTFUL in verdicts:
        click.echo(f"A question mark: doubtful, for {reasons}; docs/audit.md explains them.")
    if nested:
        click.echo("Nested: each budget began with the adversarial images found within the smaller one.")


MOST_RANKED = 5
"""Models that the ranking names on a terminal."""


def print_ranking(ranked: Sequence[Ranking], records: Sequence[Record]) -> None:
    """The first models at the budget that separates them most, and what the paired tests show.

    Nothing is printed where there are no two models to compare.

    Args:
        ranked: the rankings of a study.
        records: its headline numbers.
    """
    top, axes = most_separating(ranked), varying(records) or ["encoder"]
    if top is None:
        return
    click.echo(f"\nRanking at {top.threat} {epsilon_text(top.epsilon)}, worst case with 95 % intervals:")
    for rank, row in enumerate(top.rows[:MOST_RANKED]):
        ends = interval(row["ci_low"], row["ci_high"])
        words = "  less robust than the first" if rank in top.below_first else ""
        click.echo(f"{rank + 1:3}. {judged(row):>6} {ends:14} {label(row, axes)}{words}")
    if len(top.rows) > MOST_RANKED:
        click.echo(f"     and {len(top.rows) - MOST_RANKED} more")
    for words in ranking_words(ranked, axes):
        click.echo(words)


def print_next(
    directory: Path, records: Sequence[Record], make: Sequence[str] = (), data: Path | None = None
) -> None:
    """A hint at the most useful next command for a study.

    Args:
        directory: the output directory of the run.
        records: its headline numbers.
        make: programs that make models of the study, which run only where they are named.
        data: the directory that holds data sets, if the command named one.
    """
    worst = [row for row in records if row["attack"] == WORST_CASE]
    lacking = {name for row in worst for name in row["missing"]}
    open_ones = [row for row in worst if row["verdict"] in MARKS]
    untried = [row for row in open_ones if row["before_verdict"] is None]
    if not worst:
        words = "add a suite and budgets to the study (suite: standard, epsilons: [8/255]) and run it again"
    elif lacking:
        words = f"the same command again; it tries {', '.join(sorted(lacking))} again"
    elif untried:
        again = command_line("audit", directory, make=make, data=data)
        words = f"{again}; it attacks again where a number is not supported ({len(untried)} of {len(worst)})"
    elif open_ones or any(row["verdict"] == WITHHELD for row in worst):
        words = f"{command_line('audit', directory, '--verdicts')}; it prints the reasons of every verdict"
    else:
        words = f"{command_line('show', directory, '--comparisons')}; every number is supported"
    click.echo(f"next: {words}")


def print_seeds(records: Sequence[Record], *, explained: bool = False) -> None:
    """Means over seeds with the interval of training again; nothing where each model was trained once.

    Args:
        records: of one study.
        explained: whether the marks of its numbers are explained elsewhere.
    """
    found = seeds(records)
    if not found:
        return
    axes = [axis for axis in varying(records) if axis in ARCHITECTURE] or ["encoder"]
    columns = budgets(records)
    under = [f"{threat} {epsilon_text(epsilon)}" for threat, epsilon in columns]
    head = [*axes, "seeds", "n", "clean", *under]
    lines = []
    for row in found:
        means = [_mean(row.clean)]
        for budget in columns:
            verdict = DOUBTFUL if budget in row.doubtful else PRELIMINARY if budget in row.preliminary else ""
            mark = MARKS.get(verdict, "") + (" nested" if budget in row.nested else "")
            means.append(_mean(row.worst[budget]) + mark if budget in row.worst else MISSING)
        lines.append([*_parts(row.model, axes), str(row.trainings), row.n, *means])
    click.echo("\nMeans over seeds with the 95 % interval of training again; n: images per seed:")
    _print_columns([head, *lines], len(head))
    if not explained:
        verdicts: set[str | None] = {DOUBTFUL} if any(row.doubtful for row in found) else set()
        verdicts |= {PRELIMINARY} if any(row.preliminary for row in found) else set()
        _print_marks(verdicts, any(row.nested for row in found), "reasons that `spikeproof show` names")


def _mean(mean: tuple[float, Interval | None]) -> str:
    value, ends = mean
    return percent(value) if ends is None else f"{percent(value)} {interval(*ends)}"


def print_trainings(means: Sequence[SeedMean]) -> None:
    """Means over seeds, with the intervals for other trainings and for other trainings on other images."""
    if not means:
        return
    parts = ("dataset", *PARTS)
    axes = [part for part in parts if len({str(dict(row)[part]) for row in means}) > 1] or ["encoder"]
    click.echo("\nMean accuracy in % over seeds:")
    lines = [[*axes, "budget", "seeds", "n", "mean", "other trainings", "and other images", "single seeds"]]
    for row in means:
        verdict = DOUBTFUL if row["doubtful"] else PRELIMINARY if row["preliminary"] else ""
        lines.append(
            [
                *_parts(row, axes),
                _budget_words(row["threat"], row["epsilon"]),
                str(len(row["seeds"])),
                str(row["n"]),
                percent(row["mean"]) + MARKS.get(verdict, ""),
                interval(row["training_low"], row["training_high"]),
                interval(row["low"], row["high"]),
                interval(row["lowest"], row["highest"]),
            ]
        )
    _print_columns(lines, len(axes) + 1)
    click.echo(
        "95 % intervals: for another training on the same images (Student's t over seeds), and for another "
        "training\non other images, which a claim about the architecture needs."
    )
    verdicts: set[str | None] = {DOUBTFUL} if any(row["doubtful"] for row in means) else set()
    verdicts |= {PRELIMINARY} if any(row["preliminary"] for row in means) else set()
    _print_marks(verdicts, False, "reasons that `spikeproof show` names")


def print_training_comparisons(pairs: Sequence[SeedComparison]) -> None:
    """One sentence per pair of architectures, over trainings, under a heading for each budget and part."""
    heading = ""
    for pair in pairs:
        now = (
            f"{_budget_words(pair['threat'], pair['epsilon'])}, by {pair['part']}, over trainings and images:"
        )
        if now != heading:
            click.echo(f"\n{now}")
            heading = now
        click.echo(f"  {pair['sentence']}" + (f" ({pair['others']})" if pair["others"] else ""))


def _budget_words(threat: str, epsilon: float) -> str:
    return "clean" if threat == CLEAN else f"{threat} {epsilon_text(epsilon)}"


def print_probes(records: Sequence[ProbeRecord]) -> None:
    """Accuracy of every model under every timing probe; nothing where there is none."""
    if not records:
        return
    axes, names = varying(records) or ["encoder"], list(dict.fromkeys(row["probe"] for row in records))
    rows: dict[str, dict[str, ProbeRecord]] = {}
    for record in records:
        rows.setdefault(record["model"], {})[record["probe"]] = record
    click.echo("\nAccuracy in % when a timing probe changes the spike trains of the input:")
    lines = [[*axes, "clean", *names]]
    for found in rows.values():
        first = next(iter(found.values()))
        accuracies = [percent(found[name]["accuracy"]) if name in found else MISSING for name in names]
        lines.append([*_parts(first, axes), percent(first["clean_accuracy"]), *accuracies])
    _print_columns(lines, len(axes))


def print_corruptions(records: Sequence[CorruptionRecord]) -> None:
    """Accuracy of every model under every natural corruption by severity; nothing where there is none."""
    if not records:
        return
    axes, severities = varying(records) or ["encoder"], sorted({row["severity"] for row in records})
    rows: dict[tuple[str, str], dict[int, CorruptionRecord]] = {}
    for record in records:
        rows.setdefault((record["model"], record["corruption"]), {})[record["severity"]] = record
    click.echo("\nAccuracy in % under natural corruptions by severity; there is no attacker:")
    lines = [[*axes, "corruption", "clean", *map(str, severities), "mean"]]
    for (_, corruption), found in rows.items():
        first = next(iter(found.values()))
        whole = len(found) == len(severities)
        mean = sum(row["accuracy"] for row in found.values()) / len(found)
        lines.append(
            [
                *_parts(first, axes),
                corruption,
                percent(first["clean_accuracy"]),
                *(percent(found[s]["accuracy"]) if s in found else MISSING for s in severities),
                percent(mean) if whole else MISSING,
            ]
        )
    _print_columns(lines, len(axes) + 1)


def print_corruption_errors(records: Sequence[CorruptionError]) -> None:
    """The mean corruption error of every model; nothing where there is none."""
    if not records:
        return
    axes, named = varying(records) or ["encoder"], any(row["baseline"] for row in records)
    click.echo("\nMean error in % over corruptions and severities, with its 95 % interval:")
    lines = [[*axes, "clean error", "corruption error", *(["mCE", "relative mCE"] if named else [])]]
    for row in records:
        ends = interval(row["error_low"], row["error_high"]) if row["error"] is not None else ""
        line = [
            *_parts(row, axes),
            percent(1 - row["clean_accuracy"]),
            f"{percent(row['error'])} {ends}".strip(),
        ]
        lines.append(line + ([percent(row["normalised"]), percent(row["relative"])] if named else []))
    _print_columns(lines, len(axes))
    if named:
        base = next(row["baseline"] for row in records if row["baseline"])
        click.echo(
            f"mCE: error divided by that of {base}, in %, mean over corruptions; relative: beyond clean."
        )
    if lacking := [each for row in records for each in row["missing"]]:
        click.echo(f"Not finished: {', '.join(dict.fromkeys(lacking))}; `spikeproof run` computes them.")


def print_transfers(grids: Sequence[TransferGrid]) -> None:
    """Accuracy of every model on images made on every model; nothing where the study has no such grid."""
    for grid in grids:
        seed = f", seed {grid['seed']}" if len({each["seed"] for each in grids}) > 1 else ""
        click.echo(
            f"\nAccuracy in % of the model above on images made on the model at the left, {grid['attack']}, "
            f"{grid['threat']} {epsilon_text(grid['epsilon'])}{seed}:"
        )
        lines = [["made on", *grid["models"]], ["clean images", *map(percent, grid["clean"])]]
        for name, row in zip(grid["models"], grid["accuracy"], strict=True):
            lines.append([name, *map(percent, row)])
        _print_columns(lines, 1)
    if grids:
        click.echo("On the diagonal the attack sees the model itself. An entry is one attack, no worst case.")


def _parts(model: Mapping[str, object], axes: Sequence[str]) -> list[str]:
    """The parts of a model on the axes on which models differ."""
    return [str(model[axis]) for axis in axes]


def _print_columns(lines: Sequence[Sequence[str]], words: int) -> None:
    """Lines in columns: the first ones are words and begin on the left, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<"] * words + [">"] * (len(widths) - words)
    for line in lines:
        padded = [f"{t:{side}{w}}" for t, side, w in zip(line, sides, widths, strict=True)]
        click.echo("  ".join(padded).rstrip())


def print_distances(records: Sequence[DistanceRecord]) -> None:
    """Median distance of the nearest adversarial images of every model; nothing where none was asked for."""
    if not records:
        return
    axes = varying(records) or ["encoder"]
    click.echo("\nMedian distance of the nearest adversarial image, with its 95 % interval; an upper bound:")
    lines = [[*_parts(row, axes), row["threat"], row["attack"], far(row)] for row in records]
    _print_columns(lines, len(axes) + 3)


def print_spikes(records: Sequence[SpikeRecord]) -> None:
    """What an attack does to the spikes of every model, layer by layer; nothing where none was asked for."""
    if not records:
        return
    axes = varying(records) or ["encoder"]
    if len({row["analysis"] for row in records}) > 1:
        axes = [*axes, "analysis"]
    click.echo(
        "\nSpikes per neuron, clean and attacked; spikes that the attack adds or removes, and by how much it "
        "moves the rest;\nbits that a neuron tells of the class by its count and by its first spike, and in "
        "brackets what is left of\nthem with shuffled labels, which is no information:"
    )
    lines = [[*axes, "budget", "layer", "clean", "attacked", "added", "moved", "count", "first"]]
    for row in records:
        for layer in row["layers"]:
            lines.append(
                [
                    *_parts(row, axes),
                    f"{row['threat']} {epsilon_text(row['epsilon'])}",
                    layer["layer"],
                    *(number(layer[name], 3) for name in ("rate", "attacked_rate", "counts", "times")),
                    *(
                        f"{number(layer['bits'].get(name), 3)} ({number(layer['shuffled'].get(name), 3)})"
                        for name in ("counts", "first spikes")
                    ),
                ]
            )
    _print_columns(lines, len(axes) + 2)
    click.echo(
        "\nOperations and energy of an inference up to the decision, clean and attacked, means per image:"
    )
    lines = [[*axes, "budget", "accumulates", "multiplies", "nJ", "steps", "attacked nJ", "attacked steps"]]
    for row in records:
        cost, attacked = row["cost"], row["attacked_cost"]
        lines.append(
            [
                *_parts(row, axes),
                f"{row['threat']} {epsilon_text(row['epsilon'])}",
                number(cost["accumulates"], 0),
                number(cost["multiplies"], 0),
                number(cost["picojoules"] / 1000, 2),
                number(cost["steps"], 2),
                number(attacked["picojoules"] / 1000, 2),
                number(attacked["steps"], 2),
            ]
        )
    _print_columns(lines, len(axes) + 1)


def print_comparisons(pairs: Sequence[Compared]) -> None:
    """One sentence per pair of models, under a heading for each budget and part."""
    click.echo()
    if not pairs:
        click.echo(
            "No two models of this study differ in one part only and have a number that can be compared."
        )
    heading = ""
    for pair in pairs:
        now = f"{pair['threat']} {epsilon_text(pair['epsilon'])}, by {pair['part']}:"
        if now != heading:
            click.echo(now)
            heading = now
        click.echo(f"  {pair['sentence']}" + (f" ({pair['others']})" if pair["others"] else ""))


def print_signed(found: Sequence[Report]) -> None:
    """Robust accuracy, interval, certificate and verdict per budget, and what each attack contributed."""
    from spikeproof.auditing.signoff import threat_name

    for each in found:
        epsilon, name = epsilon_text(each.threat.epsilon), threat_name(each.threat)
        certified = MISSING if each.certified is None else f"{percent(each.certified)} %"
        click.echo(f"\n{name} {epsilon}, suite {each.suite}, {each.n} images")
        click.echo(f"  clean      {percent(each.clean_accuracy)} %, by argmax {percent(each.clean_argmax)} %")
        if each.verdict.verdict == WITHHELD:
            click.echo("  robust     withheld")
        else:
            low, high = (percent(end) for end in each.interval)
            click.echo(f"  robust     {percent(each.accuracy)} %  [{low}, {high}], an upper bound")
            click.echo(f"  by argmax  {percent(each.argmax)} %, if the first of the best classes counts")
        click.echo(f"  certified  {certified}, a lower bound")
        click.echo(f"  verdict    {each.verdict.verdict}")
        for finding in (*each.verdict.findings, *each.verdict.notes):
            click.echo(f"    {finding.check}: {finding.why}")
        click.echo(f"  {'attack':22} {'on':>6} {'broke':>7} {'left %':>7} {'seconds':>8}")
        for member in each.members:
            numbers = f"{member['attacked']:6} {member['broke']:7.1f} {percent(member['left']):>7}"
            click.echo(f"  {member['name']:22} {numbers} {member['seconds']:8.1f}")


def print_repaired(found: Sequence[Mended]) -> None:
    """Every number; for one that was not supported, also the further attacks, their reasons and results."""
    for each in found:
        print_signed([each.first])
        for attempt in each.attempts:
            click.echo(
                f"tried because of {attempt.check}: {attempt.name} leaves {percent(attempt.accuracy)} % "
                "in the worst case with all before it"
            )
        if each.attempts:
            first, last = each.first, each.last
            click.echo(
                f"changed: {percent(first.accuracy)} -> {percent(last.accuracy)} %, "
                f"{first.verdict.verdict} -> {last.verdict.verdict}"
            )
            for finding in last.verdict.findings:
                click.echo(f"    {finding.check}: {finding.why}")
        elif each.first.verdict.verdict == WITHHELD:
            click.echo("not repaired: the evaluation is wrong, and more attacks do not mend that")
        elif each.first.verdict.verdict in MARKS:
            click.echo("not repaired: no further attack of ours can settle this")


def print_verdicts(records: Sequence[Record], repaired: Sequence[Repaired] = ()) -> None:
    """The verdict on every headline number of a study, with its reasons, and what repairs changed."""
    if not records:
        click.echo("No number of this study is audited yet; run it to the end.")
        return
    axes = varying(records) or ["encoder"]
    mended = {(each["record"]["cell"], each["record"]["epsilon"]): each for each in repaired}
    for row in records:
        model = ", ".join(str(row[axis]) for axis in axes)  # type: ignore[literal-required]
        shown = MISSING if row["verdict"] == WITHHELD else percent(row["robust_accuracy"])
        click.echo(
            f"{row['verdict']:11}  {shown:>5} %  {row['threat']} {epsilon_text(row['epsilon'])}  {model}"
        )
        for reason in (*row["warnings"], *(f"note: {note}" for note in row["notes"])):
            click.echo(f"             {reason}")
        if (row["cell"], row["epsilon"]) in mended:
            _print_change(mended[row["cell"], row["epsilon"]])


def _print_change(repaired: Repaired) -> None:
    row = repaired["record"]
    click.echo(
        f"    before:  {percent(row['before_accuracy'])} % on {row['before_n']} images, "
        f"{row['before_verdict']}; now {percent(row['robust_accuracy'])} % on {row['n']}, {row['verdict']}"
    )
    for reason in row["before_warnings"]:
        if reason not in row["warnings"]:
            click.echo(f"             was: {reason}")
    for each in repaired["tried"]:
        left = "" if each["accuracy"] is None else f" leaves {percent(each['accuracy'])} %"
        click.echo(f"             tried because of {each['because']}: {each['attack']}{left}")


def _line(
    row: Headline, axes: Sequence[str], columns: Sequence[Budget], proved: Sequence[Budget]
) -> list[str]:
    line = [*_parts(row.model, axes), percent(row.model["clean_accuracy"])]
    for budget in columns:
        worst = row.worst.get(budget)
        line += [judged(worst), *([percent(worst and worst["certified"])] if budget in proved else [])]
    return line


def _certified(record: Record) -> bool:
    return (record["certified"] or 0) > 0


def _warnings(records: Sequence[Record]) -> list[str]:
    """The first warning of each kind, where it is, and how many others are like it."""
    kinds: dict[str, dict[str, None]] = {}
    for row in records:
        number = (
            f"{row['network']}, {row['encoder']}, {row['decoder']}, epsilon {epsilon_text(row['epsilon'])}"
        )
        for warning in row["warnings"]:
            kinds.setdefault(warning.split(":", 1)[0], {})[f"{warning} ({number})"] = None
    return [
        f"{first}; {len(kind) - 1} more like it in the report" if len(kind) > 1 else first
        for kind in kinds.values()
        for first in list(kind)[:1]
    ]
