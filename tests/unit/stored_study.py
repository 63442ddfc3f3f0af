"""Stores written by hand, with numbers that are easy to predict, and records without a store."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from spikeproof.experiments.run.store import Store, as_json

EVIL = "<script>alert('&\"$x^')</script>"
N, T, SHAPE = 200, 4, (1, 6, 6)


class Bench:
    """Writes a store as a run does, with numbers that are easy to predict."""

    def __init__(self, root):
        self.root, self.store, self.plan = root, Store(root), []
        self.store.prepare()

    def cell(self, kind, spec, metrics, **files):
        address = f"{len(self.plan):04d}{kind}".ljust(32, "0")
        cell = {"kind": kind, "address": address, "spec": spec}
        self.plan.append(cell)
        if metrics is not None:
            provenance = {"torch": "9.9", "seconds": 1.25, "finished": "then", "device": EVIL}
            files = {name.replace("__", "."): content for name, content in files.items()}
            documents = {"cell.json": cell, "metrics.json": metrics, "provenance.json": provenance}
            self.store.put(address, {**{k: as_json(v) for k, v in documents.items()}, **files})
        return address

    def model(self, encoder, decoder="count", neuron="lif", seed=0, clean=0.9, network="mlp", epochs=()):
        parts = {"network": network, "neuron": neuron, "encoder": encoder, "decoder": decoder}
        spec = {
            "model": {
                **{axis: {"name": name} for axis, name in parts.items()},
                "surrogate": {"name": "arctangent"},
                "classes": 10,
            },
            "dataset": {"name": "digits", "sha256": "0"},
            "rule": {"name": "bptt"},
            "seed": seed,
        }
        spec["model"]["encoder"]["steps"] = T
        metrics = {"epochs": [*epochs], "validation_accuracy": 0.876, "parameters": 4321}
        train = self.cell("train", spec, metrics)
        right = (np.arange(N) >= N - clean * N).astype(float)
        numbers = {"clean_accuracy": clean, "clean_all_draws": clean, "ci_low": 0.7, "ci_high": 0.97}
        self.cell(
            "clean",
            {"train": train},
            {**self.common(), **numbers, "stochastic": False, "spikes_per_inference": 77.7},
            examples__parquet=table(right=right, right_selection=right),
        )
        self.cell("inspect", {"train": train}, {})
        return train

    def attack(
        self, train, name, epsilon, accuracy, gradient_free=False, arrays=None, columns=None, **metrics
    ):
        right = (np.arange(N) >= N - accuracy * N).astype(float)
        attack = name if isinstance(name, dict) else {"name": name}
        numbers = {"robust_accuracy": accuracy, "robust_all_draws": accuracy, "ci_low": 0.01, "ci_high": 0.99}
        self.cell(
            "attack",
            {"train": train, "attack": attack, "threat": {"name": "linf"}, "epsilon": epsilon},
            {**self.common(), **numbers, "gradient_free": gradient_free, "budget_violations": 0, **metrics},
            examples__parquet=table(
                **{"right": right, "right_selection": right, "right_clean": np.ones(N), **(columns or {})}
            ),
            **({"arrays__safetensors": arrays} if arrays else {}),
        )

    def certify(self, train, name, epsilon, proved=None, reason=None):
        share = None if proved is None else float(np.mean(proved))
        files = {} if proved is None else {"examples__parquet": table(certified=proved)}
        self.cell(
            "certify",
            {"train": train, "certificate": {"name": name}, "threat": {"name": "linf"}, "epsilon": epsilon},
            {"n": N, "subject": "model", "certified": share, "reason": reason},
            **files,
        )

    def common(self):
        return {"n": N, "draws": 1, "tie_share": 0.0625, "silent_share": 0.03125}

    def finish(self, study="trial"):
        plan = {"study": study, "spec": {"name": study}, "plan": self.plan, "created": "today"}
        plan["cells"] = [cell["address"] for cell in self.plan]
        (self.root / "study.json").write_bytes(as_json(plan))
        return self.root

    def fail(self, error):
        address = self.cell("train", {"model": {}}, None)
        (self.root / "failures").mkdir(exist_ok=True)
        note = {"kind": "train", "spec": {"model": EVIL}, "error": error, "trace": "Traceback " + EVIL}
        (self.root / "failures" / f"{address}.json").write_bytes(as_json(note))
        self.plan[-1] = {"kind": "clean", "address": address, "spec": {}}


def table(**columns):
    file, whole = io.BytesIO(), np.arange(N)
    columns = {"example": whole, "label": whole % 10, "prediction": (whole + 1) % 10, **columns}
    columns |= {"tie": np.zeros(N), "silent": np.zeros(N)}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def arrays(spiking=True, shape=SHAPE, steps=T):
    rng = np.random.default_rng(0)
    x = rng.random((4, *shape), dtype=np.float32)
    spikes = rng.random((4, steps, *shape), dtype=np.float32)
    spikes = (spikes < 0.2).astype(np.uint8) if spiking else spikes
    adversarial = {"x_adv": 1 - x, "spikes_adv": np.ascontiguousarray(spikes[:, ::-1])}
    return save({"x": x, "spikes": spikes, "example": np.arange(4), **adversarial})


def record(**changes):
    return {
        "study": "s",
        "dataset": "digits",
        "network": "mlp",
        "neuron": "lif",
        "encoder": "latency",
        "decoder": "count",
        "rule": "bptt",
        "surrogate": "arctangent",
        "attack": "worst-case",
        "threat": "linf",
        "epsilon": 8 / 255,
        "seed": 0,
        "n": 100,
        "clean_accuracy": 0.9,
        "clean_argmax": 0.94,
        "clean_ci_low": 0.826,
        "clean_ci_high": 0.945,
        "clean_all_draws": 0.9,
        "robust_accuracy": 0.123,
        "robust_argmax": 0.21,
        "ci_low": 0.071,
        "ci_high": 0.201,
        "robust_all_draws": 0.12,
        "clean_vote": 0.9,
        "robust_vote": 0.123,
        "draws": 1,
        "stochastic": False,
        "tie_share": 0.05,
        "silent_share": 0.02,
        "adversarial_tie_share": 0.1,
        "adversarial_silent_share": 0.03,
        "spikes_per_inference": 1234.5,
        "mean_exit": 3.25,
        "adversarial_mean_exit": 4.5,
        "accuracy_by_step": [0.5, 0.9],
        "gradient_free": False,
        "nested": False,
        "certified": None,
        "certified_low": None,
        "certified_high": None,
        "certified_vote": None,
        "proofs": [],
        "effort": None,
        "broken_by": [],
        "verdict": None,
        "warnings": [],
        "notes": [],
        "missing": [],
        "because": None,
        "before_accuracy": None,
        "before_verdict": None,
        "before_n": None,
        "before_warnings": [],
        "model": "cells/a",
        "cell": "cells/c",
        "train_cell": "cells/a",
        "clean_cell": "cells/b",
        "steps": 8,
        **changes,
    }
