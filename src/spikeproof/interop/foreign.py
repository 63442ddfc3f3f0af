"""What an attack of another library is here: a frozen dataclass whose fields are its options over there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, dataclass_transform

from spikeproof.errors import InputError
from spikeproof.protocols import Threat

__all__ = ["Foreign", "InFoolbox", "InTorchattacks", "Option"]

Option = bool | int | float | str
"""The value of an option of another library."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Foreign:
    """An attack of another library, by the name and with the options it has there.

    Every subclass is a frozen dataclass with keyword-only fields, without a decorator of its own.
    """

    norms: ClassVar[tuple[type[Threat], ...]] = ()
    gradient_free: ClassVar[bool] = False
    nearest: ClassVar[bool] = False  # looks for the nearest adversarial image and knows no epsilon
    takes: ClassVar[tuple[str, ...]] = ("eps",)  # what the library must be told besides options
    looks: ClassVar[int] = 1  # gradient steps, where no option says how many

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def options(self) -> dict[str, Option]:
        """The options, as the library's keyword arguments."""
        return dict(vars(self))

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of one run."""
        return 0 if self.gradient_free else int(getattr(self, "steps", self.looks))

    def __post_init__(self) -> None:
        for name, value in self.options().items():
            match value:
                case bool() | str():
                    continue
                case int():
                    least = 1
                case float():
                    least = 0
            if value < least:
                raise InputError(
                    f"{type(self).__name__} needs {name} of at least {least}",
                    f"{name}={value!r}",
                    "Leave out what you do not need to change.",
                )


class InTorchattacks(Foreign):
    """An attack of Torchattacks."""


class InFoolbox(Foreign):
    """An attack of Foolbox."""
