"""Linear maps whose forward pass is PyTorch's own and whose backward pass costs less.

Batch normalisation in evaluation mode passes back the same gradient to the bit without the sums that only
gradients on its weights need. Convolutions and linear layers pass it back as `spikeproof.compiled.Backward`
says. A gradient on weights is computed where it is asked for, by PyTorch and to the same bit; where weights
are fixed (`spikeproof.compiled.fixed_weights`), nothing is kept for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.compiled import Backward, chosen_backward, weights_are_fixed
from spikeproof.protocols import BLOCK, Context

__all__ = ["convolved", "mapped"]


class _Node(Context, Protocol):
    next_functions: tuple[tuple[Any, int], ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors."""


def _wanted(ctx: _Node, index: int) -> bool:
    """Whether this backward pass needs the gradient on an input, as `torch.autograd.grad` may not."""
    if not ctx.needs_input_grad[index]:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(ctx.next_functions[index][0]))
    except RuntimeError:  # what PyTorch answers for a leaf whose gradient is wanted
        return True


class _KeptNorm(_Node, Protocol):
    norm: nn.BatchNorm2d


class _Normalised(torch.autograd.Function):
    """Batch normalisation by stored means and variances."""

    @staticmethod
    def forward(ctx: _KeptNorm, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        kept = None if weights_are_fixed() else x
        ctx.save_for_backward(kept, weight, norm.running_mean, norm.running_var)
        ctx.norm = norm
        return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, False, 0.0, norm.eps)

    @staticmethod
    def backward(ctx: _KeptNorm, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, mean, variance), grad = ctx.saved_tensors, grads[0]
        if x is not None and (_wanted(ctx, 1) or _wanted(ctx, 2)):
            kept = (grad, x, weight, mean, variance, None, None, False, ctx.norm.eps, [True, True, True])
            return *torch.ops.aten.native_batch_norm_backward(*kept), None
        along = [1, -1] + [1] * (grad.ndim - 2)
        inverse = (1 / (variance.double() + ctx.norm.eps).sqrt()).to(grad.dtype)
        scaled = grad * inverse.view(along)
        again = torch.is_grad_enabled()  # the gradient is to be differentiated itself
        return scaled * weight.view(along) if again else scaled.mul_(weight.view(along)), None, None, None


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    out: Tensor = _Normalised.apply(x, norm.weight, norm.bias, norm)  # type: ignore[no-untyped-call]
    return out


LARGE = 1 << 24
"""Bytes of a gradient above which it is computed block by block, because PyTorch holds copies of all it reads
and writes meanwhile."""


def _passed_back(
    grad: Tensor,
    weight: Tensor,
    layout: tuple[torch.Size, tuple[int, ...]],
    rest: tuple[Any, ...],
    half: bool,
) -> Tensor:
    """The gradient on the input of a convolution, of which only its shape and its order in memory matter."""
    shape, strides = layout
    dtype = torch.bfloat16 if half else grad.dtype
    weight = weight.to(dtype)

    def part(grad: Tensor) -> Tensor:
        like = (len(grad), *shape[1:])
        x = grad.new_empty(like, dtype=dtype) if half else grad.new_empty_strided(like, strides)
        asked = (None, *rest, [True, False, False])
        found: Tensor = torch.ops.aten.convolution_backward(grad.to(dtype), x, weight, *asked)[0]
        return found

    turned = strides[1] == 1  # channels last, of which no copies are held
    spread = 0 in strides  # one value of the input stands for several, whose gradients are no one place
    if turned or spread or shape.numel() * grad.element_size() <= LARGE or len(grad) % BLOCK:
        return part(grad).to(grad.dtype)
    whole = grad.new_empty_strided(shape, strides)
    for start in range(0, len(grad), BLOCK):
        whole[start : start + BLOCK] = part(grad[start : start + BLOCK])
    return whole


class _KeptConvolution(_Node, Protocol):
    how: tuple[Any, ...]
    half: bool
    layout: tuple[torch.Size, tuple[int, ...]]


class _Convolved(torch.autograd.Function):
    """A convolution whose gradient on the input may be a sum of products of bfloat16."""

    @staticmethod
    def forward(ctx: _KeptConvolution, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(None if weights_are_fixed() else x, weight)
        ctx.how, ctx.half, ctx.layout = how, _in_bfloat16(x), (x.shape, x.stride())
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: _KeptConvolution, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), grad = ctx.saved_tensors, grads[0]
        stride, padding, dilation, groups = ctx.how
        rest = (stride, padding, dilation, False, (0, 0), groups)
        biased = [weight.shape[0]] if x is not None and _wanted(ctx, 2) else None
        by_x = by_weight = by_bias = None
        if x is not None and (_wanted(ctx, 1) or biased):
            mask = [False, True, biased is not None]
            found = torch.ops.aten.convolution_backward(grad, x, weight, biased, *rest, mask)
            _, by_weight, by_bias = found
        if _wanted(ctx, 0):
            by_x = _passed_back(grad, weight, ctx.layout, rest, ctx.half)
        return by_x, by_weight, by_bias, *[None] * len(ctx.how)


def _in_bfloat16(x: Tensor) -> bool:
    return chosen_backward() is Backward.BFLOAT16 and x.dtype == torch.float32


def convolved(
    x: Float[Tensor, "B C H W"], layer: nn.Conv2d, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """A convolution of `x` with a kernel that a layer makes of its weights, with the chosen backward pass."""
    plain = layer.training or not _passes_back(x) or not _learned(layer)
    if plain or not (_in_bfloat16(x) or weights_are_fixed()):
        return F.conv2d(x, weight, layer.bias, stride, padding)
    how = ((stride,) * 2, (padding,) * 2, (1, 1), 1)
    out: Tensor = _Convolved.apply(x, weight, layer.bias, *how)  # type: ignore[no-untyped-call]
    return out


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return layer(x)  # type: ignore[no-any-return]
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    out: Tensor = _Convolved.apply(x, layer.weight, layer.bias, *how)  # type: ignore[no-untyped-call]
    return out


class _Multiplied(torch.autograd.Function):
    """A linear layer whose gradient on the input is a sum of products of bfloat16."""

    @staticmethod
    def forward(ctx: _Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(None if weights_are_fixed() else x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: _Node, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), grad = ctx.saved_tensors, grads[0]
        by_x = by_weight = by_bias = None
        if _wanted(ctx, 0):
            by_x = (grad.bfloat16() @ weight.bfloat16()).to(grad.dtype)
        if x is not None and _wanted(ctx, 1):
            by_weight = grad.flatten(0, -2).T @ x.flatten(0, -2)
        if x is not None and _wanted(ctx, 2):
            by_bias = grad.flatten(0, -2).sum(0)
        return by_x, by_weight, by_bias


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if not _in_bfloat16(x):  # PyTorch keeps the input for a gradient on the weight alone
        return F.linear(x, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
    out: Tensor = _Multiplied.apply(x, layer.weight, layer.bias)  # type: ignore[no-untyped-call]
    return out


def _passes_back(x: Tensor) -> bool:
    return (
        torch.is_grad_enabled()
        and x.requires_grad
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def _learned(layer: nn.Module) -> bool:
    """Whether the weights of a layer are its own, and not computed, as from the image by another network."""
    weights = (getattr(layer, name, None) for name in ("weight", "bias"))
    return all(weight is None or weight.grad_fn is None for weight in weights)


def _is_plain(layer: nn.Module, x: Tensor) -> bool:
    """Whether a layer is to be computed by its own call.

    That is so in training, in mixed precision, and where the call is not what its class says: under a hook,
    of this layer or of all, with a `forward` of its own, or with weights that come from what the model saw.
    """
    hooked = (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    )
    everywhere = nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    own = hooked or "forward" in vars(layer) or everywhere or not _learned(layer)
    return bool(own) or layer.training or not _passes_back(x) or torch.is_autocast_enabled("cpu")


WHOLE = (torch.float32, torch.float64)
NORMS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.BatchNorm1d: _normalised,
    nn.BatchNorm2d: _normalised,
}
MAPS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {nn.Conv2d: _convolution, nn.Linear: _linear}


def mapped(layer: nn.Module, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *G"]:
    """A layer's output, with a backward pass that costs less where one is known.

    Example:
        >>> norm, x = nn.BatchNorm1d(3).eval(), torch.rand(2, 3, requires_grad=True)
        >>> torch.equal(mapped(norm, x), norm(x))
        True
    """
    if _is_plain(layer, x):
        out: Tensor = layer(x)
        return out
    if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
        stored = layer.affine and layer.running_var is not None and x.dtype == layer.weight.dtype in WHOLE
        known = NORMS.get(type(layer)) if stored else None
    else:
        known = MAPS.get(type(layer)) if _in_bfloat16(x) or weights_are_fixed() else None
    out = layer(x) if known is None else known(layer, x)
    return out
