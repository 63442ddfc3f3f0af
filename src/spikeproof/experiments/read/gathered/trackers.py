"""Writes the trainings of a study into TensorBoard or MLflow, and nothing twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spikeproof.errors import InputError
from spikeproof.experiments.read.gathered.campaign import TrainingRun
from spikeproof.experiments.run.store import writing

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["to_mlflow", "to_tensorboard"]

DIGEST, CELL = "spikeproof.digest", "spikeproof.cell"
"""Tags by which a run of MLflow is known again."""

MOST_METRICS = 1000
"""Most values that MLflow takes in one batch."""


def to_tensorboard(runs: Sequence[TrainingRun], folder: Path) -> int:
    """Write one run per training into `folder/STUDY/LABEL-DIGEST`, and return how many are new.

    Training curves are `training/NAME` by epoch, final numbers `result/NAME`; parts, numbers and verdicts are
    also a table under the tab for text.

    Args:
        runs: of one study.
        folder: the log directory of TensorBoard.

    Raises:
        InputError: the folder cannot be written.
        ImportError: TensorBoard is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter

    new = 0
    for run in runs:
        place = folder / _plain(run["study"]) / f"{_plain(run['label'])}-{run['digest'][:8]}"
        if place.exists():
            continue
        with writing(folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            writer = SummaryWriter(str(place))
            for name, epoch, value in run["curve"]:
                writer.add_scalar(f"training/{name}", value, epoch)
            for name, value in run["numbers"].items():
                writer.add_scalar(f"result/{name}", value, 0)
            writer.add_text("model", _table(run), 0)
            writer.close()
        new += 1
    return new


def _table(run: TrainingRun) -> str:
    """Parts, numbers and verdicts as a table of Markdown, in which a hostile name stays text."""
    rows = [*run["parts"].items(), *((name, f"{value:.4g}") for name, value in run["numbers"].items())]
    rows += [(f"verdict of {name}", verdict) for name, verdict in run["verdicts"].items()]
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {_inert(name)} | {_inert(value)} |" for name, value in rows)]
    )


def _inert(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;")


def _plain(text: str) -> str:
    """Text as a name of a folder."""
    return re.sub(r"[^A-Za-z0-9.=,()+-]+", "_", text).strip("._")[:100] or "model"


def to_mlflow(runs: Sequence[TrainingRun], uri: str) -> int:
    """Write one run per training into the experiment named after the study, and return how many are new.

    Parts of the model are its parameters, training curves are `training/NAME` by epoch, final numbers `NAME`
    and verdicts tags. The run of a training whose numbers have changed since is deleted and written anew.

    Args:
        runs: of one study.
        uri: of the tracking store, such as `sqlite:///mlflow.db`, `http://127.0.0.1:5000` or a folder.

    Raises:
        InputError: the store cannot be used.
        ImportError: MLflow is not installed.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri=uri)
        return sum(_logged(client, run) for run in runs)
    except (MlflowException, OSError) as error:
        words = " ".join(str(error).split())[:300]
        raise InputError(
            "Expected a tracking store of MLflow that can be written",
            f"{uri!r:.200} ({words})",
            "Name a database (sqlite:///FILE) or a running server; for a folder, MLflow itself asks for "
            "MLFLOW_ALLOW_FILE_STORE=true.",
        ) from error


def _logged(client: MlflowClient, run: TrainingRun) -> bool:
    """Whether a run was new to the store."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    experiment = client.get_experiment_by_name(run["study"])
    place = experiment.experiment_id if experiment else client.create_experiment(run["study"])
    for old in client.search_runs([place], f"tags.`{CELL}` = '{run['cell']}'"):
        if old.data.tags.get(DIGEST) == run["digest"]:
            return False
        client.delete_run(old.info.run_id)
    now = get_current_time_millis()
    made = client.create_run(place, run_name=run["label"], tags={CELL: run["cell"]})
    named = [(f"training/{name}", value, epoch) for name, epoch, value in run["curve"]]
    named += [(name, value, 0) for name, value in run["numbers"].items()]
    metrics = [Metric(_name(name), value, now, step) for name, value, step in named]
    parameters = [Param(name, value) for name, value in run["parts"].items()]
    client.log_batch(made.info.run_id, params=parameters)
    for first in range(0, len(metrics), MOST_METRICS):
        client.log_batch(made.info.run_id, metrics=metrics[first : first + MOST_METRICS])
    verdicts = [RunTag(f"verdict.{_name(name)}", verdict) for name, verdict in run["verdicts"].items()]
    client.log_batch(
        made.info.run_id, tags=[*verdicts, RunTag(DIGEST, run["digest"])]
    )  # last: it is complete
    client.set_terminated(made.info.run_id)
    return True


def _name(text: str) -> str:
    """Text as a name that MLflow accepts."""
    return re.sub(r"[^A-Za-z0-9_./ -]+", "_", text)
