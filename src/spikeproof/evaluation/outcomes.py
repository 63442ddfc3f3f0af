"""The outcome of every example: on clean images, and on images that an attack changed.

The columns of an outcome are declared here, each with its field; the module `columns` explains declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.search import UNRECORDED, Result
from spikeproof.decoders import UNDECIDED, decide
from spikeproof.evaluation.columns import (
    Column,
    Declared,
    Merge,
    added,
    columns,
    declared,
    every,
    kept,
    largest,
    side_by_side,
    taken,
)
from spikeproof.networks.classifier import Inference
from spikeproof.protocols import Threat
from spikeproof.statistics import majority_vote, wilson
from spikeproof.threats import L0, L1, L2, Linf

__all__ = [
    "Answers",
    "Attacked",
    "AttackedBatch",
    "AttackedMetrics",
    "Clean",
    "CleanBatch",
    "CleanMetrics",
    "Contribution",
    "ContributionEvidence",
    "Untouched",
    "distances",
    "mean",
]


@dataclass(frozen=True)
class Answers:
    """The answers of a model to a batch of images, one per draw."""

    inferences: Sequence[Inference]
    y: Int64[Tensor, "B"]

    @cached_property
    def predictions(self) -> Int64[Tensor, "D B"]:
        """The class of every draw; -1 for a tie."""
        return torch.stack([decide(answer.logits) for answer in self.inferences])

    @cached_property
    def right(self) -> Float[Tensor, "B"]:
        """Share of draws in which the model answers with the label."""
        return (self.predictions == self.y).float().mean(0)

    @property
    def right_argmax(self) -> Float[Tensor, "B"]:
        """The same if the first of the best classes were the answer; logits that are not finite are wrong."""
        firsts = [
            torch.where(a.logits.isfinite().all(-1), a.logits.argmax(-1), UNDECIDED) for a in self.inferences
        ]
        return (torch.stack(firsts) == self.y).float().mean(0)

    @property
    def prediction(self) -> Int64[Tensor, "B"]:
        """The class of the first draw; -1 for a tie."""
        return self.predictions[0]

    @property
    def tie(self) -> Float[Tensor, "B"]:
        """Share of draws without one best class."""
        return (self.predictions == UNDECIDED).float().mean(0)

    @property
    def silent(self) -> Float[Tensor, "B"]:
        """Share of draws with a silent output layer."""
        return torch.stack([answer.silent for answer in self.inferences]).float().mean(0)

    @property
    def spikes(self) -> Float[Tensor, "B"]:
        """Mean number of spikes up to the decision."""
        return torch.stack([answer.spikes for answer in self.inferences]).mean(0)

    @property
    def exit(self) -> Float[Tensor, "B"]:
        """Mean number of time steps used."""
        return torch.stack([answer.exit for answer in self.inferences]).mean(0)

    @property
    def right_by_step(self) -> Float[Tensor, "B T"]:
        """Share of draws that are right if the decision is made after each time step."""
        return torch.stack([a.by_step == self.y[:, None] for a in self.inferences]).float().mean(0)

    @property
    def voted(self) -> Float[Tensor, "B"]:
        """Whether the majority of the draws votes for the label."""
        votes = majority_vote(self.predictions.cpu().numpy(), self.y.cpu().numpy())
        return torch.from_numpy(votes).to(self.y.device).float()


@dataclass(frozen=True)
class CleanBatch:
    """A batch of clean images, and the answers of the model to them.

    Args:
        ids: identities of the examples.
        labels: labels of the examples.
        fresh: answers on fresh draws, which are reported.
        chosen: answers on the draws with which an attacker chooses between images.
        images: the images.
    """

    ids: Int64[Tensor, "B"]
    labels: Int64[Tensor, "B"]
    fresh: Answers
    chosen: Answers
    images: Float[Tensor, "B *F"]


UNKNOWN = float("nan")

UNSEEN = 0
"""The number of an image whose content is not known."""


def content(images: Float[Tensor, "B *F"]) -> Int64[Tensor, "B"]:
    """A number of 64 bits for each image by which other images are told apart, never `UNSEEN`.

    Example:
        >>> x = torch.eye(3)
        >>> (content(x) == content(x.flip(0))).tolist()
        [False, True, False]
    """
    flat = images.detach().flatten(1)
    places = torch.arange(1, flat.shape[1] + 1, device=flat.device) * _ODD
    mixed, some = (places ^ (places >> 29)) | 1, max(1, _AT_ONCE // max(1, flat.shape[1]))
    found = [
        ((part.float() + 0.0).contiguous().view(torch.int32).long() * mixed).sum(1)  # -0.0 is 0.0
        for part in torch.split(flat, some)
    ]
    numbers = torch.cat(found)
    return torch.where(numbers == UNSEEN, 1, numbers)


_AT_ONCE = 1 << 22
"""Pixels whose content is computed at once."""

_ODD = -7046029254386353131
"""An odd number whose multiples have bits that look random (2^64 divided by the golden ratio)."""

Answered = Callable[["Answers | Clean"], Tensor]
"""A column of the answers of the model, from a batch or from the clean outcome of its examples."""


def _answer(meaning: str, of: Answered, *, stored: bool = True) -> Declared:
    """A column of the fresh answers, on clean or on attacked images."""

    def column(batch: CleanBatch | AttackedBatch) -> Tensor:
        return of(batch.fresh)

    def before(examples: Untouched) -> Tensor:
        return of(examples.clean)

    return declared(Column(meaning, column, before, stored=stored, absent=UNKNOWN))


def _known(meaning: str, of: Callable[[CleanBatch], Tensor]) -> Declared:
    """A column that every table of clean images has."""
    return declared(Column(meaning, of))


IDENTITY, LABEL = "identity of the example", "the right class"
RIGHT = "share of fresh draws in which the answer is the label"
CHOSEN = "the same, on the draws with which the attacker chooses"
ARGMAX = "as `right`, if the first of the best classes were the answer"
PREDICTION = "class of the first draw; -1 for a tie"
TIE = "share of draws without one best class"
SILENT = "share of draws with a silent output layer"
SPIKES = "mean number of spikes per inference, up to the decision"
EXIT = "mean number of time steps used for the decision; NaN where it is not known"
VOTED = "whether the majority of the draws votes for the label"


class CleanMetrics(TypedDict):
    """Headline numbers of clean images; the interval is the 95 % Wilson interval of the accuracy."""

    n: int
    draws: int
    clean_accuracy: float
    clean_argmax: float
    clean_all_draws: float
    clean_vote: float
    ci_low: float
    ci_high: float
    tie_share: float
    silent_share: float
    spikes_per_inference: float
    mean_exit: float
    accuracy_by_step: list[float]


@dataclass(frozen=True)
class Clean:
    """Per-example outcomes on clean images; shares are over draws, 0 or 1 for a deterministic model."""

    example: Int64[Tensor, "N"] = field(metadata=_known(IDENTITY, lambda batch: batch.ids))
    label: Int64[Tensor, "N"] = field(metadata=_known(LABEL, lambda batch: batch.labels))
    right: Float[Tensor, "N"] = field(metadata=_known(RIGHT, lambda batch: batch.fresh.right))
    right_selection: Float[Tensor, "N"] = field(metadata=_known(CHOSEN, lambda batch: batch.chosen.right))
    right_argmax: Float[Tensor, "N"] = field(metadata=_answer(ARGMAX, lambda seen: seen.right_argmax))
    prediction: Int64[Tensor, "N"] = field(metadata=_answer(PREDICTION, lambda seen: seen.prediction))
    tie: Float[Tensor, "N"] = field(metadata=_answer(TIE, lambda seen: seen.tie))
    silent: Float[Tensor, "N"] = field(metadata=_answer(SILENT, lambda seen: seen.silent))
    spikes: Float[Tensor, "N"] = field(metadata=_answer(SPIKES, lambda seen: seen.spikes))
    exit: Float[Tensor, "N"] = field(metadata=_answer(EXIT, lambda seen: seen.exit))
    right_by_step: Float[Tensor, "N T"] = field(
        metadata=_answer(
            "share of draws that are right if the decision is made after each time step",
            lambda seen: seen.right_by_step,
            stored=False,
        )
    )
    voted: Float[Tensor, "N"] = field(metadata=_answer(VOTED, lambda seen: seen.voted))
    content: Int64[Tensor, "N"] = field(
        metadata=declared(
            Column(
                "a number by which the image is told from others; 0 where it is not known",
                lambda batch: content(batch.images),
                stored=False,
                absent=UNSEEN,
            )
        )
    )
    draws: int

    def metrics(self) -> CleanMetrics:
        """Headline numbers with their 95 % Wilson interval."""
        low, high = wilson(float(self.right.sum()), len(self.right))
        return {
            "n": len(self.right),
            "draws": self.draws,
            "clean_accuracy": mean(self.right),
            "clean_argmax": mean(self.right_argmax),
            "clean_all_draws": mean((self.right == 1).float()),
            "clean_vote": mean(self.voted),
            "ci_low": low,
            "ci_high": high,
            "tie_share": mean(self.tie),
            "silent_share": mean(self.silent),
            "spikes_per_inference": mean(self.spikes),
            "mean_exit": mean(self.exit),
            "accuracy_by_step": [mean(column) for column in self.right_by_step.T],
        }


@dataclass(frozen=True)
class Untouched:
    """Examples before any attack.

    Args:
        threat: the threat with its budget.
        images: clean images.
        clean: the clean outcome of the examples.
    """

    threat: Threat
    images: Float[Tensor, "B *F"]
    clean: Clean

    def filled(self, value: int) -> Int64[Tensor, "B"]:
        """The same number for every example."""
        return torch.full_like(self.clean.example, value)


@dataclass(frozen=True)
class AttackedBatch(Untouched):
    """A batch of examples after an attack on some of them, and the answers to the resulting images.

    Args:
        rows: the attacked examples, which are right in at least one draw without an attack.
        result: the result of the attack on these; None if there are none.
        within: whether the returned image is inside the budget.
        x_adv: the returned image; the clean image if the example was not attacked or the image is outside the
            budget.
        fresh: answers on fresh draws, which are reported.
        chosen: answers on the draws with which the attacker chooses between this image and the clean one.
        rounded: share of draws that are right on the image rounded to 8 bits; NaN for inputs that are not
            images.
        seen: share of random views of the returned image in which the answer is the label; NaN for a threat
            without views.
        seen_clean: the same of the clean image.
    """

    rows: Int64[Tensor, "R"]
    result: Result | None
    within: Bool[Tensor, "B"]
    x_adv: Float[Tensor, "B *F"]
    fresh: Answers
    chosen: Answers
    rounded: Float[Tensor, "B"]
    seen: Float[Tensor, "B"]
    seen_clean: Float[Tensor, "B"]

    @property
    def left(self) -> Bool[Tensor, "B"]:
        """Where accuracy is lower on the clean image than on the returned one."""
        return self.clean.right_selection < self.chosen.right

    def choice(self, clean: Tensor, attacked: Tensor) -> Tensor:
        """For each example, the value that belongs to the image that the attacker chooses."""
        return torch.where(self.left, clean, attacked)

    @property
    def losses(self) -> Float[Tensor, "S B"]:
        """The trace of the attack; NaN where an example was not attacked."""
        found = self.images.new_zeros(0, len(self.rows)) if self.result is None else self.result.losses
        whole = self.images.new_full((len(found), len(self.images)), torch.nan)
        whole[:, self.rows] = found.to(whole.dtype)
        return whole


def _given(meaning: str, of: Callable[[Clean], Tensor]) -> Declared:
    """A column that no attack changes."""

    def column(examples: Untouched) -> Tensor:
        return of(examples.clean)

    return declared(Column(meaning, column, column, kept))


def _measured(
    meaning: str,
    of: Callable[[AttackedBatch], Tensor],
    before: Callable[[Untouched], Tensor],
    merged: Merge = taken,
) -> Declared:
    """A column that is measured on the images that an attack returned."""
    return declared(Column(meaning, of, before, merged))


def _chosen(meaning: str, of: Answered, *, absent: float | None = None) -> Declared:
    """A column of the fresh answers to the image that the attacker chooses, which may be the clean one."""

    def column(batch: AttackedBatch) -> Tensor:
        return batch.choice(of(batch.clean), of(batch.fresh))

    def before(examples: Untouched) -> Tensor:
        return of(examples.clean)

    return declared(Column(meaning, column, before, absent=absent))


def _evidence(
    meaning: str,
    of: Callable[[Result], Tensor],
    before: Callable[[Untouched], Tensor],
    merged: Merge = taken,
    absent: float | None = None,
) -> Declared:
    """A column that the attack itself records for the examples on which it ran."""

    def column(batch: AttackedBatch) -> Tensor:
        whole = before(batch).clone()
        if batch.result is not None:
            whole[batch.rows] = of(batch.result).to(whole.dtype)
        return whole

    return declared(Column(meaning, column, before, merged, absent=absent))


def _outside(found: Result) -> Int64[Tensor, "R"]:
    return torch.zeros_like(found.queries) if found.outside is None else found.outside


def _fell(found: Result) -> Int64[Tensor, "R"]:
    return torch.full_like(found.queries, UNRECORDED) if found.fell is None else found.fell


def _distance(meaning: str, norm: Threat) -> Declared:
    def column(batch: AttackedBatch) -> Tensor:
        return norm.distance(batch.x_adv, batch.images).float()

    def before(examples: Untouched) -> Tensor:
        return norm.distance(examples.images, examples.images).float()

    return _measured(meaning, column, before)


def _in_views(what: str, of: Callable[[AttackedBatch], Tensor]) -> Declared:
    def before(examples: Untouched) -> Tensor:
        return examples.images.new_full((len(examples.images),), UNKNOWN)

    meaning = f"share of random views of {what} in which the answer is the label; NaN without views"
    return declared(Column(meaning, of, before, stored=False))


NORMS: Mapping[str, Threat] = {"linf": Linf(0), "l2": L2(0), "l1": L1(0), "l0": L0(0)}
"""The norms in which the change of every image is measured, whatever the threat."""


def distances(x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> dict[str, Float[Tensor, "B"]]:
    """The distances between pairs of images, in every norm.

    Example:
        >>> x_adv, x = torch.tensor([[0.0, 0.5, 0.75, 1.0]]), torch.tensor([[0.0, 0.0, 0.75, 0.5]])
        >>> {name: round(value.item(), 3) for name, value in distances(x_adv, x).items()}
        {'linf': 0.5, 'l2': 0.707, 'l1': 1.0, 'l0': 2.0}
    """
    return {name: norm.distance(x_adv, x).float() for name, norm in NORMS.items()}


class AttackedMetrics(TypedDict):
    """Headline numbers under an attack, with their evidence; NaN where nothing was measured."""

    n: int
    draws: int
    robust_accuracy: float
    robust_argmax: float
    robust_all_draws: float
    robust_vote: float
    ci_low: float
    ci_high: float
    tie_share: float
    silent_share: float
    mean_exit: float
    budget_violations: int
    attacked: int
    moved_share: float
    mean_distance: float
    max_distance: float
    mean_linf: float
    mean_l2: float
    mean_l1: float
    mean_l0: float
    silent_success_share: float
    eight_bit_accuracy: float
    mean_step_of_fall: float
    zero_gradient_share: float
    forward_queries: int
    backward_queries: int
    outside_queries: int
    losses: list[float]
    nested: bool
    accuracy_in_views: NotRequired[float]
    clean_accuracy_in_views: NotRequired[float]


@dataclass(frozen=True)
class Attacked:
    """Per-example outcomes under one attack; the attacker may also choose the clean image."""

    example: Int64[Tensor, "N"] = field(metadata=_given(IDENTITY, lambda clean: clean.example))
    label: Int64[Tensor, "N"] = field(metadata=_given(LABEL, lambda clean: clean.label))
    right_clean: Float[Tensor, "N"] = field(
        metadata=_given("share of fresh draws right on the clean image", lambda clean: clean.right)
    )
    right: Float[Tensor, "N"] = field(
        metadata=_chosen(f"{RIGHT}, on the image that the attacker chose", lambda seen: seen.right)
    )
    right_selection: Float[Tensor, "N"] = field(
        metadata=_measured(
            CHOSEN,
            lambda batch: batch.choice(batch.clean.right_selection, batch.chosen.right),
            lambda examples: examples.clean.right_selection,
        )
    )
    right_argmax: Float[Tensor, "N"] = field(
        metadata=_chosen(ARGMAX, lambda seen: seen.right_argmax, absent=UNKNOWN)
    )
    prediction: Int64[Tensor, "N"] = field(metadata=_answer(PREDICTION, lambda seen: seen.prediction))
    tie: Float[Tensor, "N"] = field(metadata=_answer(TIE, lambda seen: seen.tie))
    silent: Float[Tensor, "N"] = field(metadata=_answer(SILENT, lambda seen: seen.silent))
    spikes: Float[Tensor, "N"] = field(metadata=_answer(SPIKES, lambda seen: seen.spikes))
    exit: Float[Tensor, "N"] = field(metadata=_answer(EXIT, lambda seen: seen.exit))
    distance: Float[Tensor, "N"] = field(
        metadata=_measured(
            "distance to the clean image as the threat measures it",
            lambda batch: batch.threat.distance(batch.x_adv, batch.images),
            lambda examples: examples.threat.distance(examples.images, examples.images),
        )
    )
    within: Bool[Tensor, "N"] = field(
        metadata=_measured(
            "whether the image of the attack was inside the budget",
            lambda batch: batch.within,
            lambda examples: examples.filled(1).bool(),
            every,
        )
    )
    moved: Bool[Tensor, "N"] = field(
        metadata=_measured(
            "whether the image differs from the clean one",
            lambda batch: (batch.x_adv != batch.images).flatten(1).any(1),
            lambda examples: examples.filled(0).bool(),
        )
    )
    queries: Int64[Tensor, "N"] = field(
        metadata=_evidence(
            "forward passes", lambda found: found.queries, lambda examples: examples.filled(0), added
        )
    )
    backward_queries: Int64[Tensor, "N"] = field(
        metadata=_evidence(
            "backward passes",
            lambda found: found.backward_queries,
            lambda examples: examples.filled(0),
            added,
        )
    )
    outside: Int64[Tensor, "N"] = field(
        metadata=_evidence(
            "forward passes on an image outside [0, 1], which were answered for the nearest image inside",
            _outside,
            lambda examples: examples.filled(0),
            added,
            absent=0,
        )
    )
    zero_gradients: Float[Tensor, "N"] = field(
        metadata=_evidence(
            "share of backward passes whose gradient was zero everywhere",
            lambda found: found.zero_gradients,
            lambda examples: examples.filled(0).to(examples.images.dtype),
            largest,
        )
    )
    fell: Int64[Tensor, "N"] = field(
        metadata=_evidence(
            "row of the attack's trace (in a search for the nearest image, number of earlier forward passes) "
            "at which the model first misclassified the example; -1 for none; -2 if it is not recorded",
            _fell,
            lambda examples: examples.filled(-1),
        )
    )
    right_rounded: Float[Tensor, "N"] = field(
        metadata=_measured(
            "as `right`, on the chosen image rounded to 8 bits; NaN for inputs that are not images",
            lambda batch: batch.rounded,
            lambda examples: examples.clean.right,
        )
    )
    linf: Float[Tensor, "N"] = field(metadata=_distance("largest change of a value", NORMS["linf"]))
    l2: Float[Tensor, "N"] = field(metadata=_distance("Euclidean length of the change", NORMS["l2"]))
    l1: Float[Tensor, "N"] = field(metadata=_distance("sum of absolute changes", NORMS["l1"]))
    l0: Float[Tensor, "N"] = field(
        metadata=_distance("changed pixels, each counted once for all its channels", NORMS["l0"])
    )
    right_in_views: Float[Tensor, "N"] = field(metadata=_in_views("the returned image", lambda b: b.seen))
    right_clean_in_views: Float[Tensor, "N"] = field(
        metadata=_in_views("the clean image", lambda b: b.seen_clean)
    )
    losses: Float[Tensor, "S N"] = field(
        metadata=declared(
            Column(
                "objective per row of the trace, NaN where an example was never attacked",
                lambda batch: batch.losses,
                lambda examples: examples.images.new_zeros(0, len(examples.images)),
                kept,
                side_by_side,
                stored=False,
            )
        )
    )
    x_adv: Float[Tensor, "N *F"] = field(
        metadata=declared(
            Column(
                "the returned image, inside the budget",
                lambda batch: batch.x_adv,
                lambda examples: examples.images,
                stored=False,
            )
        )
    )
    voted: Float[Tensor, "N"] = field(metadata=_chosen(VOTED, lambda seen: seen.voted, absent=UNKNOWN))
    draws: int
    nested: bool = False  # began with the images of a smaller budget

    @classmethod
    def before(cls, examples: Untouched) -> Attacked:
        """The outcome of clean images, before any attack."""
        blank = {name: c.before(examples) for name, c in columns(cls).items() if c.before is not None}
        return cls(**blank, draws=examples.clean.draws, nested=False)

    def worse(self, found: Attacked, rows: Int64[Tensor, "R"]) -> Attacked:
        """The worst case over this one and a further attack.

        Args:
            found: outcome of the attack.
            rows: the examples on which the attack ran.
        """
        better = found.better_than(self, rows)

        def merged(name: str, column: Column) -> Tensor:
            whole: Tensor = getattr(self, name)
            if column.merged is kept:
                return whole
            return whole.index_copy(0, rows, column.merged(whole[rows], getattr(found, name), better))

        changed = {name: merged(name, column) for name, column in columns(Attacked).items()}
        return Attacked(**changed, draws=self.draws, nested=self.nested)

    def better_than(self, worst: Attacked, rows: Int64[Tensor, "R"]) -> Bool[Tensor, "R"]:
        """Where accuracy under this attack is lower than in a worst case, on the selection draws."""
        return self.right_selection < worst.right_selection[rows]

    def metrics(self) -> AttackedMetrics:
        """Headline numbers with their 95 % Wilson interval, and their evidence."""
        low, high = wilson(float(self.right.sum()), len(self.right))
        attacked = self.queries > 0
        found: AttackedMetrics = {
            "n": len(self.right),
            "draws": self.draws,
            "robust_accuracy": mean(self.right),
            "robust_argmax": mean(self.right_argmax),
            "robust_all_draws": mean((self.right == 1).float()),
            "robust_vote": mean(self.voted),
            "ci_low": low,
            "ci_high": high,
            "tie_share": mean(self.tie),
            "silent_share": mean(self.silent),
            "mean_exit": mean(self.exit),
            "budget_violations": int((~self.within).sum()),
            "attacked": int(attacked.sum()),
            "moved_share": mean(self.moved[attacked].float()),
            "mean_distance": mean(self.distance),
            "max_distance": float(self.distance.max()),
            "mean_linf": mean(self.linf[self.moved]),
            "mean_l2": mean(self.l2[self.moved]),
            "mean_l1": mean(self.l1[self.moved]),
            "mean_l0": mean(self.l0[self.moved]),
            "silent_success_share": mean(((self.fell >= 0) & (self.right == 1)).float())
            if self.draws == 1
            and not (self.fell == UNRECORDED).any()  # one draw of several may be wrong by luck
            else float("nan"),
            "eight_bit_accuracy": mean(self.right_rounded),
            "mean_step_of_fall": mean(self.fell[self.fell >= 0].double()),
            "zero_gradient_share": mean(self.zero_gradients[attacked & (self.backward_queries > 0)]),
            "forward_queries": int(self.queries.sum()),
            "backward_queries": int(self.backward_queries.sum()),
            "outside_queries": int(self.outside.sum()),
            "losses": [mean(row) for row in self.losses],
            "nested": self.nested,
        }
        if not bool(self.right_in_views.isnan().all()):
            found["accuracy_in_views"] = mean(self.right_in_views)
            found["clean_accuracy_in_views"] = mean(self.right_clean_in_views)
        return found


class ContributionEvidence(TypedDict, total=False):
    """The parts of a contribution that do not exist for every member."""

    evidence: AttackedMetrics
    forward_queries: int
    backward_queries: int
    every_exit: bool
    repeats: bool


class Contribution(ContributionEvidence):
    """What one member of a suite did: its settings, the examples that it broke, and its evidence.

    `attacked` is the number of examples on which the member ran, `broke` the number that it broke (in
    expectation for a stochastic model), and `left` the accuracy after it. `own_gradient` says whether it
    followed the gradient of the model itself. `steps` and `draws` are settings of a gradient attack,
    `objectives` and `sources` the names of its objectives and gradients, and `queries` the forward passes per
    example of a search without gradients. `evidence` and its queries exist only if the member ran, and
    `every_exit` only if its objective includes every exit. `repeats` exists only if the member ran and is the
    search of an earlier one once more, perhaps for longer.
    """

    name: str
    attacked: int
    seconds: NotRequired[float]  # left out of what a cell stores, since the same seed gives others
    broke: float
    left: float
    gradient_free: bool
    own_gradient: bool
    steps: int
    draws: int
    objectives: list[str]
    sources: list[str]
    queries: float


def mean(values: Tensor) -> float:
    """Mean of the values that are numbers; NaN where there are none."""
    numbers = values[~values.isnan()].double()
    return float(numbers.mean()) if len(numbers) else float("nan")
