"""Pooling of spikes: the largest at every step, or the spikes of the neuron that fired most often so far."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["GatedMaxPool", "Pool", "Window"]

Pool = Literal["average", "max", "gated-max"]
"""How a block halves the image: `average`, of currents and before the neurons; `max`, of the spikes of each
step; `gated-max`, which lets the spikes of the neuron pass that has fired most often so far."""


class Window(NamedTuple):
    """The windows of a pooling layer: their side and their distance, and what lies around the image."""

    size: int = 2
    stride: int = 2
    padding: int = 0


class GatedMaxPool(nn.Module):
    r"""Max pooling of spike counts: a spike passes if it raises the largest count in its window.

    .. math:: n_i[t] = \sum_{u \le t} s_i[u], \quad z[t] = \max_i n_i[t] - \max_i n_i[t-1]

    The count of the output is the largest count of its window at every step, so the pooled rate of a
    converted network is exactly the largest rate, and pooling adds nothing to the error of the conversion.
    Max pooling of the spikes of each step lets every spike pass that does not coincide with another one: of
    independent neurons with the rates r it makes the rate :math:`1 - \prod_i (1 - r_i)`, and this error does
    not fall with the number of steps. A spike with an amplitude counts as much as its amplitude says.

    Args:
        size: side of the window, at least 1.
        stride: distance of two windows, at least 1; None for `size`.
        padding: rows and columns around the image, which never fire.

    Shapes:
        spikes `[T, B, C, H, W]` -> spikes `[T, B, C, I, J]`

    Example:
        >>> spikes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]).view(4, 1, 1, 1, 2)
        >>> GatedMaxPool(2, padding=1)(spikes)[:, 0, 0, 0].T.tolist()
        [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]]

    Source:
        Rueckauer et al. 2017, section 2.2, whose gate lets the spikes of the maximally firing neuron pass
        and leaves ties open; here a spike that only draws level does not pass.
    """

    def __init__(self, size: int, stride: int | None = None, padding: int = 0) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, spikes: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C I J"]:
        most = self._most(spikes.cumsum(0))
        return torch.cat([most[:1], most[1:] - most[:-1]])

    def resumed(
        self, spikes: Float[Tensor, "T B C H W"], counts: Float[Tensor, "B C H W"] | None
    ) -> tuple[Float[Tensor, "T B C I J"], Float[Tensor, "B C H W"]]:
        """The same after earlier steps with these counts, and the counts after the last step."""
        before = torch.zeros_like(spikes[0]) if counts is None else counts
        sums = torch.cat([before[None], spikes]).cumsum(0)
        return self._most(sums).diff(dim=0), sums[-1]

    def _most(self, counts: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C I J"]:
        most = F.max_pool2d(counts.flatten(0, 1), self.size, self.stride, self.padding)
        return most.view(*counts.shape[:2], *most.shape[1:])

    def extra_repr(self) -> str:
        return f"{self.size}, stride={self.stride}, padding={self.padding}"
