"""Losses that training minimises, and objectives that an attack maximises; both give one value per example.

A loss is a function of the outputs `[T, B, K]` and the logits `[B, K]`; an objective is a function of the
logits alone, since a foreign model has nothing else. None of them applies a soft-max twice, except for a
published mistake that is kept under its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.protocols import Decoder, Watched, output_width

__all__ = [
    "DLR",
    "KL",
    "TET",
    "CountMSE",
    "CrossEntropy",
    "DeepSupervision",
    "LogitCrossEntropy",
    "Loss",
    "Margin",
    "Objective",
    "RelativeTargets",
    "Rescaled",
    "SpikeLatency",
    "SpikeLatency2",
    "SpikeLatency3",
    "TimeMargin",
    "Watching",
    "finite",
    "tempered",
]


class Loss:
    """A training loss."""

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """The loss of each example."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def check(self, steps: int, classes: int) -> None:
        """Check, before any training, that the loss is defined for outputs of this size.

        Raises:
            InputError: it is not.
        """


@dataclass(frozen=True)
class CrossEntropy(Loss):
    r"""Cross-entropy on the decoder's logits, which trains every decoder.

    .. math:: L = -\log \mathrm{softmax}(y / \vartheta)_{label}

    With `Count` it is the cross-entropy of spike counts, with `FirstSpike` the one of negative spike times.

    Args:
        temperature: divisor :math:`\vartheta` of the logits, in their unit, positive.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> round(CrossEntropy()(logits[None], logits, torch.tensor([0])).item(), 4)
        0.1269

    Source:
        Ding et al. 2023 (`spike_latency2` for first spikes, with temperature 1).
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                "CrossEntropy needs a positive temperature", f"temperature={self.temperature}", "Try 1.0."
            )

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        return F.cross_entropy(logits / self.temperature, y, reduction="none")


@dataclass(frozen=True)
class CountMSE(Loss):
    r"""Squared distance of spike counts from desired counts; counts beyond their target cost nothing.

    .. math:: L = \frac{1}{2}\sum_k \delta_k^2,\quad \delta_k = (n_k - \hat n_k)/T

    with :math:`\delta_k = 0` where the label's neuron fires more, or another neuron fires less, than
    desired.

    Args:
        desired: desired number of spikes of the label's neuron, positive.
        undesired: tolerated number of spikes of every other neuron, at least 0.

    Example:
        >>> outputs = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
        >>> CountMSE(desired=2, undesired=0)(outputs, outputs.sum(0), torch.tensor([0])).item()
        0.125

    Source:
        Ding et al. 2023 and TSSL-BP (`spike_count`), summed once over classes instead of once per step.
    """

    desired: float = 6.0
    undesired: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.undesired < self.desired:
            raise InputError(
                "CountMSE needs 0 <= undesired < desired",
                f"desired={self.desired}, undesired={self.undesired}",
                "Try desired about 3/4 of the steps and undesired=1.",
            )

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        counts = outputs.sum(0)
        label = F.one_hot(y, counts.shape[-1]).bool()
        short = (self.desired - counts).clamp(min=0)
        excess = (counts - self.undesired).clamp(min=0)
        return 0.5 * (torch.where(label, short, excess) / outputs.shape[0]).square().sum(-1)


@dataclass(frozen=True)
class TET(Loss):
    r"""Temporal efficient training: cross-entropy at every step, plus a penalty on distances to a constant.

    .. math:: L = (1-\lambda)\frac{1}{T}\sum_t CE(o[t], y) + \lambda\,\mathrm{mean}_{t,k}(o_k[t]-\phi)^2

    Args:
        lam: weight of the penalty, in [0, 1].
        phi: the constant, in the unit of the outputs.

    Example:
        >>> outputs = torch.zeros(3, 1, 2)
        >>> round(TET(lam=0.0)(outputs, outputs.mean(0), torch.tensor([0])).item(), 4)
        0.6931

    Source:
        Deng et al. 2022 (TET), eq. (10)-(11).
    """

    lam: float = 1e-3
    phi: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise InputError("TET needs lam in [0, 1]", f"lam={self.lam}", "Try 0.001.")

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        steps, batch, classes = outputs.shape
        each = F.cross_entropy(outputs.reshape(-1, classes), y.repeat(steps), reduction="none")
        pull = (outputs - self.phi).square().mean((0, 2))
        return (1 - self.lam) * each.view(steps, batch).mean(0) + self.lam * pull


@dataclass(frozen=True)
class RelativeTargets(Loss):
    r"""Squared distance of spike times from targets relative to the earliest output spike.

    .. math:: L = \frac{1}{2}\sum_k (\hat t_k - t_k)^2, \quad m = \min_k t_k

    The target of the label is `m`. The target of every other neuron is `m + gamma`, but no later than the
    horizon `h`, or its own time if it spikes later than that. If all output neurons stay silent, so that all
    times are `h`, the target of the label is `h - gamma`. Outputs are spike times in earliness, 0 for
    silence.

    Args:
        gamma: desired lead of the label's neuron, in the unit of the spike times, positive.

    Example:
        >>> early = torch.tensor([[[7.0, 8.0, 1.0]]])
        >>> RelativeTargets(3.0)(early, early[0], torch.tensor([0])).item()
        5.0

    Source:
        Kheradpisheh & Masquelier 2020 (S4NN), eq. (6)-(8), in steps, without the division by the horizon.
    """

    gamma: float = 3.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise InputError("RelativeTargets needs a positive gamma", f"gamma={self.gamma}", "Try 3.0.")

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        early = outputs.sum(0)
        label = F.one_hot(y, early.shape[-1]).bool()
        best = early.detach().amax(-1, keepdim=True)
        behind = (best - self.gamma).clamp(min=0)
        target = torch.where(label, best.where(best > 0, self.gamma), early.detach().minimum(behind))
        return 0.5 * (early - target).square().sum(-1)


@dataclass(frozen=True)
class TimeMargin(Loss):
    r"""Squared shortfall of the lead by which the label's output neuron spikes before every other neuron.

    .. math:: L = \frac{1}{2}\sum_{k \ne y} \max(0,\ \gamma + t_y - t_k)^2

    The derivatives with respect to the spike times sum to zero: as much as other neurons are moved later, the
    label is moved earlier, so that the network does not fall silent step by step. Outputs are spike times in
    earliness, 0 for silence.

    Args:
        gamma: desired lead of the label's neuron, in the unit of the spike times, positive.

    Example:
        >>> early = torch.tensor([[[7.0, 8.0, 1.0]]])
        >>> TimeMargin(3.0)(early, early[0], torch.tensor([0])).item()
        8.0

    Source:
        The margin loss of Weston & Watkins 1999, squared, on spike times. The targets of S4NN itself are
        `relative-targets`, whose errors mostly move spikes later.
    """

    gamma: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise InputError("TimeMargin needs a positive gamma", f"gamma={self.gamma}", "Try 20.0.")

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        early = outputs.sum(0)
        lead = early.gather(-1, y[:, None]) - early
        short = (self.gamma - lead).clamp(min=0) * (1 - F.one_hot(y, early.shape[-1]))
        return 0.5 * short.square().sum(-1)


@dataclass(frozen=True)
class DeepSupervision(Loss):
    r"""Deep supervision over prefixes: the mean loss of the decoder after every step, to train early exits.

    .. math:: L = \sum_t w[t]\, L_{inner}(o[..t],\, D(o[..t]),\, y) \Big/ \sum_t w[t]

    with the decoder D applied to the outputs up to step t. Without deep supervision the early logits of a
    network are untrained.

    Args:
        decoder: the decoder D, normally the one inside the model's early exit, with one neuron per class; a
            population vote of the model comes before it.
        loss: the loss of every prefix.
        weights: the weight of each step, at least 0 and not all 0; empty for 1 each.

    Raises:
        InputError: weights that are negative, all zero, or of another number than the steps.

    Example:
        >>> from spikeproof.decoders import Count
        >>> outputs = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
        >>> round(DeepSupervision(Count())(outputs, outputs.sum(0), torch.tensor([0])).item(), 4)
        0.5032

    Source:
        Lee et al. 2015 (deeply-supervised nets), over prefixes of time in place of layers; TET is the case of
        a decoder of single steps.
    """

    decoder: Decoder
    loss: Loss = CrossEntropy()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        usable = all(0 <= weight < math.inf for weight in self.weights)
        if not usable or (self.weights and not any(self.weights)) or isinstance(self.loss, DeepSupervision):
            raise InputError(
                "DeepSupervision needs finite weights of at least 0, one of them positive, and a plain loss",
                f"weights={self.weights}, loss={self.loss!r}",
                "Leave out weights to give every step the same.",
            )

    def check(self, steps: int, classes: int) -> None:
        if self.weights and len(self.weights) != steps:
            raise InputError(
                f"DeepSupervision needs a weight for each of {steps} steps",
                f"{len(self.weights)} weights",
                "Give one weight per step of the encoder.",
            )
        if (width := output_width(self.decoder, classes)) != classes:
            raise InputError(
                "DeepSupervision needs a decoder that reads one output per class",
                f"{self.decoder!r}, which reads {width} for {classes} classes",
                "Use a decoder such as count.",
            )
        self.loss.check(1, classes)

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        self.check(*outputs.shape[::2])
        weights = self.weights or (1.0,) * len(outputs)
        total = torch.zeros_like(outputs[0, :, 0])
        for t, weight in enumerate(weights, 1):
            if weight:
                seen = outputs[:t]
                total = total + weight * self.loss(seen, self.decoder(seen), y)
        return total / sum(weights)


def _earliness(outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
    r"""`max_t o_k[t] (T - t)`: T for a spike in the first step, 1 in the last, 0 for silence.

    The gradient is the published one: only the step of the maximum has one, and among equal steps, silence
    included, only the first.
    """
    left = torch.arange(len(outputs), 0, -1, dtype=outputs.dtype, device=outputs.device)
    weighted = outputs * left[:, None, None]
    return weighted.gather(0, weighted.detach().argmax(0, keepdim=True))[0]


@dataclass(frozen=True)
class SpikeLatency(Loss):
    r"""Published `spike_latency`: cross-entropy of first-spike times with a soft-max applied twice.

    .. math:: L = -\log \mathrm{softmax}(\mathrm{softmax}(-\beta t))_{label}, \quad t_k = T + 1 - d_k,
              \quad d_k = \max_t o_k[t]\,(T - t)

    The loss is kept as it was published, for reproduction. The inner soft-max is a mistake: the loss cannot
    fall below :math:`\ln(1 + (K-1)/e)`, which is 1.46 for ten classes, and its gradient nearly vanishes where
    the network is confident. Only the first spike of a neuron has a gradient, and step 0 of a silent neuron.
    For training, use `spike-latency-2`, or cross-entropy with the decoder first-spike, whose gradient reaches
    silent neurons at every step.

    Args:
        beta: sharpness of the inner soft-max, per step, positive.

    Raises:
        InputError: beta is not positive.

    Example:
        >>> outputs = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
        >>> round(SpikeLatency()(outputs, outputs.sum(0), torch.tensor([0])).item(), 4)
        0.3231

    Source:
        Ding et al. 2023, published code (`spike_latency`).
    """

    beta: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InputError("SpikeLatency needs a positive beta", f"beta={self.beta}", "Try 2.0.")

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        times = len(outputs) + 1 - _earliness(outputs)
        return F.cross_entropy((-self.beta * times).softmax(-1), y, reduction="none")


@dataclass(frozen=True)
class SpikeLatency2(Loss):
    r"""Published `spike_latency2`: cross-entropy of the earliness of first spikes.

    .. math:: L = -\log \mathrm{softmax}(d)_{label}, \quad d_k = \max_t o_k[t]\,(T - t)

    The value equals cross-entropy with the decoder first-spike. The gradient is the published one: only the
    first spike of a neuron has a gradient, and step 0 of a silent neuron.

    Example:
        >>> outputs = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
        >>> round(SpikeLatency2()(outputs, outputs.sum(0), torch.tensor([0])).item(), 4)
        0.1269

    Source:
        Ding et al. 2023, published code (`spike_latency2`).
    """

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        return F.cross_entropy(_earliness(outputs), y, reduction="none")


@dataclass(frozen=True)
class SpikeLatency3(Loss):
    r"""Published `spike_latency3`: the loss of `spike_latency2` at half the temperature.

    .. math:: L = -\log \mathrm{softmax}(2 (d - T))_{label}, \quad d_k = \max_t o_k[t]\,(T - t)

    Example:
        >>> outputs = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
        >>> round(SpikeLatency3()(outputs, outputs.sum(0), torch.tensor([0])).item(), 4)
        0.0181

    Source:
        Ding et al. 2023, published code (`spike_latency3`).
    """

    def __call__(
        self, outputs: Float[Tensor, "T B K"], logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        return F.cross_entropy(2 * (_earliness(outputs) - len(outputs)), y, reduction="none")


LEAST, MOST = 1e-2, 20.0
"""Range of the spread of logits within which cross-entropy uses them unchanged."""


def finite(logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The logits, with infinite ones moved beyond the others by a hundred times the spread of these.

    Order and ties stay the same, so that objectives are finite and have a gradient where a class is masked by
    minus infinity. NaN stays NaN.

    Example:
        >>> finite(torch.tensor([[1.0, 3.0, -torch.inf]])).tolist()
        [[1.0, 3.0, -199.0]]
    """
    known = logits.isfinite()
    if bool(known.all()) or bool((known | logits.isnan()).all()):
        return logits
    low, high = _ends(logits)
    far = 100 * torch.where(high > low, high - low, torch.ones_like(high))
    return torch.where(known | logits.isnan(), logits, torch.where(logits > 0, high + far, low - far))


def tempered(logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    r"""Logits for a soft-max: unchanged, or scaled to a spread at which its gradient does not round to zero.

    .. math:: z\,\max(1, l/s)\,\min(1, h/s), \quad s = \max_k z_k - \min_k z_k

    with the spread s of the finite logits of each example, taken as a constant, l = 0.01 and h = 20. With a
    smaller spread, losses round to the same value; with a larger spread, the gradient rounds to zero.

    Example:
        >>> tempered(torch.tensor([[2.0, 0.0], [0.0, 1e-7], [0.0, 4e5]])).tolist()
        [[2.0, 0.0], [0.0, 0.009999999776482582], [0.0, 20.0]]
    """
    low, high = _ends(logits)
    spread = high - low
    plain = (spread >= LEAST) & (spread <= MOST)
    if bool(plain.all()):
        return finite(logits)
    scale = torch.where(spread > 0, spread.clamp(LEAST, MOST) / spread, torch.ones_like(spread))
    return finite(logits) * torch.where(plain, torch.ones_like(scale), scale)


def _ends(logits: Float[Tensor, "B K"]) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """The smallest and the largest finite logit of each example, or 0 where there is none."""
    known, seen = logits.isfinite(), logits.detach()
    if bool(known.all()):
        return seen.amin(-1, keepdim=True), seen.amax(-1, keepdim=True)
    low = seen.masked_fill(~known, torch.inf).amin(-1, keepdim=True)
    high = seen.masked_fill(~known, -torch.inf).amax(-1, keepdim=True)
    none = ~known.any(-1, keepdim=True)
    return low.masked_fill(none, 0), high.masked_fill(none, 0)


class Objective:
    """A function of the logits that an attack maximises."""

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The value of each example, larger where the model is closer to an error."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")

    def towards(
        self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], target: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """The value of each example, larger where the model is closer to the answer `target`."""
        return -self(logits, target)

    def suits(self, decoder: Decoder) -> bool:
        """Whether the objective is defined for models with this decoder."""
        return True


class Watching(Objective):
    """An objective of the output layer over time, which logits alone do not determine."""

    wants_potential: ClassVar[bool] = False
    """Whether the objective needs the potentials of the output neurons."""

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        raise InputError(
            f"{type(self).__name__} needs outputs over time",
            "logits alone",
            "Use it in a gradient attack on a model with time steps.",
        )

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        """The value of each example, larger where the model is closer to an error, or to `target`."""
        raise NotImplementedError(f"{type(self).__name__} defines no objective")


@dataclass(frozen=True)
class LogitCrossEntropy(Objective):
    """Cross-entropy of the logits, rescaled where their spread would make its gradient round to zero.

    Logits with a spread between 0.01 and 20 are used unchanged (`tempered`).

    Example:
        >>> round(LogitCrossEntropy()(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1269

    Source:
        Goodfellow et al. 2015, section 4.
    """

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        return F.cross_entropy(tempered(logits), y, reduction="none")


@dataclass(frozen=True)
class Margin(Objective):
    r"""Best other logit minus the label's logit: positive exactly where another class wins, zero at a tie.

    .. math:: \max_{k \ne y} z_k - z_y

    Example:
        >>> Margin()(torch.tensor([[2.0, 0.5]]), torch.tensor([0])).item()
        -1.5

    Source:
        Carlini & Wagner 2017, section V.A (f6).
    """

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        logits, label = finite(logits), F.one_hot(y, logits.shape[-1]).bool()
        return logits.masked_fill(label, -torch.inf).amax(-1) - logits.masked_fill(~label, -torch.inf).amax(
            -1
        )

    def towards(
        self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], target: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """The logit of the target minus the logit of the label."""
        logits = finite(logits)
        return _at(logits, target) - _at(logits, y)


@dataclass(frozen=True)
class DLR(Objective):
    r"""Difference of logits ratio: the margin, independent of the scale of the logits.

    It is defined for three or more classes.

    .. math:: -\frac{z_y - \max_{k \ne y} z_k}{z_{\pi_1} - z_{\pi_3}}

    Raises:
        InputError: fewer than three classes.

    Example:
        >>> DLR()(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0])).item()
        -0.666...

    Source:
        Croce & Hein 2020 (AutoAttack), eq. (6).
    """

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        if logits.shape[-1] < 3:
            raise InputError("DLR needs at least three classes", f"{logits.shape[-1]}", "Use Margin().")
        logits = finite(logits)
        top = logits.topk(3, -1).values
        return Margin()(logits, y) / _apart(top[:, 0] - top[:, 2])

    def towards(
        self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], target: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        r"""The targeted ratio of AutoAttack, eq. (7); needs four classes or more.

        .. math:: -\frac{z_y - z_t}{z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2}

        Raises:
            InputError: fewer than four classes.
        """
        if logits.shape[-1] < 4:
            raise InputError("Targeted DLR needs four classes", f"{logits.shape[-1]}", "Use Margin().")
        logits = finite(logits)
        top = logits.topk(4, -1).values
        scale = _apart(top[:, 0] - (top[:, 2] + top[:, 3]) / 2)
        return Margin().towards(logits, y, target) / scale


@dataclass(frozen=True)
class KL(Objective):
    r"""Divergence of the answer from the answer to the clean image, independent of the label.

    .. math:: \sum_k p_k(x) \log \frac{p_k(x)}{p_k(x')},\quad p = \mathrm{softmax}(z)

    The divergence and its gradient are zero at the clean image, so a search must start elsewhere, at random.
    The search provides the answer to the clean image; without it the divergence is not defined.

    Raises:
        InputError: the call has no answer to the clean image.

    Example:
        >>> z = torch.tensor([[1.0, 0.0]])
        >>> round(KL().against(z, -z).item(), 4), KL().against(z, z).item()
        (0.4621, 0.0)

    Source:
        Zhang et al. 2019 (TRADES), eq. (5), as an attack.
    """

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        raise InputError(
            "KL needs the answer to the clean image", "logits alone", "Use it in a gradient attack."
        )

    def against(self, logits: Float[Tensor, "B K"], clean: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        """The divergence of logits from the logits of the clean images."""
        low, high = _ends(clean)
        spread = high - low  # both answers have the scale of the clean one
        scale = torch.where(spread > 0, spread.clamp(LEAST, MOST) / spread, torch.ones_like(spread))
        now, before = ((finite(z) * scale).log_softmax(-1) for z in (logits, clean))
        return F.kl_div(now, before, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True)
class Rescaled(Objective):
    r"""Another objective on logits that are scaled to one spread, so that a soft-max cannot saturate.

    .. math:: L(c z / s),\quad s = \mathrm{std}_k(z) \text{, taken as a constant}

    In networks with large logits, such as spike counts over many steps, the gradient of cross-entropy is
    exactly zero in single precision.

    Args:
        objective: the function that the attack maximises.
        spread: standard deviation `c` of the logits of each example, positive.

    Raises:
        InputError: a spread that is not positive, or an objective that needs more than logits and labels.

    Example:
        >>> z, y = torch.tensor([[300.0, 0.0, 0.0]]), torch.tensor([0])
        >>> abs(LogitCrossEntropy()(z, y).item()), round(Rescaled()(z, y).item(), 3)
        (0.0, 0.215)

    Source:
        Carlini & Wagner 2017, section IV.B, on too large logits; Hitaj et al. 2021 (logit scaling).
    """

    objective: Objective = LogitCrossEntropy()
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not self.spread > 0 or isinstance(self.objective, (KL, Watching)):
            raise InputError(
                "Rescaled needs a positive spread and an objective of logits and labels",
                repr(self),
                "Try Rescaled(LogitCrossEntropy(), 1.0).",
            )

    def scaled(self, logits: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """The logits scaled to this spread; equal logits stay unchanged."""
        logits = finite(logits)
        spread = logits.detach().std(-1, correction=0, keepdim=True)
        return logits * torch.where(spread > 0, self.spread / spread, torch.ones_like(spread))

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"]) -> Float[Tensor, "B"]:
        return self.objective(self.scaled(logits), y)

    def towards(
        self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], target: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B"]:
        """The targeted value of the inner objective, on the logits scaled to this spread."""
        return self.objective.towards(self.scaled(logits), y, target)


def _apart(difference: Tensor) -> Tensor:
    """A difference as a divisor; zero is replaced by 1e-12."""
    return torch.where(difference > 0, difference, torch.full_like(difference, 1e-12))


def _at(logits: Tensor, index: Tensor) -> Tensor:
    return logits.gather(-1, index[:, None])[:, 0]
