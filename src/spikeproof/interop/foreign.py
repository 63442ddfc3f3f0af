"""An attack of another library as a frozen dataclass, whose fields are its options in that library."""

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
    """An attack of another library, with the name and the options that it has in that library.

    Every subclass becomes a frozen dataclass with keyword-only fields and needs no decorator of its own.
    """

    norms: ClassVar[tuple[type[Threat], ...]] = ()
    gradient_free: ClassVar[bool] = False
    nearest: ClassVar[bool] = False  # whether it searches for the nearest image, without an epsilon
    takes: ClassVar[tuple[str, ...]] = ("eps",)  # arguments that the library needs besides the options
    default_steps: ClassVar[int] = 1  # number of gradient steps, where no option states it

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def options(self) -> dict[str, Option]:
        """The options as keyword arguments of the library."""
        return dict(vars(self))

    @property
    def gradient_steps(self) -> int:
        """The number of gradient steps in one run."""
        return 0 if self.gradient_free else int(getattr(self, "steps", self.default_steps))

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
                    "Leave out the options that you do not need to change.",
                )


class InTorchattacks(Foreign):
    """An attack of Torchattacks."""


class InFoolbox(Foreign):
    """An attack of Foolbox."""
