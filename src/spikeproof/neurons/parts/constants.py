"""Constants of neurons, checked when a neuron is made."""

from __future__ import annotations

import math

from spikeproof.errors import InputError

__all__ = ["falls_by", "positive", "share_lost"]


def positive(part: object, **values: float) -> None:
    """Refuse constants that are not positive and finite."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{type(part).__name__} needs {name} above 0.0", f"{name}={value}", "Try the default."
            )


def falls_by(dt: float, tau: float) -> float:
    """Share of an exponential with time constant `tau` that is left after one step of `dt` seconds.

    Example:
        >>> falls_by(1e-3, 1e-3) == math.exp(-1)
        True
    """
    return math.exp(-dt / tau)


def share_lost(dt: float, tau: float) -> float:
    """The logit of `1 - exp(-dt/tau)`, the share that such an exponential loses in one step.

    Example:
        >>> round(share_lost(math.log(2), 1.0), 9) + 0.0
        0.0
    """
    return math.log(-math.expm1(-dt / tau)) + dt / tau
