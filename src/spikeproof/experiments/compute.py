"""How one cell is computed: from its spec, the data and the model's weights to the files of its directory.

Every cell is computed on a single thread of the processor, wherever it runs. Sums of floating-point numbers
depend on how they are split among threads, so this is what makes a result independent of the machine's number
of cores; several cores are used by computing several cells at a time.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save as tensor_bytes
from torch import Tensor

import spikeproof
from spikeproof.attacks.recipes import GradientRecipe, Recipe
from spikeproof.datasets import Dataset, Source
from spikeproof.errors import DamagedError
from spikeproof.evaluation import evaluate_attack, evaluate_clean
from spikeproof.experiments.catalogue import PARTS
from spikeproof.experiments.cells import Cell
from spikeproof.experiments.executors import Progress
from spikeproof.experiments.store import Store, as_json
from spikeproof.keys import Key
from spikeproof.learning.backprop import Rule
from spikeproof.models import load, save
from spikeproof.network import Classifier, ModelSpec, substitute
from spikeproof.protocols import Threat
from spikeproof.specs import build

__all__ = ["Bench", "Files"]

Files = dict[str, bytes]
Tell = Callable[[Progress], None]

KEPT_EXAMPLES = 4
"""Adversarial examples stored with an attack cell, for the report."""


@dataclass
class Bench:
    """Computes cells; called as `bench(cell, tell)` it gives the files of the cell's directory.

    Args:
        root: the output directory, where train cells are read and checkpoints are kept.
        data: the directory that holds the data sets, or None for the usual places.
        device: where tensors live, such as `"cpu"`.
        batch_size: images per evaluation batch.
        command: the command line, for the provenance.
    """

    root: Path
    data: Path | None
    device: str
    batch_size: int
    command: tuple[str, ...] = ()
    datasets: dict[str, Dataset] = field(default_factory=dict, repr=False)

    def __call__(self, cell: Cell, tell: Tell) -> Files:
        began = time.perf_counter()
        compute = {"train": self.train, "clean": self.clean, "attack": self.attack}[cell.kind]
        with one_thread():
            files = compute(cell, tell)
        files["cell.json"] = as_json(cell.record())
        files["provenance.json"] = as_json(self.provenance(time.perf_counter() - began))
        return files

    def train(self, cell: Cell, tell: Tell) -> Files:
        """Weights, the description from which the model is rebuilt, and the history of its training."""
        spec, key = cell.spec, Key.of(cell.spec["seed"])
        model = build(ModelSpec, spec["model"], PARTS).build(key.fold("model"))
        rule = build(Rule, spec["rule"], PARTS)
        checkpoints = self.root / "checkpoints" / cell.address
        checkpoints.parent.mkdir(parents=True, exist_ok=True)
        history = rule.train(
            model,
            self.dataset(spec["dataset"]),
            key.fold("training"),
            device=torch.device(self.device),
            checkpoint=checkpoints,
            on_epoch=lambda epoch: tell(epoch_progress(epoch, rule.epochs)),
        )
        metrics = {
            "epochs": [asdict(epoch) for epoch in history.epochs],
            "validation_accuracy": history.epochs[-1].validation_accuracy,
            "parameters": sum(weights.numel() for weights in model.parameters()),
        }
        with tempfile.TemporaryDirectory() as folder:
            save(model, Path(folder))
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        metrics["weights"] = hashlib.sha256(files["weights.safetensors"]).hexdigest()
        return {**files, "metrics.json": as_json(metrics)}

    def clean(self, cell: Cell, tell: Tell) -> Files:
        """How often, and how, the model is right on images as they are."""
        model, x, y, ids, key, weights = self.measured(cell)
        outcome = evaluate_clean(
            model, x, y, key.fold("clean"), ids=ids, batch_size=self.batch_size, draws=cell.spec["draws"]
        )
        return measurement({**outcome.metrics(), "weights": weights}, outcome.columns())

    def attack(self, cell: Cell, tell: Tell) -> Files:
        """How often the model is right on images that an attack changed."""
        model, x, y, ids, key, weights = self.measured(cell)
        spec = cell.spec
        recipe = build(Recipe, spec["attack"], PARTS)
        threat = build(Threat, {**spec["threat"], "epsilon": spec["epsilon"]}, PARTS)
        outcome = evaluate_attack(
            model,
            recipe(threat),
            x,
            y,
            key.fold("attack"),
            ids=ids,
            batch_size=self.batch_size,
            draws=spec["draws"],
            through=through(model, recipe),
        )
        metrics = {**outcome.metrics(), "gradient_free": recipe.gradient_free, "weights": weights}
        few = slice(KEPT_EXAMPLES)
        kept = exhibits(model, x[few], outcome.x_adv[few], ids[few], key.fold("exhibit"))
        return {**measurement(metrics, outcome.columns()), "arrays.safetensors": tensor_bytes(kept)}

    def measured(self, cell: Cell) -> tuple[Classifier, Tensor, Tensor, Tensor, Key, str]:
        """Model, images, labels, ids and key of a measurement, and the digest of the model's weights."""
        stored = Store(self.root).read(cell.spec["train"])
        spec = stored.cell["spec"]
        test = self.dataset(spec["dataset"]).test
        n = cell.spec["examples"]
        model = load(stored.path).to(self.device)
        images, labels = test.images[:n].to(self.device), test.labels[:n].to(self.device)
        return model, images, labels, test.ids[:n], Key.of(spec["seed"]), stored.metrics["weights"]

    def dataset(self, spec: Mapping[str, Any]) -> Dataset:
        """The data that a train cell names, read once."""
        name = spec["sha256"]
        if name not in self.datasets:
            source = build(Source, {key: value for key, value in spec.items() if key != "sha256"}, PARTS)
            self.datasets[name] = source.load(self.data)
        if self.datasets[name].sha256 != name:
            raise DamagedError(f"The data set {spec['name']} changed on disk while the study ran")
        return self.datasets[name]

    def provenance(self, seconds: float) -> dict[str, Any]:
        """What explains a result without being able to change it."""
        return {
            "spikeproof": spikeproof.__version__,
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


def through(model: Classifier, recipe: Recipe) -> Classifier | None:
    """The twin that gives the recipe's gradients, or None where the model itself does."""
    if not isinstance(recipe, GradientRecipe) or recipe.surrogate is recipe.backward is None:
        return None
    return substitute(model, spike=recipe.surrogate, backward=recipe.backward)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def measurement(metrics: Mapping[str, Any], columns: Mapping[str, Any]) -> Files:
    """The numbers of a measurement and its outcome per example."""
    table = io.BytesIO()
    pq.write_table(pa.table({name: torch.as_tensor(c).cpu().numpy() for name, c in columns.items()}), table)
    return {"metrics.json": as_json(metrics), "examples.parquet": table.getvalue()}


@torch.no_grad()
def exhibits(model: Classifier, x: Tensor, x_adv: Tensor, ids: Tensor, key: Key) -> dict[str, Tensor]:
    """A few images, what an attack made of them, and what the network sees of both."""
    rows = key.for_rows(ids)
    kind = torch.uint8 if model.encoder.spiking else torch.float32
    seen = {"spikes": model.encoder(x, rows), "spikes_adv": model.encoder(x_adv, rows)}
    arrays = {"x": x, "x_adv": x_adv, "example": ids}
    arrays |= {name: spikes.transpose(0, 1).to(kind) for name, spikes in seen.items()}
    return {name: array.detach().cpu().contiguous() for name, array in arrays.items()}


def epoch_progress(epoch: Any, epochs: int) -> Progress:
    """An epoch's report as progress."""
    note = f"loss {epoch.loss:.3f}, validation accuracy {epoch.validation_accuracy:.1%}"
    return Progress(epoch.epoch + 1, epochs, note)
