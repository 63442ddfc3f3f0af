"""Computing one cell: from its spec, the data and the weights of the model to the files of its directory.

Every cell is computed on a single thread of the processor, wherever it runs. Sums of floating-point numbers
depend on how they are split among threads, so this is what makes a result independent of the machine's number
of cores; several cores are used by computing several cells at a time.
"""

from __future__ import annotations

import gc
import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import torch
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from spikeproof.analysis.spike_analysis import Analysis, SpikeAnalysis
from spikeproof.attacks.made_of.nested import Carried, Nested
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.auditing.assess import DIAGNOSED
from spikeproof.auditing.backdoors import (
    LEAST_CLASSES,
    BackdoorMetrics,
    Suspicion,
    backdoor_metrics,
    margin_test,
)
from spikeproof.auditing.diagnostics import diagnose
from spikeproof.catalogue.extensions import packages
from spikeproof.catalogue.given import fingerprint_of
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.others import Saved, fingerprint, read_saved
from spikeproof.catalogue.saved import dump_model, load
from spikeproof.compiled import (
    Loops,
    chosen_loops,
    chosen_span,
    keeping_memory,
    using_loops,
    using_spans,
    why_not_compiled,
)
from spikeproof.corruptions import Corruption
from spikeproof.datasets import ClassProportional, Dataset, Sample, Split, floats
from spikeproof.datasets.intake.copies import effective, groups_of
from spikeproof.encoders import Direct
from spikeproof.errors import DamagedError, InputError, out_of_memory
from spikeproof.evaluation.certificates import ROWS, Certificate, Certified
from spikeproof.evaluation.columns import stored, subset
from spikeproof.evaluation.distances import Nearest, evaluate_distances
from spikeproof.evaluation.interim import Interim
from spikeproof.evaluation.outcomes import Attacked, Clean
from spikeproof.evaluation.suites import Suite, evaluate_suite, plan
from spikeproof.evaluation.through import made_on, settled, through, validated
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean, evaluate_corrupted
from spikeproof.experiments.run.parquet import TABLE, table
from spikeproof.experiments.run.queue.labour import checkpoint
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.experiments.run.shapes import FORMAT
from spikeproof.experiments.run.store import Store, Stored, as_json
from spikeproof.experiments.run.unfinished import Unfinished
from spikeproof.experiments.study.cells import (
    Cell,
    CellSpec,
    Plain,
    SavedSource,
    data_of,
    is_nested,
    plan_digest,
)
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.owned import is_owned, owned, reason
from spikeproof.interop.frameworks.adapters import modules_inside
from spikeproof.keys import Key
from spikeproof.learning.rule import EpochReport, Rule
from spikeproof.learning.shared import Shared, using_devices
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.networks.substitute import Substitutable, probed
from spikeproof.plainfiles import printable
from spikeproof.poisoning.poisoned import Poisoned
from spikeproof.probes import Probe
from spikeproof.protocols import BLOCK, Model, Threat, kept_under, unkept
from spikeproof.specs import address, build, canonical, describe
from spikeproof.statistics import compare
from spikeproof.version import __version__

__all__ = ["Bench", "Files"]

Files = dict[str, bytes]
Tell = Callable[[Progress], None]

KEPT_EXAMPLES = 4
"""Adversarial examples stored with an attack cell, for the report."""

KEPT_STEPS = 128
"""Steps of a longer attack of which losses are stored for every example."""

STARTS, ASCENT = 10, 50
"""First images of a class, and steps from each, of the test for backdoors that needs no data."""

FOUND = "images.safetensors"
"""Every image of an attack cell of a nested sweep."""

SECONDS_AT_RISK = 10.0
"""Seconds between two saved states of a suite; a killed run loses at most these and the running member."""

WRITTEN = (CellKind.TRAIN, CellKind.CERTIFY)
"""Kinds of cells for which loops over time are the written ones unless others are chosen: compiled loops give
weights, where neurons learn constants, other last digits."""

SPAN = 32
"""Time steps that networks compute at once where memory does not suffice for all of them."""

KEPT_SUBJECTS = 4
"""Most models that a worker keeps in memory."""


@dataclass(frozen=True)
class Subject:
    """A trained model with the examples that it is measured on and its predictions on the clean examples."""

    model: Model
    images: Tensor
    labels: Tensor
    clean: Clean
    weights: str
    key: Key
    validation: Split
    sample: str  # digest of which examples are measured


class Provenance(TypedDict):
    """Information that explains a result and cannot change it."""

    spikeproof: str
    torch: str
    python: str
    platform: str
    device: str
    threads: int
    seconds: float
    finished: str
    batch_size: int
    command: list[str]
    loops: NotRequired[str]  # the loops over time of neurons, if they are not the written ones
    span: NotRequired[int]  # time steps computed at once, if memory did not suffice for all
    devices: NotRequired[int]  # that shared the training, if several did
    precision: NotRequired[str]  # of the forward passes of a training that several devices shared
    packages: NotRequired[dict[str, str]]  # version of each package that added members to the catalogue


class Made(NamedTuple):
    """A model that images are made on, and the digest of its weights."""

    model: Classifier
    weights: str


@dataclass
class Bench:
    """Computes cells; called as `bench(cell, tell)` it gives the files of the cell's directory.

    Args:
        root: the output directory, where train cells are read and checkpoints are kept.
        data: the directory that holds the data sets, or None for the usual directories.
        device: where tensors live, such as `"cpu"`.
        batch_size: images per evaluation batch.
        span: time steps that networks compute at once; None for all.
        command: the command line, for the provenance.
        trusted: programs that may be run, by the names of their models: those that the user named.
        devices: number of devices that share every training by backpropagation.
    """

    root: Path
    data: Path | None
    device: str
    batch_size: int
    command: tuple[str, ...] = ()
    trusted: frozenset[str] = frozenset()
    span: int | None = None
    devices: int = 1
    datasets: dict[str, Dataset] = field(default_factory=dict, repr=False)
    subjects: dict[str, Subject] = field(default_factory=dict, repr=False)

    def __call__(self, cell: Cell, tell: Tell) -> Files:
        began = time.perf_counter()
        compute = {
            CellKind.TRAIN: Bench.train,
            CellKind.CLEAN: Bench.clean,
            CellKind.INSPECT: Bench.inspect,
            CellKind.PROBE: Bench.probe,
            CellKind.CORRUPT: Bench.corrupt,
            CellKind.DISTANCE: Bench.distance,
            CellKind.ATTACK: Bench.attack,
            CellKind.CERTIFY: Bench.certify,
            CellKind.ANALYSE: Bench.analyse,
        }
        files, bench = None, self
        loops = chosen_loops(Loops.WRITTEN if cell.kind in WRITTEN else Loops.COMPILED)
        state = checkpoint(self.root, cell.address, "parts")
        parts = Unfinished(state, cell.address, torch.device(self.device), tell)
        while files is None:
            try:
                span = bench.span or chosen_span()
                with (
                    one_thread(),
                    in_full(),
                    keeping_memory(),
                    using_spans(span),
                    using_loops(loops),
                    using_devices(bench.devices) as shared,
                ):
                    files = compute[cell.kind](bench, cell, parts)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or bench.smaller is None or cell.kind is CellKind.TRAIN:
                    raise
            if files is None:  # outside of the handler, whose error keeps the tensors alive
                assert bench.smaller is not None
                bench = bench.smaller
                at_once = "" if bench.span is None else f" and {bench.span} time steps at once"
                tell(Progress(0, 1, f"out of memory; once more with a batch of {bench.batch_size}{at_once}"))
                free_memory()
        files["cell.json"] = as_json({"format": FORMAT, **cell.record()})
        files["provenance.json"] = as_json(bench.provenance(time.perf_counter() - began, loops, shared))
        return files

    @property
    def smaller(self) -> Bench | None:
        """The next choice of batch and span that needs less memory; None after the last one.

        Batches are halved first. A batch is padded to a block in any case, so what does not fit in a batch of
        one is tried again in blocks whose networks compute few time steps at once.
        """
        if self.span is None:
            halved = replace(self, batch_size=self.batch_size // 2)
            return halved if self.batch_size > 1 else replace(self, batch_size=BLOCK, span=SPAN)
        return replace(self, span=max(1, self.span // 4)) if self.span > 1 else None

    def train(self, cell: Cell, parts: Unfinished) -> Files:
        """Weights, the description from which the model is rebuilt, and the history of its training."""
        spec, key = cell.spec, Key.of(cell.spec["seed"])
        if is_owned(spec["model"]):
            return self.take(spec)
        model = build(ModelSpec, spec["model"], PARTS).build(key.fold("model"))
        rule = build(Rule, spec["rule"], PARTS)
        state = checkpoint(self.root, cell.address)
        state.parent.mkdir(parents=True, exist_ok=True)
        reporter, data = _Reporter(parts.tell), self.dataset(spec["dataset"])
        history = rule.train(
            model,
            data,
            key.fold("training"),
            device=torch.device(self.device),
            checkpoint=state,
            on_epoch=reporter.epoch,
            on_batch=reporter.batch,
        )
        files = dump_model(model)
        metrics = {
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "validation_accuracy": history.validation_accuracy,
            "parameters": sum(weights.numel() for weights in model.parameters()),
            "weights": hashlib.sha256(files["weights.safetensors"]).hexdigest(),
            **({"data_notes": list(data.notes)} if data.notes else {}),
        }
        return {**files, "metrics.json": as_json(metrics)}

    def take(self, spec: CellSpec) -> Files:
        """What is noted of a given model, of which nothing is stored but the digest of its weights."""
        model, data = self.given(spec), self.dataset(spec["dataset"])
        nets = modules_inside(model)
        metrics = {
            "epochs": [],
            "validation_accuracy": None,
            "parameters": sum(weights.numel() for net in nets for weights in net.parameters()),
            "weights": fingerprint_of(model),
            **({"data_notes": list(data.notes)} if data.notes else {}),
        }
        return {"metrics.json": as_json(metrics)}

    def given(self, spec: CellSpec) -> Model:
        """The model that a program makes, if the user named that program.

        Raises:
            InputError: the user did not, or the program makes no model.
            DamagedError: the program or its weights changed.
        """
        model = owned(spec["model"])
        if model.given.make not in self.trusted:
            raise InputError(
                "A program is run only where it is named",
                f"a stored study whose model {printable(model.given.make)} makes",
                f"Add --make {printable(model.given.make)} if that is a program of yours.",
            )
        found = model.model
        for net in modules_inside(found):
            net.to(self.device)
        return found

    def clean(self, cell: Cell, parts: Unfinished) -> Files:
        """The accuracy on clean images."""
        subject = self.subject(cell, parts)
        metrics = {
            **subject.clean.metrics(),
            "stochastic": bool(getattr(subject.model, "stochastic", False)),
            "weights": subject.weights,
            "sample_sha256": subject.sample,
            **copies(subject.images),
            **self.backdoor(cell, subject, parts),
        }
        return {"metrics.json": as_json(metrics), TABLE: table(stored(subject.clean))}

    def backdoor(
        self, cell: Cell, subject: Subject, parts: Unfinished
    ) -> dict[str, BackdoorMetrics | Suspicion]:
        """What the trigger of poisoned training data does to the model, and what a test without data says.

        Nothing for other data.
        """
        source = data_of(Store(self.root).read(cell.spec["train"]).cell["spec"]["dataset"])
        if not isinstance(source, Poisoned) or not bool((subject.labels != source.target).any()):
            return {}
        key, data = subject.key.fold("backdoor"), source.of.load(self.data)
        triggered = source.triggered(
            data,
            subject.images,
            key.fold("trigger").for_rows(subject.clean.example),
            self.data,
        )
        found = backdoor_metrics(
            subject.model,
            subject.images,
            triggered,
            subject.labels,
            source.target,
            key,
            batch_size=self.batch_size,
            keep=parts.keep,
        )
        channels, height, width = subject.images.shape[1:]
        if len(data.classes) < LEAST_CLASSES or not isinstance(subject.model, Classifier):
            return {"backdoor": found}  # a given function may have no gradient

        def tested() -> tuple[int, float]:
            odd = margin_test(
                subject.model,
                (channels, height, width),
                len(data.classes),
                key.fold("margins"),
                starts=STARTS,
                steps=ASCENT,
                device=subject.images.device,
            )
            return odd.suspect, odd.p_value

        suspect, p_value = parts.keep("margins", tested)
        return {"backdoor": found, "suspicion": {"suspect": int(suspect), "p_value": float(p_value)}}

    def inspect(self, cell: Cell, parts: Unfinished) -> Files:
        """Diagnostics of the model: leaking state, batch independence, randomness and gradients."""
        subject = self.subject(cell, parts)
        images, labels = subject.images[:DIAGNOSED], subject.labels[:DIAGNOSED]
        # of a model that may have state, each diagnostic depends on the forward passes before it
        keep = parts.keep if isinstance(subject.model, Classifier) else unkept
        events = not subject.validation.images.is_floating_point()  # data sets keep events as integers
        found = diagnose(subject.model, images, labels, subject.key.fold("inspect"), keep, events=events)
        return {"metrics.json": as_json({**asdict(found), "weights": subject.weights})}

    def probe(self, cell: Cell, parts: Unfinished) -> Files:
        """The accuracy on clean images whose spike trains are changed by a timing probe.

        The encoder draws the same samples as for the unchanged images, so that the outcomes are paired.
        """
        subject, spec = self.subject(cell, parts), cell.spec
        model = subject.model
        assert isinstance(model, Classifier)  # studies plan probes for no other
        classes = model.spec.classes
        model, ids = probed(model, build(Probe, spec["probe"], PARTS)), subject.clean.example.cpu()

        def measure(rows: slice) -> Clean:
            return evaluate_clean(
                model,
                subject.images[rows],
                subject.labels[rows],
                subject.key,
                ids=ids[rows],
                batch_size=self.batch_size,
                draws=spec["draws"],
            )

        found = parts.outcome("images", Clean, measure, self.batch_size, len(ids))
        metrics = {**paired(subject, found), "chance": 1 / classes}
        return {"metrics.json": as_json(metrics), TABLE: table(stored(found))}

    def corrupt(self, cell: Cell, parts: Unfinished) -> Files:
        """The accuracy on examples that a natural corruption has changed, paired with the clean ones."""
        subject, spec = self.subject(cell, parts), cell.spec
        corruption: Corruption = build(Corruption, spec["corruption"], PARTS)
        ids = subject.clean.example.cpu()

        def measure(rows: slice) -> Clean:
            return evaluate_corrupted(
                subject.model,
                subject.images[rows],
                subject.labels[rows],
                corruption,
                spec["severity"],
                subject.key,
                ids=ids[rows],
                batch_size=self.batch_size,
                draws=spec["draws"],
            )

        found = parts.outcome("images", Clean, measure, self.batch_size, len(ids))
        return {"metrics.json": as_json(paired(subject, found)), TABLE: table(stored(found))}

    def attack(self, cell: Cell, parts: Unfinished) -> Files:
        """The accuracy under an attack."""
        subject, spec = self.subject(cell, parts), cell.spec
        recipe = build(Recipe, spec["attack"], PARTS)
        threat = build(Threat, {**spec["threat"], "epsilon": spec["epsilon"]}, PARTS)
        if isinstance(recipe, Suite):
            return self.suite(cell, subject, recipe, threat, parts)
        key, part = Key.of(spec["seed"]), subject.validation
        few = slice(validated(recipe))
        images, labels = floats(part.images[few].to(self.device)), part.labels[few].to(self.device)
        recipe, choices = settled(
            subject.model,
            recipe,
            threat,
            images,
            labels,
            key.fold("choice"),
            draws=spec["draws"],
            keep=parts.keep,
        )
        source = None if (made_by := spec.get("source")) is None else self.source(made_by)
        parts.weights = (subject.weights, *([] if source is None else [source.weights]))
        gradients = through(subject.model, recipe)
        if isinstance(recipe, Transfer) and source is not None:
            gradients = made_on(source.model, recipe)
        attack: Attack = recipe(threat)
        if (smaller := spec.get("smaller")) is not None:
            attack = Nested(attack, Carried(subject.clean.example, self.found(smaller)))

        def measure(rows: slice) -> Attacked:
            return evaluate_attack(
                subject.model,
                attack,
                threat,
                subject.images[rows],
                subject.labels[rows],
                subset(subject.clean, rows),
                key.fold("attack"),
                through=gradients,
                batch_size=self.batch_size,
                draws=spec["draws"],
            )

        batch = getattr(attack, "batch", None) or self.batch_size
        outcome = parts.outcome("examples", Attacked, measure, batch, len(subject.labels))
        metrics = {**outcome.metrics(), "gradient_free": recipe.gradient_free, "weights": subject.weights}
        if choices:
            metrics["choices"] = [
                {"chosen": describe(choice.recipe, PARTS), "validation_accuracy": list(choice.accuracy)}
                for choice in choices
            ]
        if source is not None:
            metrics["source_weights"] = source.weights
        files = {
            "metrics.json": as_json(metrics),
            TABLE: table(stored(outcome)),
            "arrays.safetensors": tensor_bytes(exhibits(subject, outcome.x_adv)),
            "losses.safetensors": tensor_bytes(traces(outcome)),
        }
        if is_nested(spec):  # the next larger budget begins with these
            files[FOUND] = tensor_bytes({"x_adv": outcome.x_adv.cpu().contiguous()})
        return files

    def found(self, attack: str) -> Tensor:
        """All adversarial images of a stored attack cell of a nested sweep."""
        path = Store(self.root).read(attack).path / FOUND
        images: Tensor = load_file(path)["x_adv"].to(self.device)
        return images

    def distance(self, cell: Cell, parts: Unfinished) -> Files:
        """The distances to the nearest adversarial images that a search finds."""
        subject, spec = self.subject(cell, parts), cell.spec
        recipe = build(Recipe, spec["attack"], PARTS)
        threat = build(Threat, {**spec["threat"], "epsilon": 1.0}, PARTS)
        gradients = through(subject.model, recipe)

        def measure(rows: slice) -> Nearest:
            return evaluate_distances(
                subject.model,
                recipe,
                threat,
                subject.images[rows],
                subject.labels[rows],
                subset(subject.clean, rows),
                Key.of(spec["seed"]).fold("distance"),
                through=gradients,  # type: ignore[arg-type]
                batch_size=self.batch_size,
                draws=spec["draws"],
            )

        found = parts.outcome("examples", Nearest, measure, self.batch_size, len(subject.labels))
        metrics = {**found.metrics(), "gradient_free": recipe.gradient_free, "weights": subject.weights}
        return {"metrics.json": as_json(metrics), TABLE: table(stored(found))}

    def suite(self, cell: Cell, subject: Subject, recipe: Suite, threat: Threat, parts: Unfinished) -> Files:
        """The worst case over a suite, which member broke which example, and what each member contributed.

        The state is saved after a member whenever a few seconds have passed, and so are blocks of examples of
        a long member, so that an interrupted cell resumes after them.
        """
        members = plan(recipe.level, subject.model, threat)
        if plan_digest(members) != cell.spec.get("plan"):
            raise InputError(
                "A cell that names the attacks which this version's suite is made of",
                f"one of the suite {recipe.level} as another version has it",
                "Run the study again.",
            )
        state, saved = checkpoint(self.root, cell.address), time.monotonic()
        identity = address([cell.address, subject.weights])
        interim = Interim.resume(state, identity, torch.device(self.device))
        parts.stage = (len(interim.members) if interim else 0, len(members))

        def keep(interim: Interim, total: int) -> None:
            nonlocal saved
            last = interim.members[-1]
            parts.stage = (len(interim.members), total)
            parts.tell(Progress(*parts.stage, f"{last['name']}, {last['left']:.1%} left"))
            if time.monotonic() - saved > SECONDS_AT_RISK:
                state.parent.mkdir(parents=True, exist_ok=True)
                interim.save(state, identity)
                saved = time.monotonic()

        def in_blocks(name: str, measure: Callable[[slice], Attacked], batch: int, examples: int) -> Attacked:
            return parts.outcome(name, Attacked, measure, batch, examples)

        found = evaluate_suite(
            subject.model,
            recipe.level,
            threat,
            subject.images,
            subject.labels,
            subject.clean,
            Key.of(cell.spec["seed"]).fold("attack"),
            batch_size=self.batch_size,
            draws=cell.spec["draws"],
            members=members,
            interim=interim,
            on_member=keep,
            in_blocks=in_blocks,
        )
        metrics = {**found.metrics(), "gradient_free": False, "weights": subject.weights}
        contributed = [dict[str, object](member) for member in found.members]
        seconds = {member["name"]: member.pop("seconds") for member in contributed}
        metrics["members"] = contributed
        return {
            "metrics.json": as_json(metrics),
            "seconds.json": as_json(seconds),  # apart from what the same seed gives again
            TABLE: table({**stored(found.attacked), "broken_by": found.broken_by}),
            "arrays.safetensors": tensor_bytes(exhibits(subject, found.attacked.x_adv)),
        }

    def certify(self, cell: Cell, parts: Unfinished) -> Files:
        """Which examples are proved right within a budget, or why the certificate does not apply."""
        subject, spec = self.subject(cell, parts), cell.spec
        certificate = build(Certificate, spec["certificate"], PARTS)
        threat = build(Threat, {**spec["threat"], "epsilon": spec["epsilon"]}, PARTS)
        why_not = reason(certificate, subject.model, threat)
        metrics = {
            "n": len(subject.labels),
            "subject": certificate.subject,
            "weights": subject.weights,
            "reason": why_not,
        }
        if why_not is not None or not isinstance(subject.model, Classifier):
            return {"metrics.json": as_json({**metrics, "certified": None})}
        ids, key = subject.clean.example, Key.of(spec["seed"]).fold("certify")
        model = subject.model

        def measure(rows: slice) -> dict[str, Tensor]:
            few = (subject.images[rows], subject.labels[rows], threat, key.for_rows(ids[rows]))
            keep = kept_under(parts.keep, f"from {rows.start}")
            found: Certified = certificate(model, *few, keep=keep)
            return found._asdict()

        found = parts.rows("examples", measure, ROWS, len(ids))
        share = float(found["certified"].double().mean())
        return {
            "metrics.json": as_json({**metrics, "certified": share}),
            TABLE: table({"example": ids, **found}),
        }

    def analyse(self, cell: Cell, parts: Unfinished) -> Files:
        """What an attack does to the spikes of a model, and what its inference costs."""
        subject, spec = self.subject(cell, parts), cell.spec
        analysis = build(Analysis, spec["analysis"], PARTS)
        threat = build(Threat, {**spec["threat"], "epsilon": spec["epsilon"]}, PARTS)
        model, key = subject.model, Key.of(spec["seed"]).fold("analysis")
        assert isinstance(model, Classifier)  # studies plan analyses for no other
        assert isinstance(analysis, SpikeAnalysis)  # the one that there is
        images, parts.stage = subject.images, (0, 0)
        if analysis.sponge is not None:
            sponge, draws = analysis.sponge, key.fold("sponge").for_rows(subject.clean.example)

            def soaked(rows: slice) -> dict[str, Tensor]:
                few = torch.arange(len(images))[rows]
                made = [
                    sponge(model, images[batch], threat, draws.take(batch))
                    for batch in torch.split(few, self.batch_size)
                ]
                return {"x_adv": torch.cat(made)}

            attacked = parts.rows("sponge", soaked, self.batch_size, len(images))["x_adv"]
        else:

            def measure(rows: slice) -> Attacked:
                return evaluate_attack(
                    model,
                    analysis.attack,
                    threat,
                    images[rows],
                    subject.labels[rows],
                    subset(subject.clean, rows),
                    key.fold("attack"),
                    batch_size=self.batch_size,
                    draws=spec["draws"],
                )

            batch = getattr(analysis.attack(threat), "batch", None) or self.batch_size
            attacked = parts.outcome("examples", Attacked, measure, batch, len(images)).x_adv
        found = analysis(
            model,
            images,
            attacked,
            subject.labels,
            key.fold("spikes"),
            threat,
            batch_size=self.batch_size,
            keep=parts.keep,
        )
        traced = analysis.traces(model, images, attacked, key.fold("spikes"))
        return {
            "metrics.json": as_json({**found, "weights": subject.weights}),
            **({"traces.safetensors": tensor_bytes(traced)} if traced else {}),
        }

    def source(self, spec: str | SavedSource) -> Made:
        """The model that images of a transfer are made on: of a train cell, or a saved one."""
        if isinstance(spec, str):
            cell = Store(self.root).read(spec)
            return Made(load(cell.path).to(self.device), cell.metrics["weights"])
        model = read_saved(Saved(path=spec["saved"]))
        if fingerprint(model) != spec["sha256"]:
            raise DamagedError(f"The saved model {spec['saved']} changed while the study ran")
        return Made(model.to(self.device), spec["sha256"])

    def subject(self, cell: Cell, parts: Unfinished) -> Subject:
        """The model and the examples of a cell, read and measured on clean images once."""
        spec = cell.spec
        sample = spec.get("sample", {"name": "first"})
        name = canonical([spec["train"], spec["examples"], spec["draws"], sample])
        if name not in self.subjects:
            while len(self.subjects) >= KEPT_SUBJECTS:
                self.subjects.pop(next(iter(self.subjects)))
            parts.stage = None if cell.kind is CellKind.CLEAN else (0, 0)
            self.subjects[name] = self.read_subject(
                spec["train"], spec["examples"], build(Sample, sample, PARTS), spec["draws"], parts
            )
            parts.stage = None
        parts.weights = (self.subjects[name].weights,)
        return self.subjects[name]

    def read_subject(
        self, train: str, examples: int, sample: Sample, draws: int, parts: Unfinished
    ) -> Subject:
        cell = Store(self.root).read(train)
        spec = cell.cell["spec"]
        data = self.dataset(spec["dataset"])
        part = sample(data.test, examples)
        model = self.model(cell)
        images, labels = floats(part.images.to(self.device)), part.labels.to(self.device)
        key = Key.of(spec["seed"]).fold("evaluation")
        parts.weights = (cell.metrics["weights"],)

        def measure(rows: slice) -> Clean:
            return evaluate_clean(
                model,
                images[rows],
                labels[rows],
                key,
                ids=part.ids[rows],
                batch_size=self.batch_size,
                draws=draws,
            )

        clean = parts.outcome("clean images", Clean, measure, self.batch_size, len(labels))
        few = ClassProportional()(data.validation, len(data.validation))
        return Subject(model, images, labels, clean, cell.metrics["weights"], key, few, part.sha256)

    def model(self, train: Stored) -> Model:
        """The model of a stored train cell, on the device.

        Raises:
            InputError: it is a program's, which the user did not name.
        """
        spec = train.cell["spec"]
        return self.given(spec) if is_owned(spec["model"]) else load(train.path).to(self.device)

    def dataset(self, spec: Plain) -> Dataset:
        """The data that a train cell names, read once."""
        name = spec["sha256"]
        if name not in self.datasets:
            self.datasets[name] = data_of(spec).load(self.data)
        if self.datasets[name].sha256 != name:
            raise DamagedError(f"The data set {spec['name']} changed on disk while the study ran")
        return self.datasets[name]

    def provenance(self, seconds: float, loops: Loops, shared: Shared) -> Provenance:
        """Versions, machine, time and command line."""
        noted: Provenance = {
            "spikeproof": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device_name(self.device),
            "threads": 1,
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "batch_size": self.batch_size,
            "command": list(self.command),
        }
        if loops is not Loops.WRITTEN and not why_not_compiled(loops, self.device):
            noted["loops"] = loops.value
        if shared.precisions:
            noted["devices"], noted["precision"] = shared.count, shared.precisions[-1]
        if self.span is not None:
            noted["span"] = self.span
        if others := packages():
            noted["packages"] = others
        return noted


def copies(images: Tensor) -> dict[str, int]:
    """How many independent examples these are worth, where some are nearly the same; else nothing."""
    independent = effective(groups_of(images))
    return {"independent": independent} if independent < len(images) else {}


def free_memory() -> None:
    """Give memory back that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def in_full() -> Iterator[None]:
    """Convolutions on an accelerator repeat themselves to the bit and keep all digits of single precision.

    What PyTorch allows by default there rounds the factors of convolutions to 10 bits, enough to move a spike
    from one step to the next.
    """
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield


def device_name(device: str) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def paired(subject: Subject, found: Clean) -> dict[str, object]:
    """The numbers of changed examples, and what they lost against the clean ones, example by example."""
    key = subject.key.fold("compare")
    lost = compare(subject.clean.right.cpu().numpy(), found.right.cpu().numpy(), key)
    return {
        **{name.removeprefix("clean_"): value for name, value in found.metrics().items()},
        "lost": lost.difference,
        "lost_low": lost.interval.low,
        "lost_high": lost.interval.high,
        "p_value": lost.p_value,
        "weights": subject.weights,
    }


@torch.no_grad()
def exhibits(subject: Subject, x_adv: Tensor) -> dict[str, Tensor]:
    """A few images, what an attack made of them, and the input of the network for both.

    Of a model whose encoder is not known, such as a function, the input is the image itself.
    """
    few, model = slice(KEPT_EXAMPLES), subject.model
    x, x_adv, ids = subject.images[few], x_adv[few], subject.clean.example[few]
    key = Key(("exhibit",)).for_rows(ids)
    arrays = {"x": x, "x_adv": x_adv, "example": ids}
    encoder = model.encoder if isinstance(model, (Classifier, Substitutable)) else Direct(1)
    for name, images in (("spikes", x), ("spikes_adv", x_adv)):
        spikes = encoder(images, key).transpose(0, 1)
        small = spikes.to(torch.uint8) if encoder.spiking else spikes
        whole = torch.equal(small.to(spikes.dtype), spikes)
        arrays[name] = small if whole else spikes  # spikes with weights keep their type
    return {
        name: array.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, array in arrays.items()
    }


def traces(outcome: Attacked) -> dict[str, Tensor]:
    """The objective of every example, NaN where it has none: `losses [S, N]` at the steps `step [S]`."""
    total = len(outcome.losses)
    kept = torch.linspace(0, max(total - 1, 0), min(total, KEPT_STEPS)).round().long()
    losses = outcome.losses.detach().cpu()[kept].float().contiguous()
    return {"losses": losses, "step": kept, "example": outcome.example.cpu().contiguous()}


@dataclass
class _Reporter:
    """Reports the progress of a training at most twice a second."""

    tell: Tell
    note: str = "first epoch"
    last: float = 0.0

    def epoch(self, report: EpochReport) -> None:
        right = report.validation_accuracy
        self.note = f"loss {report.loss:.3f}" + (
            f", validation accuracy {right:.1%}" if right is not None else ""
        )
        if report.processor_seconds is not None:
            self.note += f", {report.processor_seconds:.3g} s of processor time per epoch"
        if report.watch is not None and report.watch.overfitted:
            self.note += ", catastrophically overfitted"

    def batch(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last > 0.5:
            self.last = now
            self.tell(Progress(done, total, self.note))
