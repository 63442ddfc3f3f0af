"""Trial forward passes: how a network can be called, what it returns, and how many steps its neurons see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.asking.leaks import ALIKE
from spikeproof.interop.frameworks.adapters import (
    Adapter,
    Layout,
    at_rest,
    modules_inside,
    opaque,
    resting,
)
from spikeproof.interop.frameworks.wrapped import AsItIs, called
from spikeproof.keys import Key
from spikeproof.protocols import Encoder

__all__ = ["FEW", "Trial", "TrialPass", "UnfitError", "alike", "draws", "layout_of", "moved"]

FEW = 3
"""Examples that a network is tried with; one fewer tells the axis of examples from the others."""


class TrialPass(NamedTuple):
    """The result of a trial forward pass."""

    found: Tensor
    steps: int | None  # that every layer of known neurons saw; None without any
    passes: bool


class UnfitError(Exception):
    """The network cannot be called in this way; the argument says why."""


@dataclass(frozen=True)
class Trial:
    """A network with the examples for trial forward passes.

    Args:
        call: the network, or a function that calls it.
        adapters: those of the frameworks that it is made with.
        parts: its modules, with their names.
        x: examples.
        encoder: what turns examples into its input.
        output: which part of its answer is read.
        reset: what brings a state of its own to rest.
    """

    call: Callable[..., object]
    adapters: Sequence[Adapter]
    parts: Sequence[tuple[str, nn.Module]]
    x: Tensor
    encoder: Encoder
    output: int | str | None
    reset: Callable[[], object] | None

    @property
    def keeping(self) -> list[tuple[Adapter, nn.Module]]:
        """The modules that keep a state, each with the adapter that knows it."""
        return resting([module for _, module in self.parts], self.adapters)

    def encoded(self, n: int) -> Tensor:
        """The network's input for the first examples."""
        dtype = next((p.dtype for _, m in self.parts for p in m.parameters(recurse=False)), self.x.dtype)
        x = self.x[:n].to(dtype) if self.x.is_floating_point() else self.x[:n]
        with at_rest(resting(modules_inside(self.encoder), self.adapters)), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.encoder(x, Key.of(0).for_rows(range(n))).to(dtype).clone()

    def run(self, layout: Layout, n: int = FEW) -> TrialPass:
        """One call with the first examples.

        Raises:
            UnfitError: the network cannot be called in this way.
        """
        encoded, seen = self.encoded(n), dict[int, list[tuple[int, int]]]()
        passes = layout is Layout.CALLS and self._passes(encoded[0])
        with torch.no_grad(), self.quiet(), self._counting(seen):
            try:
                found = called(self.call, layout, encoded, self.output, passes)
            except InputError:
                raise
            except Exception as error:  # whatever a network raises at an input of another shape
                raise UnfitError(f"{type(error).__name__}: {str(error).strip()[:160]}") from error
        batches = {batch for calls in seen.values() for _, batch in calls}
        if batches - {n}:
            raise UnfitError(f"its neurons take {sorted(batches)} examples for {n}")
        totals = {sum(steps for steps, _ in calls) for calls in seen.values()}
        least = min(totals, default=None)
        if least is not None and (least < 1 or any(total % least for total in totals)):  # some serve twice
            raise UnfitError(f"its layers see different numbers of steps, {sorted(totals)}")
        return TrialPass(found, least, passes)

    def _passes(self, x: Tensor) -> bool:
        """Whether a call returns a state beside its output that the next call takes."""
        with torch.no_grad(), self.quiet():
            try:
                answer = self.call(x)
                if not (isinstance(answer, tuple) and len(answer) == 2) or isinstance(answer[1], Tensor):
                    return False
                self.call(x, answer[1])
            except Exception:  # the trial that follows says what is wrong
                return False
        return True

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """At rest, and with one seed for whatever draws."""
        with at_rest(self.keeping), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if self.reset is not None:
                self.reset()
            yield

    @contextmanager
    def _counting(self, seen: dict[int, list[tuple[int, int]]]) -> Iterator[None]:
        """Note how many steps and examples each layer of known neurons sees."""

        def note(module: nn.Module, given: tuple[object, ...]) -> None:
            for adapter in self.adapters:
                if given and isinstance(given[0], Tensor):
                    found = adapter.extent(module, given[0])
                    if found is not None:
                        seen.setdefault(id(module), []).append(found)

        seen_through = [module for _, module in self.parts if not opaque(module)]
        handles = [module.register_forward_pre_hook(note) for module in seen_through]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def layout_of(trial: Trial, time: str | None, over_time: bool) -> Layout:
    """How the network is called.

    Raises:
        InputError: several ways are possible, or none.
    """
    if time is not None:
        names = [layout.value for layout in Layout]
        if time not in names:
            raise InputError("A place of the time axis", repr(time), suggest(time, names))
        if over_time == (Layout(time) is Layout.INSIDE):
            raise InputError(
                "steps= or encoder= for a network that takes input over time, and neither with time='inside'",
                f"time={time!r} and {trial.encoder!r}",
                "Say how many steps there are, or leave out steps and encoder.",
            )
        try:
            trial.run(Layout(time))
        except UnfitError as why:
            raise InputError(
                f"A network that can be called with time={time!r}", str(why), "Leave out time."
            ) from why
        return Layout(time)
    if not over_time:
        return _inside(trial)
    layouts = trial.adapters[0].layouts() if trial.adapters else Adapter().layouts()
    reasons, fitting = dict[Layout, str](), list[Layout]()
    for layout in layouts:
        try:
            _check_fit(trial, layout)
        except UnfitError as unfit:
            reasons[layout] = str(unfit)
        else:
            fitting.append(layout)
    if len(fitting) == 1 or (fitting and trial.encoder.steps == 1):  # one step is the same in all ways
        return fitting[0]
    if fitting:
        ways = " and ".join(f"time={layout.value!r}" for layout in fitting)
        raise InputError(
            "A network that takes time in one way", f"one that can be called with {ways}", "Say which."
        )
    if _makes_time(trial):
        raise InputError(
            "A network that takes input over time, of which steps= or encoder= are told",
            "one that takes images and makes its own time",
            "Leave out steps and encoder.",
        )
    listed = "; ".join(f"{layout.value}: {reason}" for layout, reason in reasons.items())
    raise InputError(
        f"A network that takes {trial.encoder.steps} steps of {list(trial.encoded(1).shape[2:])}",
        f"one that cannot be called so ({listed})",
        "Wrap a function that calls it in one of these ways.",
    )


def _check_fit(trial: Trial, layout: Layout) -> None:
    """Refuse a way of calling that the network cannot be meant for."""
    tried, fewer = trial.run(layout), trial.run(layout, FEW - 1)
    if tried.steps not in (None, trial.encoder.steps):
        raise UnfitError(f"its neurons see {tried.steps} steps")
    if layout is Layout.CALLS and tried.steps is None and trial.encoder.steps > 1 and not tried.passes:
        raise UnfitError("nothing in it is known to keep a state between calls")
    if layout is Layout.CALLS and trial.adapters and not tried.passes and not trial.keeping:
        raise UnfitError("it returns no state that the next call could take")
    axes = moved(tried.found, fewer.found)
    if len(axes) != 1 or tried.found.ndim not in (2, 3):
        raise UnfitError(f"its answers have the shape {list(tried.found.shape)}")
    first = tried.found.narrow(axes[0], 0, FEW - 1)
    if not alike(first, fewer.found) and not draws(trial, layout):
        raise UnfitError("its answers depend on the other examples")


def _makes_time(trial: Trial) -> bool:
    """Whether the network takes images, and its neurons then see several steps."""
    try:
        tried = replace(trial, encoder=AsItIs()).run(Layout.INSIDE)
    except (UnfitError, InputError):
        return False
    return tried.steps is not None and tried.steps > 1


def _inside(trial: Trial) -> Layout:
    """The layout of a network that takes images, once it is sure that it does."""
    try:
        tried = trial.run(Layout.INSIDE)
    except UnfitError as why:
        raise InputError(
            "A network that takes images, or steps= or encoder= for one that takes input over time",
            f"one that cannot be called with {list(trial.x[:FEW].shape)} ({why})",
            "Say how many steps there are: wrap(net, images, steps=8).",
        ) from why
    if tried.steps == 1:
        raise InputError(
            "The number of time steps of a network whose neurons see one step at each call",
            "neither steps= nor encoder=",
            "Pass steps=8 where the image is shown at every step, or an encoder.",
        )
    return Layout.INSIDE


@torch.no_grad()
def draws(trial: Trial, layout: Layout) -> bool:
    """Whether the network draws random numbers of PyTorch."""
    with trial.quiet():
        before = torch.random.get_rng_state()
        called(trial.call, layout, trial.encoded(FEW), trial.output, trial.run(layout).passes)
        return not torch.equal(before, torch.random.get_rng_state())


def moved(found: Tensor, fewer: Tensor) -> list[int]:
    """The axes of an answer that differ between two numbers of examples.

    Example:
        >>> moved(torch.ones(4, 3, 10), torch.ones(4, 2, 10))
        [1]
    """
    if found.ndim != fewer.ndim:
        return []
    return [axis for axis, (a, b) in enumerate(zip(found.shape, fewer.shape, strict=True)) if a != b]


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether answers differ by no more than rounding; one that is no number is like itself.

    Example:
        >>> one = torch.ones(2)
        >>> alike(one, 1.01 * one), alike(one.bfloat16(), (1.01 * one).bfloat16())
        (False, True)
    """
    if a.shape != b.shape:
        return False
    near = max(ALIKE, 2 * torch.finfo(a.dtype).eps) if a.is_floating_point() else ALIKE
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    scale = torch.maximum(a.abs(), b.abs()).amax().clamp(min=torch.finfo(torch.float32).tiny)
    return bool(((a - b).abs() <= near * scale).all())
