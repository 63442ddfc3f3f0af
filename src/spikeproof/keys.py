"""Named, splittable randomness: nothing random happens without a key that the caller passed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spikeproof.errors import InputError

__all__ = ["Key"]


@dataclass(frozen=True)
class Key:
    """Named, splittable randomness; equal keys give equal draws, on every run.

    A key is a path of names. Fold a name in for each purpose, so that draws of the attack, of its verdict and
    of the evaluation cannot coincide. With `rows`, each example of a batch has its own stream: its draws
    depend on its identity, and neither on its position in the batch nor on the size of the batch.

    Args:
        path: names, from general to particular.
        rows: identities of the examples of the batch, or None for one joint stream.

    Example:
        >>> key = Key.of(0).fold("encoder")
        >>> whole = key.for_rows([3, 5, 8]).uniform((2, 3), batch_dim=1)
        >>> part = key.for_rows([5]).uniform((2, 1), batch_dim=1)
        >>> torch.equal(whole[:, 1:2], part)
        True
    """

    path: tuple[int | str, ...]
    rows: tuple[int, ...] | None = None

    @classmethod
    def of(cls, seed: int) -> Key:
        """The key that a user's seed gives."""
        return cls((seed,))

    def fold(self, *names: int | str) -> Key:
        """The key for a purpose within this one."""
        return Key(self.path + names, self.rows)

    def for_rows(self, ids: Sequence[int] | Tensor) -> Key:
        """The same key, one stream per example."""
        return Key(self.path, tuple(int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)))

    def take(self, index: Tensor) -> Key:
        """The same key for some examples of the batch: `index` is a mask or a list of positions."""
        if self.rows is None:
            return self
        positions = index.nonzero().flatten() if index.dtype == torch.bool else index
        return Key(self.path, tuple(self.rows[i] for i in positions.tolist()))

    def seed(self, row: int | None = None) -> int:
        """A 63-bit seed for a generator of PyTorch or NumPy."""
        path = self.path if row is None else (*self.path, "row", row)
        digest = hashlib.blake2b(repr(path).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for the joint stream of this key."""
        return torch.Generator(device).manual_seed(self.seed())

    def uniform(self, shape: Sequence[int], batch_dim: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Float32 draws from U[0, 1); dimension `batch_dim` counts the examples."""
        return self._draw(torch.rand, shape, batch_dim, device)

    def normal(self, shape: Sequence[int], batch_dim: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Float32 draws from N(0, 1); dimension `batch_dim` counts the examples."""
        return self._draw(torch.randn, shape, batch_dim, device)

    def _draw(self, sampler, shape: Sequence[int], batch_dim: int, device: torch.device | str) -> Tensor:  # type: ignore[no-untyped-def]
        if self.rows is None:
            joint: Tensor = sampler(
                tuple(shape), generator=self.generator(device), device=device, dtype=torch.float32
            )
            return joint
        if shape[batch_dim] != len(self.rows):
            raise InputError(
                "A key with rows needs one identity per example",
                f"{len(self.rows)} identities for a batch of {shape[batch_dim]}",
                "Pass key.for_rows(ids) with the ids of this very batch, or key.take(mask) after selecting.",
            )
        one = [n for d, n in enumerate(shape) if d != batch_dim % len(shape)]
        generator = torch.Generator(device)
        streams = {  # one per identity: padding repeats them
            row: sampler(
                one, generator=generator.manual_seed(self.seed(row)), device=device, dtype=torch.float32
            )
            for row in dict.fromkeys(self.rows)
        }
        draws = [streams[row] for row in self.rows]
        return (
            torch.stack(draws, dim=batch_dim)
            if draws
            else torch.empty(tuple(shape), device=device, dtype=torch.float32)
        )
