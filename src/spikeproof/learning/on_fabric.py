"""Several devices for one training, through Lightning Fabric, which the extra `devices` brings.

The process that trains is the first device's. It starts one process for each other device, which trains the
same model on its parts of the same batches and saves nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.compiled import Loops, chosen_loops, using_loops
from spikeproof.datasets import Dataset
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.rule import Defence
from spikeproof.learning.shared import Alone
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Context

__all__ = ["Job", "on_devices"]

PATIENCE = timedelta(hours=1)
"""How long a device waits for the others, while the first one saves or measures."""

HERE = "127.0.0.1"

PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Environment variables from which Fabric reads the place of a process, or which it sets."""


class Together(Alone):
    """One device of several.

    A batch that is too small to give each device two examples is computed by all of them.
    """

    def __init__(self, rank: int, count: int, port: int, kind: str) -> None:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment
        from lightning_fabric.strategies import DDPStrategy

        self.first, self.count, self.rank = rank == 0, count, rank
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would print into the progress
        os.environ |= {
            "MASTER_ADDR": HERE,
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
        }
        backend = "nccl" if kind == "cuda" else "gloo"
        self.fabric = Fabric(
            accelerator=kind,
            devices=count,
            strategy=DDPStrategy(process_group_backend=backend, timeout=PATIENCE),
            plugins=[LightningEnvironment()],
        )
        self.fabric.launch()
        self.share, self.splits = 1 / count, False

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device: torch.device = self.fabric.device
        return device

    def take(self, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> tuple[Tensor, Tensor, Key]:
        self.splits = len(y) >= 2 * self.count
        if not self.splits:
            self.share = 1 / self.count
            return x, y, key
        part = torch.arange(len(y), device=y.device).tensor_split(self.count)[self.rank]
        self.share = len(part) / len(y)
        return x[part], y[part], key.fold("device", self.rank)

    def average(self, parameters: Sequence[Tensor]) -> None:
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        known = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        mine = torch.cat([known, *(self.share * grad.flatten() for grad in grads)])
        whole = self.summed(mine)
        flags, parts = (
            whole[: len(grads)].tolist(),
            torch.split(whole[len(grads) :], [p.numel() for p in grads]),
        )
        for p, has, part in zip(parameters, flags, parts, strict=True):
            p.grad = part.view_as(p).to(p.dtype) if has else None

    def mean(self, over_part: Float[Tensor, "*F"]) -> Float[Tensor, "*F"]:
        return self.summed(self.share * over_part)

    def summed(self, mine: Tensor) -> Tensor:
        """The sum over all devices, which each of them gets to the bit."""
        found: Any = self.fabric.all_reduce(mine.detach(), reduce_op="sum")
        return found  # type: ignore[no-any-return]

    def wait(self) -> None:
        self.fabric.barrier()

    def prepared(self, *models: nn.Module) -> AbstractContextManager[None]:
        return normalising(self, *models)

    def over_all(self, mine: Tensor) -> Tensor:
        """The sum over all devices, through which gradients pass."""
        found: Tensor = _OverAll.apply(mine, self)  # type: ignore[no-untyped-call]
        return found


class _Kept(Context, Protocol):
    together: Together


class _OverAll(torch.autograd.Function):
    """A sum over devices: what each of them makes of it depends on the terms of all.

    Losses are means over parts, which count by their shares of the batch, here as in `Together.average`.
    """

    @staticmethod
    def forward(ctx: _Kept, mine: Tensor, together: Together) -> Tensor:
        ctx.together = together
        return together.summed(mine)

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor, None]:
        share = ctx.together.share
        return ctx.together.summed(share * grads[0]) / share, None


def normalised(norm: nn.BatchNorm2d, together: Together, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
    """Batch normalisation in training over the parts of all devices."""
    if not (norm.training and together.splits):
        return type(norm).forward(norm, x)
    x, dims = x.float(), [0, *range(2, x.ndim)]
    along = [1, -1, *[1] * (x.ndim - 2)]
    count = together.summed(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
    mean = together.over_all(x.sum(dims)) / count
    apart = x - mean.view(along)
    variance = together.over_all(apart.square().sum(dims)) / count
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked  # type: ignore[operator]
            norm.running_mean.lerp_(mean, share)  # type: ignore[union-attr]
            norm.running_var.lerp_(variance * count / (count - 1), share)  # type: ignore[union-attr]
    out = apart * (variance + norm.eps).rsqrt().view(along)
    return out * norm.weight.view(along) + norm.bias.view(along) if norm.affine else out


@contextmanager
def normalising(together: Together, *models: nn.Module) -> Iterator[None]:
    """Let batch normalisation of the models see whole batches.

    Raises:
        InputError: another layer keeps statistics of the batches that it sees.
    """
    norms = {id(each): each for model in models for each in model.modules()}.values()
    if other := next((each for each in norms if getattr(each, "keeps_statistics", False)), None):
        raise InputError(
            "Devices share statistics of batch normalisation alone",
            f"{type(other).__name__}, which keeps others",
            "Train on one device.",
        )
    found = [each for each in norms if isinstance(each, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in found:
        norm.forward = functools.partial(normalised, norm, together)  # type: ignore[method-assign, arg-type]
    try:
        yield
    finally:
        for norm in found:
            del norm.forward


class Teaches(Protocol):
    """A learning rule whose batches devices can share."""

    def teach(
        self,
        model: Classifier,
        data: Dataset,
        key: Key,
        share: Alone,
        device: torch.device,
        checkpoint: Path | None,
        defences: tuple[Defence, ...],
    ) -> object:
        """Train the model as one of the devices."""


@dataclass(frozen=True)
class Job:
    """A training, as another process gets it."""

    rule: Teaches
    model: Classifier
    data: Dataset
    key: Key
    checkpoint: Path | None
    defences: tuple[Defence, ...]


@dataclass(frozen=True)
class _Settings:
    """What the process that trains has chosen, and others have to choose alike."""

    threads: int
    loops: Loops
    cudnn: tuple[bool, bool, bool, bool]

    @classmethod
    def here(cls) -> _Settings:
        cudnn = torch.backends.cudnn
        flags = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
        return cls(torch.get_num_threads(), chosen_loops(), flags)

    @contextmanager
    def applied(self) -> Iterator[None]:
        torch.set_num_threads(self.threads)
        enabled, benchmark, deterministic, tf32 = self.cudnn
        flags = torch.backends.cudnn.flags(enabled, benchmark, deterministic=deterministic, allow_tf32=tf32)
        with using_loops(self.loops), flags:
            yield


def _help(
    rank: int, count: int, port: int, kind: str, parts: bytes, settings: _Settings, ready: Connection
) -> None:
    """Train on a device that is not the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first device ends the others
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    job: Job = pickle.loads(parts)
    ready.send(True)
    with settings.applied():
        together = Together(rank, count, port, kind)
        try:
            job.rule.teach(
                job.model, job.data, job.key, together, together.device, job.checkpoint, job.defences
            )
        except InputError:  # which the first device says
            pass
        finally:
            torch.distributed.destroy_process_group()


def _end_with_the_first() -> None:
    """End this process when that of the first device is gone, which may be killed."""
    if (first := multiprocessing.parent_process()) is not None:
        first.join()
        os._exit(1)


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as found:
        found.bind((HERE, 0))
        port: int = found.getsockname()[1]
        return port


def _wait_for(sign: Connection) -> None:
    """Wait until the process at the other end has begun.

    Raises:
        InputError: it ended instead.
    """
    try:
        sign.recv()
    except EOFError as error:
        raise InputError(
            "The process of another device has to begin",
            "it ended before the training",
            "See what it printed; a script of your own needs: if __name__ == '__main__'.",
        ) from error


@contextmanager
def on_devices(count: int, device: torch.device, job: Job) -> Iterator[Together]:
    """Start the processes of the other devices, and end them with the block.

    Args:
        count: number of devices, at least 2.
        device: whose kind they have.
        job: what they train.

    Raises:
        InputError: Fabric is missing, the machine has fewer devices, a process does not begin, or a part of
            the training cannot be handed to one.
    """
    if importlib.util.find_spec("lightning_fabric") is None:
        raise InputError(
            f"Training on {count} devices needs Lightning Fabric",
            "none",
            "pip install 'spikeproof[devices]'",
        )
    there = torch.cuda.device_count() if device.type == "cuda" else count
    if there < count:
        raise InputError(f"Training on {count} devices", f"a machine with {there}", f"Try --devices {there}.")
    port, settings = free_port(), _Settings.here()
    try:
        parts = pickle.dumps(job)  # a copy: tensors that are handed over one by one share their memory
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputError(
            "A training on several devices consists of parts that can be handed to another process",
            str(error),
            "Train on one device.",
        ) from error
    spawned = multiprocessing.get_context("spawn")
    others, signs = [], []
    for rank in range(1, count):
        mine, theirs = spawned.Pipe()
        given = (rank, count, port, device.type, parts, settings, theirs)
        others.append(spawned.Process(target=_help, args=given, daemon=True))
        others[-1].start()
        theirs.close()
        signs.append(mine)
    before = {name: os.environ.get(name) for name in PLACE}
    try:
        for sign in signs:
            _wait_for(sign)
        yield Together(0, count, port, device.type)
        for other in others:
            other.join(PATIENCE.total_seconds())
    finally:
        for other in others:
            other.terminate()
            other.join()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
