"""Constants of neurons, checked when a neuron is made."""

from __future__ import annotations

import math

from spikeproof.errors import InputError

__all__ = ["falls_by", "positive"]


def positive(part: object, **values: float) -> None:
    """Refuse constants that are not positive and finite."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{type(part).__name__} needs {name} above 0.0", f"{name}={value}", "Try the default."
            )


def falls_by(dt: float, tau: float) -> float:
    """Share that is left after one step of `dt` seconds of an exponential with time constant `tau`.

    Example:
        >>> falls_by(1e-3, 1e-3) == math.exp(-1)
        True
    """
    return math.exp(-dt / tau)
