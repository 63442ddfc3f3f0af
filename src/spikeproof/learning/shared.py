"""Trainings whose batches several devices share: how many devices there are, and what they do together.

Every device holds the whole model and computes its part of each batch. Gradients are averaged before each
step, and batch normalisation sees the whole batch, so that the devices take the same step, which is that of
one device up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field

from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["ALONE", "Alone", "Shared", "chosen_devices", "using_devices"]


@dataclass
class Shared:
    """The devices of a block of code, and what was trained on them.

    Args:
        count: number of devices.
        precisions: of the forward passes of every training that the devices shared.
    """

    count: int = 1
    precisions: list[str] = field(default_factory=list)


_chosen: ContextVar[Shared | None] = ContextVar("devices", default=None)


def chosen_devices() -> Shared:
    """The devices of this block of code.

    Example:
        >>> chosen_devices().count
        1
    """
    return _chosen.get() or Shared()


@contextmanager
def using_devices(count: int) -> Iterator[Shared]:
    """Let devices share each training by backpropagation in the block; it needs the extra `devices`.

    With one device trainings are as they are without the block. Random draws of encoders and attacks differ
    between the devices. Trained weights depend on the number of devices: in their last digits, or more where
    training is long or draws at random.

    Args:
        count: number of devices, at least 1.

    Raises:
        InputError: no device.

    Example:
        >>> with using_devices(1) as shared:
        ...     shared.count, shared.precisions
        (1, [])
    """
    if count < 1:
        raise InputError("Training needs at least one device", f"devices={count}", "Try 1.")
    token = _chosen.set(Shared(count))
    try:
        yield chosen_devices()
    finally:
        _chosen.reset(token)


class Alone:
    """One device of a training, which here is the only one."""

    first: bool = True
    """Whether the device saves and reports."""

    count: int = 1

    def take(self, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> tuple[Tensor, Tensor, Key]:
        """This device's part of a batch, and the key of its draws."""
        return x, y, key

    def average(self, parameters: Sequence[Tensor]) -> None:
        """Replace gradients by those of the mean loss of the whole batch."""

    def mean(self, over_part: Float[Tensor, "*F"]) -> Float[Tensor, "*F"]:
        """The mean over the whole batch of what is a mean over this device's part, such as the loss."""
        return over_part

    def wait(self) -> None:
        """Wait for the other devices."""

    def prepared(self, *models: nn.Module) -> AbstractContextManager[None]:
        """Models whose layers see the whole batch, inside the block."""
        return nullcontext()


ALONE = Alone()
