"""Signing off any model: a suite of attacks within one budget, an audit of the number, and a certificate.

`audit` does all of this in one call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.search import check_batch
from spikeproof.auditing.assess import DIAGNOSED, exits, other_gradients, suite_evidence
from spikeproof.auditing.checks import Verdict
from spikeproof.auditing.checks import audit as verdict_of
from spikeproof.auditing.diagnostics import diagnose
from spikeproof.auditing.evidence import CurvePoint, Diagnostics, Evidence
from spikeproof.datasets.intake.copies import effective, groups_of
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import Shaped, answering, by_call
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.certificates import IBP, Bins, Certificate
from spikeproof.evaluation.levels import Level
from spikeproof.evaluation.suites import Contribution, Member, Suite, Suited, evaluate_suite
from spikeproof.evaluation.verdicts import Clean, check_examples, evaluate_clean
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, Threat, check_key, check_kind_of_threat, moves_events
from spikeproof.statistics import Interval, draws_wanted, wilson
from spikeproof.threats import Linf, check_budget

__all__ = ["Report", "Subject", "audit", "proved_by", "threat_name"]

_EVIDENCE = "evidence"
"""Field of a contribution that a report leaves out."""
CERTIFICATES: tuple[Certificate, ...] = (Bins(), IBP())


def threat_name(threat: Threat) -> str:
    """The name of a threat in studies.

    Example:
        >>> from spikeproof.threats import SquarePatch
        >>> threat_name(SquarePatch(3)), threat_name(Linf(0.1))
        ('square-patch', 'linf')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(threat).__name__).lower()


@dataclass(frozen=True)
class Report:
    """One robust accuracy with its evidence and its verdict.

    Args:
        threat: the threat with its budget.
        suite: level of the suite.
        clean_accuracy: accuracy without an attack; NaN if nothing could be measured.
        clean_argmax: clean accuracy if the first of the best classes were the answer.
        accuracy: accuracy in the worst case over the suite, an upper bound of the robust accuracy; NaN if
            nothing could be measured.
        argmax: the same if the first of the best classes were the answer. The attacks stop at a tie, so a
            stronger attack on this number may exist.
        interval: 95 % Wilson interval of the accuracy; examples that are nearly the same count as one.
        certified: share of examples proved robust, a lower bound; None if no certificate applies.
        verdict: verdict of the audit, with its reasons.
        members: what each attack contributed.
        n: number of examples.
        suited: the outcome of every example; None if nothing could be measured.
        shape: shape of one example.
    """

    threat: Threat
    suite: str
    clean_accuracy: float
    clean_argmax: float
    accuracy: float
    argmax: float
    interval: Interval
    certified: float | None
    verdict: Verdict
    members: Sequence[Contribution]
    n: int
    suited: Suited | None
    shape: tuple[int, ...] = ()

    @property
    def images(self) -> Float[Tensor, "N *F"]:
        """For each example, the image on which accuracy is lowest; the clean image if no attack lowered it.

        Raises:
            InputError: nothing could be measured.
        """
        if self.suited is None:
            raise InputError(
                "Only a report of a measured model has images",
                str(self),
                "Mend the fault of the model that the verdict names first.",
            )
        images = self.suited.attacked.x_adv
        return images.reshape(len(images), *self.shape) if self.shape else images

    @property
    def reasons(self) -> list[str]:
        """Why the number is not supported, one sentence each."""
        return [f"{finding.check}: {finding.why}" for finding in self.verdict.findings]

    @property
    def notes(self) -> list[str]:
        """Further information that does not change the verdict, one sentence each."""
        return [f"{finding.check}: {finding.why}" for finding in self.verdict.notes]

    def plain(self) -> dict[str, object]:
        """The report as plain data for JSON."""
        return {
            "threat": threat_name(self.threat),
            "epsilon": self.threat.epsilon,
            "suite": self.suite,
            "n": self.n,
            "clean_accuracy": self.clean_accuracy,
            "clean_argmax": self.clean_argmax,
            "robust_accuracy": self.accuracy,
            "robust_argmax": self.argmax,
            "ci_low": self.interval.low,
            "ci_high": self.interval.high,
            "certified": self.certified,
            "verdict": self.verdict.verdict,
            "reasons": self.reasons,
            "notes": self.notes,
            "members": [{k: v for k, v in member.items() if k != _EVIDENCE} for member in self.members],
        }

    def __str__(self) -> str:
        low, high = 100 * self.interval.low, 100 * self.interval.high
        lines = [
            f"{threat_name(self.threat)} {self.threat.epsilon:.4g}, suite {self.suite}, {self.n} examples",
            f"  clean      {100 * self.clean_accuracy:.1f} %, by argmax {100 * self.clean_argmax:.1f} %",
            f"  robust     {100 * self.accuracy:.1f} %  [{low:.1f}, {high:.1f}], an upper bound",
            f"  by argmax  {100 * self.argmax:.1f} %, if the first of the best classes counts",
            *(
                ()
                if self.certified is None
                else (f"  certified  {100 * self.certified:.1f} %, a lower bound",)
            ),
            f"  verdict    {self.verdict.verdict}",
            *(f"    {reason}" for reason in (*self.reasons, *self.notes)),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class Subject:
    """A model with the examples on which it is measured, its clean outcomes and its diagnostics.

    Args:
        model: maps images to logits.
        images: test images, or events.
        labels: their labels.
        key: key of all randomness.
        draws: forward passes per verdict on a stochastic model.
        batch_size: examples per forward pass; does not change any number.
        clean: outcomes without an attack.
        diagnostics: of the model.
    """

    model: Model
    images: Tensor
    labels: Tensor
    key: Key
    draws: int
    batch_size: int
    clean: Clean
    diagnostics: Diagnostics

    @classmethod
    def of(
        cls,
        model: Model,
        images: Float[Tensor, "N *F"],
        labels: Int64[Tensor, "N"],
        key: Key,
        draws: int,
        batch_size: int = 100,
        *,
        events: bool = False,
    ) -> Subject:
        """Measure a model without an attack; examples are whole `events`, or values in [0, 1].

        Raises:
            InputError: there are no examples, or the model does not answer one row of finite logits per
                image.
            LeakError: the model answers equal calls differently.
        """
        diagnostics = examined(model, images, labels, key, events=events)
        ids = content_ids(images)
        clean = evaluate_clean(
            model, images, labels, key.fold("evaluation"), ids=ids, batch_size=batch_size, draws=draws
        )
        return cls(model, images, labels, key, draws, batch_size, clean, diagnostics)

    def attacked(
        self,
        threat: Threat,
        suite: str,
        members: Sequence[Member] | None = None,
        after: Suited | None = None,
    ) -> Suited:
        """The worst case over a suite, or over the given members."""
        return evaluate_suite(
            self.model,
            suite,
            threat,
            self.images,
            self.labels,
            self.clean,
            self.key.fold("attack"),
            batch_size=self.batch_size,
            draws=self.draws,
            members=members,
            after=after,
        )

    def report(
        self,
        threat: Threat,
        suite: str,
        suited: Suited,
        curve: Sequence[CurvePoint],
        more: Sequence[str] = (),
    ) -> Report:
        """The robust accuracy with its verdict and its certificate.

        Args:
            threat: the threat with its budget.
            suite: level of the suite.
            suited: outcome of the suite.
            curve: worst cases at all budgets of this threat, this one included.
            more: levels of further suites that ran at this budget.
        """
        metrics = suited.metrics()
        accuracy, n = metrics["robust_accuracy"], metrics["n"]
        own = self.model if isinstance(self.model, Classifier) else None
        proved = None
        if own is not None:
            proved = proved_by(own, threat, self.images, self.labels, self.key.fold("certify"))
        broken = suited.attacked.right < 1
        different = effective(groups_of(self.images))
        evidence = Evidence(
            accuracy=accuracy,
            interval=wilson(accuracy * different, different),
            n=n,
            clean_accuracy=self.clean.metrics()["clean_accuracy"],
            classes=class_count(self.model, self.images, self.key),
            epsilon=threat.epsilon,
            unbounded=isinstance(threat, Linf) and threat.epsilon >= 1,
            stochastic=bool(getattr(self.model, "stochastic", False)),
            attacks=suite_evidence(metrics),
            curve=curve,
            diagnostics=self.diagnostics,
            contradicted=0.0 if proved is None else float((proved & broken).double().mean()),
            dynamic_exit=exits(self.model),
            suites=[suite, *more],
            other_gradients=other_gradients(self.model),
            tie_share=metrics["tie_share"],
            argmax_accuracy=metrics["robust_argmax"],
            different=different,
            commonest=float(self.labels.bincount().max()) / n,
            by_call=by_call(self.model),
        )
        return Report(
            threat=threat,
            suite=suite,
            clean_accuracy=evidence.clean_accuracy,
            clean_argmax=self.clean.metrics()["clean_argmax"],
            accuracy=accuracy,
            argmax=metrics["robust_argmax"],
            interval=evidence.interval,
            certified=None if proved is None else float(proved.double().mean()),
            verdict=verdict_of(evidence),
            members=metrics["members"],
            n=n,
            suited=suited,
        )


def examined(model: Model, images: Tensor, labels: Tensor, key: Key, *, events: bool = False) -> Diagnostics:
    """The diagnostics of a model, on a few of the images, which may be whole events.

    Raises:
        InputError: the model does not answer one row of finite logits per image.
    """
    few = content_ids(images).argsort()[:DIAGNOSED].to(images.device)
    found = diagnose(model, images[few], labels[few], key.fold("inspect"), events=events)
    if found.failed is not None:
        raise InputError(
            "A model answers one row of finite logits per image",
            found.failed,
            "Mend the model, or train it again: nothing can be measured on such answers.",
        )
    return found


def class_count(model: Model, images: Tensor, key: Key) -> int:
    """The number of logits."""
    with torch.no_grad():
        return Steady(model)(images[:1], key.fold("classes").for_rows(range(1))).shape[1]


def _unmeasured(threat: Threat, suite: str, n: int, classes: int, diagnostics: Diagnostics) -> Report:
    """A report with a verdict and without a number."""
    nan = float("nan")
    evidence = Evidence(
        accuracy=nan,
        interval=wilson(0, n),
        n=n,
        clean_accuracy=nan,
        classes=classes,
        epsilon=threat.epsilon,
        diagnostics=diagnostics,
    )
    whole, verdict = Interval(0.0, 1.0), verdict_of(evidence)
    return Report(threat, suite, nan, nan, nan, nan, whole, None, verdict, (), n, None)


@torch.inference_mode(False)
def audit(
    model: Model | Callable[[Tensor], Tensor],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    threat: Threat,
    suite: str = Level.STANDARD.value,
    *,
    key: Key = Key.of(0),
    draws: int | None = None,
    batch_size: int = 100,
) -> Report:
    """Robust accuracy of any model under a suite of attacks, with interval, certificate and verdict.

    Args:
        model: maps images to logits, in evaluation mode: a `Classifier`, a module or a function. A model that
            draws random numbers takes a key after the images and declares `stochastic = True`.
        x: test images in [0, 1], or events if the threat moves events; a sample of all classes.
        y: their labels.
        threat: the threat with its budget, such as `Linf(8 / 255)`.
        suite: level of the suite: `quick`, `standard` or `extreme`.
        key: key of the randomness of attacks, and of the model if it is stochastic.
        draws: forward passes per verdict on a stochastic model; None for as many as leave 2 points to chance.
        batch_size: examples per forward pass; does not change any number.

    Returns:
        The number with its interval, the verdict with its reasons, a table of the attacks, and adversarial
        images. A model that answers equal calls differently gets the verdict `withheld` and no number.

    Raises:
        InputError: there are no examples, the model is in training mode or does not answer one row of finite
            logits per image, or the budget is larger than the box.

    Example:
        >>> x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> found = audit(lambda images: images, x, y, Linf(0.2), suite="quick")
        >>> found.accuracy, found.images.shape
        (0.5, torch.Size([2, 2]))
    """
    check_examples(x, y)
    check_batch(x, y)
    x, y = (given.detach().clone() if given.is_inference() else given.detach() for given in (x, y))
    check_key(key)
    check_kind_of_threat(threat)
    level = Suite(level=suite).level
    if not moves_events(threat):
        check_budget(threat, x.shape[1:])
    called, shape = answering(model), tuple(x.shape[1:])
    if not moves_events(threat) and len(shape) < 3:  # searches over patches work on images
        called, x = Shaped(called, shape), x.reshape(len(x), 1, -1, shape[-1] if shape else 1)
    many = (draws_wanted(len(x)) if len(x) else 1) if draws is None else draws
    try:
        subject = Subject.of(called, x, y, key, many, batch_size, events=moves_events(threat))
    except LeakError:
        found = examined(called, x, y, key, events=moves_events(threat))
        if not (found.remembers or found.randomness):
            raise  # the verdict would not explain why there is no number
        return _unmeasured(threat, level, len(x), class_count(called, x, key), found)
    suited = subject.attacked(threat, level)
    report = subject.report(threat, level, suited, [CurvePoint(threat.epsilon, suited.accuracy)])
    return replace(report, shape=shape)


def content_ids(images: Float[Tensor, "N *F"]) -> Int64[Tensor, "N"]:
    """Identities of examples, which depend on their content alone, so that no number depends on their order.

    Example:
        >>> x = torch.eye(3)
        >>> torch.equal(content_ids(x)[[2, 0]], content_ids(x[[2, 0]]))
        True
    """
    content = (each.tobytes() for each in images.detach().cpu().contiguous().numpy())
    digests = (hashlib.blake2b(each, digest_size=8).digest() for each in content)
    return torch.tensor([int.from_bytes(d, "little") >> 1 for d in digests], dtype=torch.int64)


def proved_by(
    model: Classifier,
    threat: Threat,
    x: Tensor,
    y: Tensor,
    key: Key,
    certificates: Iterable[Certificate] = CERTIFICATES,
) -> Bool[Tensor, "N"] | None:
    """Which examples at least one certificate proves robust; None if no certificate applies."""
    proved = [c(model, x, y, threat, key).certified for c in certificates if c.reason(model, threat) is None]
    return torch.stack(proved).any(0) if proved else None
