"""Signing off any model: a suite of attacks within one budget, an audit of the number, and a certificate.

`audit` is the one verb; a command, a study or a notebook that asks for a number with a verdict ends here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.auditing.assess import PROBED as EXAMINED
from spikeproof.auditing.assess import suite_evidence
from spikeproof.auditing.checks import Verdict
from spikeproof.auditing.checks import audit as verdict_of
from spikeproof.auditing.diagnostics import probe
from spikeproof.auditing.evidence import CurvePoint, Evidence, ProbeEvidence
from spikeproof.decoders import dynamic_exit
from spikeproof.errors import InputError
from spikeproof.evaluation.callables import LeakError, Shaped, answering
from spikeproof.evaluation.certificates import IBP, Bins, Certificate
from spikeproof.evaluation.suites import Contribution, Member, Suite, Suited, evaluate_suite
from spikeproof.evaluation.verdicts import Clean, evaluate_clean
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, Threat, check_key, check_kind_of_threat, check_tensors, moves_events
from spikeproof.statistics import Interval, draws_wanted, wilson
from spikeproof.threats import Linf, check_budget

__all__ = ["Report", "Subject", "audit", "proved_by", "threat_name"]

CERTIFICATES: tuple[Certificate, ...] = (Bins(), IBP())


def threat_name(threat: Threat) -> str:
    """A threat as studies call it.

    Example:
        >>> from spikeproof.threats import SquarePatch
        >>> threat_name(SquarePatch(3)), threat_name(Linf(0.1))
        ('square-patch', 'linf')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(threat).__name__).lower()


@dataclass(frozen=True)
class Report:
    """One robust accuracy with all that it rests on.

    Args:
        threat: with its budget.
        suite: its level.
        clean_accuracy: without an attack; NaN where nothing could be measured.
        clean_argmax: the same if the first of the best classes were the answer.
        accuracy: in the worst case over the suite; an upper bound of the robust accuracy. NaN where nothing
            could be measured.
        argmax: the same if the first of the best classes were the answer; attacks end at a tie.
        interval: its 95 % Wilson interval.
        certified: share of examples proved robust, a lower bound; None where no certificate applies.
        verdict: of the audit, with reasons.
        members: what each attack contributed.
        n: number of examples.
        suited: the outcome of every example; None where nothing could be measured.
        shape: of one example.
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
        """The image of each example that did most harm; the example itself where nothing did.

        Raises:
            InputError: nothing could be measured.
        """
        if self.suited is None:
            raise InputError("A model that was measured", str(self), "Mend what the verdict names first.")
        images = self.suited.attacked.x_adv
        return images.reshape(len(images), *self.shape) if self.shape else images

    @property
    def reasons(self) -> list[str]:
        """Why the number is not supported, one sentence each."""
        return [f"{finding.check}: {finding.why}" for finding in self.verdict.findings]

    @property
    def notes(self) -> list[str]:
        """What is worth knowing besides, one sentence each."""
        return [f"{finding.check}: {finding.why}" for finding in self.verdict.notes]

    def plain(self) -> dict[str, object]:
        """As plain data."""
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
            "members": [{k: v for k, v in member.items() if k != "evidence"} for member in self.members],
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
    """A model with the examples it is measured on, and what is known of it before any attack.

    Args:
        model: images to logits.
        images: test images, or events.
        labels: their labels.
        key: all randomness.
        draws: per verdict of a stochastic model.
        batch_size: examples at a time; changes no number.
        clean: outcomes without an attack.
        seen: what the diagnostics of the model showed.
    """

    model: Model
    images: Tensor
    labels: Tensor
    key: Key
    draws: int
    batch_size: int
    clean: Clean
    seen: ProbeEvidence

    @classmethod
    def of(
        cls,
        model: Model,
        images: Float[Tensor, "N *F"],
        labels: Int64[Tensor, "N"],
        key: Key,
        draws: int,
        batch_size: int = 100,
    ) -> Subject:
        """The model asked without an attack.

        Raises:
            InputError: no examples, or a model that does not answer one row of finite logits per image.
            LeakError: a model that answers equal calls differently.
        """
        seen = examined(model, images, labels, key)
        ids = content_ids(images)
        clean = evaluate_clean(
            model, images, labels, key.fold("evaluation"), ids=ids, batch_size=batch_size, draws=draws
        )
        return cls(model, images, labels, key, draws, batch_size, clean, seen)

    def attacked(
        self,
        threat: Threat,
        suite: str,
        members: Sequence[Member] | None = None,
        after: Suited | None = None,
    ) -> Suited:
        """The worst case over a suite, or over the members given."""
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
        """The number with its verdict and its certificate.

        Args:
            threat: with its budget.
            suite: its level.
            suited: what the suite found.
            curve: worst cases at all budgets of this threat, this one included.
            more: levels of suites that were run besides.
        """
        metrics = suited.metrics()
        accuracy, n = metrics["robust_accuracy"], metrics["n"]
        own = self.model if isinstance(self.model, Classifier) else None
        proved = None
        if own is not None:
            proved = proved_by(own, threat, self.images, self.labels, self.key.fold("certify"))
        broken = suited.attacked.right < 1
        evidence = Evidence(
            accuracy=accuracy,
            interval=wilson(accuracy * n, n),
            n=n,
            clean_accuracy=self.clean.metrics()["clean_accuracy"],
            classes=class_count(self.model, self.images, self.key),
            epsilon=threat.epsilon,
            unbounded=isinstance(threat, Linf) and threat.epsilon >= 1,
            stochastic=bool(getattr(self.model, "stochastic", False)),
            attacks=suite_evidence(metrics),
            curve=curve,
            probe=self.seen,
            contradicted=0.0 if proved is None else float((proved & broken).double().mean()),
            dynamic_exit=own is not None and dynamic_exit(own.spec.decoder),
            suites=[suite, *more],
            other_gradients=own is not None and own.spec.neuron.spiking,
            tie_share=metrics["tie_share"],
            argmax_accuracy=metrics["robust_argmax"],
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


def examined(model: Model, images: Tensor, labels: Tensor, key: Key) -> ProbeEvidence:
    """What the diagnostics of a model show on a few of the images.

    Raises:
        InputError: the model does not answer one row of finite logits per image.
    """
    few = content_ids(images).argsort()[:EXAMINED].to(images.device)
    seen = probe(model, images[few], labels[few], key.fold("inspect"))
    if seen.failed is not None:
        raise InputError(
            "A model that answers one row of finite logits per image",
            seen.failed,
            "Mend the model, or train it again: nothing can be measured on such answers.",
        )
    return seen


def class_count(model: Model, images: Tensor, key: Key) -> int:
    """The number of logits."""
    with torch.no_grad():
        return model(images[:1], key.fold("classes").for_rows(range(1))).shape[1]


def _unmeasured(threat: Threat, suite: str, n: int, classes: int, seen: ProbeEvidence) -> Report:
    """A verdict without a number."""
    nan = float("nan")
    evidence = Evidence(
        accuracy=nan,
        interval=wilson(0, n),
        n=n,
        clean_accuracy=nan,
        classes=classes,
        epsilon=threat.epsilon,
        probe=seen,
    )
    whole, verdict = Interval(0.0, 1.0), verdict_of(evidence)
    return Report(threat, suite, nan, nan, nan, nan, whole, None, verdict, (), n, None)


def audit(
    model: Model | Callable[[Tensor], Tensor],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    threat: Threat,
    suite: str = "standard",
    *,
    key: Key = Key.of(0),
    draws: int | None = None,
    batch_size: int = 100,
) -> Report:
    """Robust accuracy of any model under a suite of attacks, with interval, certificate and verdict.

    Args:
        model: images to logits, in evaluation mode: a model of ours, a module or a function. One that draws
            random numbers takes a key after the images and declares `stochastic = True`.
        x: test images in [0, 1], or events where the threat moves events; a sample of all classes.
        y: their labels.
        threat: the budget, such as `Linf(8 / 255)`.
        suite: `quick`, `standard` or `extreme`.
        key: randomness of attacks, and of the model where it draws.
        draws: per verdict of a stochastic model; None for as many as leave 2 points to chance.
        batch_size: examples at a time; changes no number.

    Returns:
        The number, its interval, the verdict with its reasons, a table of the attacks, adversarial images. A
        model that answers equal calls differently has the verdict `withheld` and no number.

    Raises:
        InputError: no examples, a model in training mode or one that does not answer one row of finite logits
            per image, or a budget larger than the box.

    Example:
        >>> x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> found = audit(lambda images: images, x, y, Linf(0.2), suite="quick")
        >>> found.accuracy, found.images.shape
        (0.5, torch.Size([2, 2]))
    """
    check_tensors(images=x, labels=y)
    check_key(key)
    check_kind_of_threat(threat)
    level = Suite(level=suite).level
    if not moves_events(threat):
        check_budget(threat, x.shape[1:])
    asked, shape = answering(model), tuple(x.shape[1:])
    if not moves_events(threat) and len(shape) < 3:  # searches over patches work on images
        asked, x = Shaped(asked, shape), x.reshape(len(x), 1, -1, shape[-1] if shape else 1)
    many = draws_wanted(len(x)) if draws is None and len(x) else draws or 1
    try:
        subject = Subject.of(asked, x, y, key, many, batch_size)
    except LeakError:
        seen = examined(asked, x, y, key)
        if not (seen.remembers or seen.randomness):
            raise  # the verdict would not say why there is no number
        return _unmeasured(threat, level, len(x), class_count(asked, x, key), seen)
    suited = subject.attacked(threat, level)
    found = subject.report(threat, level, suited, [CurvePoint(threat.epsilon, suited.accuracy)])
    return replace(found, shape=shape)


def content_ids(images: Float[Tensor, "N *F"]) -> Int64[Tensor, "N"]:
    """Identities of examples that depend on their content alone, so that no number depends on their order.

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
    """Which examples some certificate proves; None where none applies."""
    proved = [c(model, x, y, threat, key).certified for c in certificates if c.reason(model, threat) is None]
    return torch.stack(proved).any(0) if proved else None
