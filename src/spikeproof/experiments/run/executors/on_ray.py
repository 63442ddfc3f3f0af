"""Workers on a Ray cluster, or on the Ray that is started on this machine: one actor for each slot."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spikeproof.errors import InputError, SpikeproofError
from spikeproof.experiments.run.executors.seam import Heard, Lost, Patience, named
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.labour import Labour, Terminated, terminable
from spikeproof.experiments.run.queue.leases import Leases

if TYPE_CHECKING:
    import ray

__all__ = ["Ray"]

BETWEEN_SIGNS = 0.5
"""Most seconds between two signs of life of the executor."""

NODE_LOST = "node has died"
"""What Ray says of an actor whose machine was lost, which is no fault of its cell."""


@dataclass(frozen=True)
class Ray:
    """Several workers, each an actor of Ray that keeps model and data in memory.

    All machines of the cluster share the output directory. A lost actor is replaced by another one, which Ray
    starts wherever there is room.

    Args:
        workers: number of actors; None for as many as the cluster has room for.
        address: of a cluster, such as `auto` or `ray://head:10001`; None for the cluster that the environment
            names, or for Ray on this machine.
        gpus: accelerators for each worker, which may be a fraction such as 0.25.
        cpus: processors for each worker.
    """

    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0
    cpus: float = 1.0
    tells: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.workers is None or self.workers >= 1) or self.gpus < 0 or self.cpus <= 0:
            raise InputError(
                "Ray needs at least one worker, gpus of at least 0 and more than 0 cpus",
                f"workers={self.workers}, gpus={self.gpus}, cpus={self.cpus}",
                "Try workers=2, gpus=0.",
            )

    def run(self, labour: Labour, tasks: Sequence[Task], heard: Heard) -> Generator[Lost | None, None, None]:
        """See `Executor.run`."""
        import ray

        ours = not ray.is_initialized()
        if ours:
            _start(self.address)
        crew: dict[ray.ObjectRef[bool], _Actor] = {}
        try:
            with terminable():
                number = min(self.workers or self._slots(ray.cluster_resources()), len(tasks))
                patience, cells = Patience(labour.root, number), ray.put(list(tasks))
                remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0)(_Slot)
                for _ in range(number):
                    _Actor(remote.remote()).begin(labour, cells, crew)
                while crew:
                    ready, _ = ray.wait(list(crew), timeout=BETWEEN_SIGNS)
                    for reference in ready:
                        actor = crew.pop(reference)
                        if (lost := actor.outcome(reference)) is None:
                            return
                        yield lost
                        patience.lose(lost.reason)
                        _Actor(remote.remote()).begin(labour, cells, crew)
                    yield None
        except SystemExit as error:  # of the signal, with another status, if it met a call of Ray
            raise Terminated from error
        finally:
            leases = Leases(labour.root, named(), labour.stale)
            for actor in crew.values():
                ray.kill(actor.handle)
                leases.expire(actor.owner)
            if ours:
                ray.shutdown()

    def _slots(self, resources: dict[str, float]) -> int:
        """How many workers the machines of a cluster have room for."""
        room = resources.get("CPU", 0.0) / self.cpus
        if self.gpus:
            room = min(room, resources.get("GPU", 0.0) / self.gpus)
        if room < 1:
            raise InputError(
                f"A cluster with room for a worker of {self.cpus} CPUs and {self.gpus} GPUs",
                f"one with {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs",
                "Ask for fewer, or name another cluster with --ray-address.",
            )
        return int(room)


def _start(address: str | None) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            "A Ray cluster that answers",
            f"{address or 'none'} ({str(error).splitlines()[0][:200]})",
            "Start one with `ray start --head`, or leave --ray-address out.",
        ) from error


class _Slot:
    """The actor: one worker for as long as there is work."""

    def work(self, labour: Labour, tasks: Sequence[Task], owner: str) -> bool:
        return labour(tasks, owner)


class _Actor:
    """An actor as the driver sees it.

    Args:
        handle: of the actor; Ray makes its type while it runs.
    """

    def __init__(self, handle: Any) -> None:
        self.handle, self.owner = handle, named()

    def begin(self, labour: Labour, cells: object, crew: dict[object, _Actor]) -> None:
        """Start to work."""
        crew[self.handle.work.remote(labour, cells, self.owner)] = self

    def outcome(self, reference: object) -> Lost | None:
        """How the worker ended: None where nothing remains to be done.

        Raises:
            SpikeproofError: the output directory cannot be written.
            RuntimeError: something else went wrong outside of any cell.
        """
        import ray

        try:
            if ray.get(reference):
                return None
            return Lost(self.owner, "the worker was told to stop", blamed=False)
        except ray.exceptions.RayActorError as error:
            lost = NODE_LOST in str(error)
            return Lost(self.owner, "its node died" if lost else "the worker process died", blamed=not lost)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SpikeproofError):
                raise error.cause from error
            raise RuntimeError(f"a worker failed outside of any cell:\n{error}") from error
