"""The structure of the documents of an output directory: plans, repairs, manifests, cells and tables.

What is read is checked here once, so that everything behind it may index as it likes. A name that is not
known here is left as it is: later versions of the same format may say more.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from spikeproof.errors import InputError
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import shaped

__all__ = [
    "FORMAT",
    "CellDocument",
    "FailureDocument",
    "LeaseDocument",
    "Manifest",
    "Note",
    "PlanDocument",
    "ProvenanceDocument",
    "check_cell",
    "check_format",
    "check_numbers",
    "check_table",
    "columns_wanted",
    "format_of",
    "is_address",
]

FORMAT = 1
"""Of the output directory as this version writes it; documents without a number are of the first."""

MOST_CELLS = 1_000_000
"""Cells that a plan may name."""

MOST_ROWS = 10_000_000
"""Examples that a table may have."""

_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WITH_PARTS = ("code", "codes", "decoder", "decoders", "attack")


def _named(part: Any) -> Any:
    """A part and the parts inside it, each of which has a name."""
    if isinstance(part, list):
        return [_named(each) for each in part]
    if not isinstance(part, Mapping):
        return part
    if not isinstance(name := part.get("name"), str) or not 0 < len(name) <= 200 or "\n" in name:
        raise ValueError("every part has a name of one line")
    if isinstance(steps := part.get("steps", 1), bool) or not isinstance(steps, int):
        raise ValueError("steps are a whole number")
    for key in _WITH_PARTS:
        _named(part.get(key))
    return part


def _file(name: str) -> str:
    if not _FILE.fullmatch(name):
        raise ValueError("a file of a cell has a plain name")
    return name


Address = Annotated[str, Field(strict=True, pattern=rf"^{_ADDRESS.pattern}$")]
Words = Annotated[str, Field(strict=True, max_length=200, pattern=r"^[^\n]*$")]
Text = Annotated[str, Field(strict=True)]
Part = Annotated[dict[str, Any], AfterValidator(_named)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Some = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
Flag = Annotated[bool, Field(strict=True)]
Digest = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]

Manifest = Annotated[dict[Annotated[str, AfterValidator(_file)], Digest], Field(min_length=1, max_length=64)]
"""Name of a file of a cell -> its SHA-256."""


class CellDocument(TypedDict):
    """Kind, spec and address of a cell."""

    kind: Words
    address: Address
    spec: dict[str, object]
    format: NotRequired[Some]


class RepairDocument(CellDocument):
    """A cell that an audit added, with the check it is `because` of and its `round`."""

    because: Words
    round: Count


class PlanDocument(TypedDict):
    """What `run` noted about a study."""

    study: Words
    cells: Annotated[list[Address], Field(max_length=MOST_CELLS)]
    plan: Annotated[list[CellDocument], Field(max_length=MOST_CELLS)]
    spec: NotRequired[dict[str, object]]
    replanned: NotRequired[list[Address]]
    created: NotRequired[Words]
    spikeproof: NotRequired[Words]
    format: NotRequired[Some]


class Note(TypedDict):
    """What an audit noted about the cells that it added."""

    repairs: Annotated[list[RepairDocument], Field(max_length=MOST_CELLS)]
    format: NotRequired[Some]


class LeaseDocument(TypedDict):
    """Who computes a cell, and how far it is."""

    owner: Words
    host: Words
    pid: Count
    born: Words
    beat: Count
    done: Count
    total: Count
    note: Words


class ProvenanceDocument(TypedDict):
    """What explains a cell; only the time that it took is read again."""

    seconds: Annotated[Number, Field(ge=0)]


class FailureDocument(TypedDict):
    """What went wrong with a cell."""

    error: Text
    trace: NotRequired[Text]
    tries: NotRequired[Count]
    losses: NotRequired[Count]
    aside: NotRequired[Flag]


class _Model(TypedDict):
    network: Part
    neuron: Part
    encoder: Part
    decoder: Part
    surrogate: Part
    classes: Some


class _Data(TypedDict):
    name: Words
    sha256: Text


class _Train(TypedDict):
    model: _Model
    dataset: _Data
    rule: Part
    seed: Count


class _Saved(TypedDict):
    saved: Words
    sha256: Text


class _Evaluated(TypedDict):
    train: NotRequired[Address]
    examples: NotRequired[Some]
    draws: NotRequired[Some]
    choosing: NotRequired[Some]
    code_version: NotRequired[Count]
    seed: NotRequired[Count]


class _Measured(_Evaluated):
    train: Address  # type: ignore[misc]


class _Probe(_Measured):
    probe: Part


class _Corrupt(_Measured):
    corruption: Part
    severity: Annotated[int, Field(strict=True, ge=1, le=5)]


class _Distance(_Measured):
    attack: Part
    threat: Part


class _Attack(_Distance):
    epsilon: Annotated[Number, Field(ge=0)]
    source: NotRequired[Address | _Saved]
    smaller: NotRequired[Address | None]
    plan: NotRequired[Text]


class _Certify(_Measured):
    certificate: Part
    threat: Part
    epsilon: Annotated[Number, Field(ge=0)]


class _Analyse(_Measured):
    analysis: Part
    threat: Part
    epsilon: Annotated[Number, Field(ge=0)]


SPECS: Mapping[str, type[object]] = {
    CellKind.TRAIN: _Train,
    CellKind.CLEAN: _Evaluated,
    CellKind.INSPECT: _Evaluated,
    CellKind.PROBE: _Probe,
    CellKind.CORRUPT: _Corrupt,
    CellKind.DISTANCE: _Distance,
    CellKind.ATTACK: _Attack,
    CellKind.CERTIFY: _Certify,
    CellKind.ANALYSE: _Analyse,
}
"""Kind of cell -> its spec."""


class _TrainNumbers(TypedDict):
    validation_accuracy: NotRequired[Share | None]
    parameters: NotRequired[Count]
    weights: NotRequired[Text]


class _Answers(TypedDict):
    n: Some
    draws: Some
    tie_share: Share
    silent_share: Share
    ci_low: Share
    ci_high: Share
    mean_exit: NotRequired[Number | None]
    accuracy_by_step: NotRequired[list[Share]]
    weights: NotRequired[Text]


class _Backdoor(TypedDict):
    target_share: Share
    target_share_triggered: Share
    triggered_low: Share
    triggered_high: Share


class _Suspicion(TypedDict):
    suspect: Count
    p_value: Share


class _CleanNumbers(_Answers):
    backdoor: NotRequired[_Backdoor]
    suspicion: NotRequired[_Suspicion]
    clean_accuracy: Share
    clean_all_draws: Share
    clean_vote: NotRequired[Share | None]
    stochastic: Flag
    spikes_per_inference: Number | None
    independent: NotRequired[Some]


class _Changed(_Answers):
    accuracy: Share
    all_draws: Share
    lost: Number
    lost_low: Number
    lost_high: Number
    p_value: Share


class _ProbeNumbers(_Changed):
    chance: Share
    spikes_per_inference: Number


class _CorruptNumbers(_Changed):
    spikes_per_inference: Number | None


class _MemberEvidence(TypedDict):
    forward_queries: NotRequired[Count]
    backward_queries: NotRequired[Count]
    budget_violations: NotRequired[Count]
    zero_gradient_share: NotRequired[Share | None]
    silent_success_share: NotRequired[Share | None]


class _Member(TypedDict):
    name: Words
    attacked: Count
    broke: Number
    left: Share
    gradient_free: Flag
    steps: Count
    draws: Count
    evidence: NotRequired[_MemberEvidence]
    own_gradient: NotRequired[Flag]
    every_exit: NotRequired[Flag]
    repeats: NotRequired[Flag]


class _AttackNumbers(_Answers):
    robust_accuracy: Share
    robust_all_draws: Share
    robust_vote: NotRequired[Share | None]
    gradient_free: Flag
    budget_violations: Count
    nested: NotRequired[Flag]
    attacked: NotRequired[Count | None]
    moved_share: NotRequired[Share | None]
    mean_distance: NotRequired[Number | None]
    max_distance: NotRequired[Number | None]
    mean_linf: NotRequired[Number | None]
    mean_l2: NotRequired[Number | None]
    mean_l1: NotRequired[Number | None]
    mean_l0: NotRequired[Number | None]
    silent_success_share: NotRequired[Share | None]
    eight_bit_accuracy: NotRequired[Share | None]
    accuracy_in_views: NotRequired[Share | None]
    clean_accuracy_in_views: NotRequired[Share | None]
    zero_gradient_share: NotRequired[Share | None]
    forward_queries: NotRequired[Count | None]
    backward_queries: NotRequired[Count | None]
    outside_queries: NotRequired[Count | None]
    losses: NotRequired[list[Number | None] | None]
    members: NotRequired[list[_Member]]
    source_weights: NotRequired[Text]


class _DistanceNumbers(TypedDict):
    n: Some
    draws: Some
    counted: Count
    found: Share | None
    found_low: Share | None
    found_high: Share | None
    median_distance: Number | None
    median_low: Number | None
    median_high: Number | None
    unconfirmed_share: Share | None
    gradient_free: Flag
    weights: NotRequired[Text]


class _CertifyNumbers(TypedDict):
    n: Some
    subject: Words
    certified: Share | None
    reason: NotRequired[Words | None]
    weights: NotRequired[Text]


class _InspectNumbers(TypedDict):
    failed: NotRequired[Words | None]
    training: NotRequired[Flag]
    state_leak: NotRequired[Share | None]
    companions: NotRequired[Share | None]
    randomness: NotRequired[Share | None]
    differentiable: NotRequired[Flag | None]
    zero_gradients: NotRequired[Share | None]
    zero_by_layer: NotRequired[list[Share]]
    masked_inputs: NotRequired[Share | None]
    saturated: NotRequired[Share | None]
    probabilities: NotRequired[Flag | None]
    ties: NotRequired[Share | None]
    silent_decided: NotRequired[Share | None]
    unstable: NotRequired[Number | None]
    gradient_agreement: NotRequired[Number | None]
    weights: NotRequired[Text]


class _Window(TypedDict):
    start: Count
    stop: Count
    accuracy: Share
    attacked: Share


class _Layer(TypedDict):
    layer: Words
    neurons: Count
    rate: Number
    attacked_rate: Number
    counts: Number
    times: Number
    distances: dict[str, Number | None]
    cv: Number | None
    cv2: Number | None
    lv: Number | None
    fano: Number | None
    attacked_cv: NotRequired[Number | None]
    attacked_cv2: NotRequired[Number | None]
    attacked_lv: NotRequired[Number | None]
    attacked_fano: NotRequired[Number | None]
    bits: dict[str, Number]
    shuffled: dict[str, Number]
    windows: list[_Window]


class _Cost(TypedDict):
    accumulates: Number
    multiplies: Number
    picojoules: Number
    spikes: Number
    steps: Number


class _Sensitivity(TypedDict):
    inputs: Count
    gradient_l1: Number | None
    gradient_l2: Number | None
    lipschitz: Number | None


class _AnalyseNumbers(TypedDict):
    n: Some
    clean_accuracy: Share
    attacked_accuracy: Share
    layers: list[_Layer]
    cost: _Cost
    attacked_cost: _Cost
    sensitivity: _Sensitivity
    weights: NotRequired[Text]


NUMBERS: Mapping[str, type[object]] = {
    CellKind.TRAIN: _TrainNumbers,
    CellKind.CLEAN: _CleanNumbers,
    CellKind.INSPECT: _InspectNumbers,
    CellKind.PROBE: _ProbeNumbers,
    CellKind.CORRUPT: _CorruptNumbers,
    CellKind.DISTANCE: _DistanceNumbers,
    CellKind.ATTACK: _AttackNumbers,
    CellKind.CERTIFY: _CertifyNumbers,
    CellKind.ANALYSE: _AnalyseNumbers,
}
"""Kind of cell -> its numbers."""

FAR = "distance"
"""The column that is no share: at least 0, and infinite where nothing was found."""

_OUTCOMES = ("example", "right", "right_selection", "tie", "silent")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    CellKind.CLEAN: _OUTCOMES,
    CellKind.ATTACK: _OUTCOMES,
    CellKind.PROBE: ("example", "right"),
    CellKind.CORRUPT: ("example", "right"),
    CellKind.DISTANCE: ("example", FAR),
    CellKind.CERTIFY: ("example", "certified"),
}
"""Kind of cell -> the columns that its table must have; cells of other kinds have no table."""


def is_address(name: str) -> bool:
    """Whether a name may be the address of a cell: letters, digits, `_` and `-`.

    Example:
        >>> is_address("ab12"), is_address("../ab12")
        (True, False)
    """
    return _ADDRESS.fullmatch(name) is not None


def check_format(found: object, name: str) -> None:
    """Refuse what a later version of spikeproof wrote.

    Args:
        found: the number that a document names.
        name: of the file, for messages.

    Raises:
        InputError: naming the file and both numbers.

    Example:
        >>> check_format(99, "plan")
        Traceback (most recent call last):
        spikeproof.errors.InputError: plan: this version of spikeproof reads format 1: got format 99. ...
    """
    if found != FORMAT:
        raise InputError(
            f"{name}: this version of spikeproof reads format {FORMAT}",
            f"format {found!r:.40}",
            "Install a newer spikeproof.",
        )


def format_of(document: object) -> object:
    """The format that a document names; a document without one has the first format.

    Example:
        >>> format_of({"format": 2}), format_of([])
        (2, 1)
    """
    return document.get("format", FORMAT) if isinstance(document, Mapping) else FORMAT


def check_cell(record: Mapping[str, object], name: str, metrics: Mapping[str, object] | None = None) -> None:
    """Refuse a cell whose spec or numbers do not fit its kind; a cell of an unknown kind is accepted.

    Args:
        record: kind, spec and address.
        name: of the file, for messages.
        metrics: its numbers, or None where they are elsewhere.

    Raises:
        InputError: naming the value that does not fit.
    """
    kind = str(record["kind"])
    if kind in SPECS:
        shaped(record["spec"], SPECS[kind], f"{name}: {kind}.spec")
    if metrics is not None:
        check_numbers(kind, metrics, name)


def check_numbers(kind: str, metrics: Mapping[str, object], name: str) -> None:
    """Refuse numbers that do not fit a kind of cells; those of an unknown kind are accepted.

    Args:
        kind: of the cell.
        metrics: its numbers.
        name: of the file, for messages.

    Raises:
        InputError: naming the value that does not fit.
    """
    if kind in NUMBERS:
        shaped(metrics, NUMBERS[kind], f"{name}: {kind}")


def columns_wanted(kind: str, metrics: Mapping[str, object]) -> Collection[str]:
    """The columns that the table of a cell has; none for a cell without a table.

    Args:
        kind: of the cell.
        metrics: its numbers; a certificate that does not apply has no table.
    """
    unproved = kind == CellKind.CERTIFY and metrics["certified"] is None
    return () if unproved else COLUMNS.get(kind, ())


def check_table(
    content: bytes | None, kind: str, metrics: Mapping[str, object], name: str
) -> pa.Table | None:
    """Refuse a table without the columns of its kind, with other columns than numbers or too few rows.

    Args:
        content: of the Parquet file, or None where there is none.
        kind: of the cell.
        metrics: its numbers, which say how many examples there are.
        name: of the file, for messages.

    Returns:
        The table; None for a kind without one.

    Raises:
        InputError: naming what does not fit.
    """
    if not (wanted := columns_wanted(kind, metrics)):
        return None
    if content is None:
        raise InputError(f"{name}: expected one row per example", "no such file", "Copy the cell again.")
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        rows = file.metadata.num_rows
        if rows != metrics["n"] or rows > MOST_ROWS:
            raise ValueError(f"{rows} rows for {metrics['n']} examples")
        table = file.read(use_threads=False)
        for column in wanted:
            if column not in table.column_names:
                raise ValueError(f"no column {column!r}")
        for field, column in zip(table.schema, table.columns, strict=True):
            number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            if not (number or pa.types.is_boolean(field.type)) or column.null_count:
                raise ValueError(f"the column {field.name[:40]!r} of {str(field.type)[:40]}")
        for column in {*wanted} - {"example"}:
            values, most = table.column(column).to_numpy().astype(float), np.inf if column == FAR else 1
            if not np.all((values >= 0) & (values <= most)):
                raise ValueError(f"values of {column!r} beyond 0 and {most}")
        return table
    except (pa.ArrowException, ValueError, OSError, KeyError, MemoryError) as error:
        raise InputError(
            f"{name}: expected a table with one row per example", str(error)[:200], "Copy the cell again."
        ) from error
