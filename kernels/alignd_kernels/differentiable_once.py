"""Gradients that have no derivative of their own, and say so. Imports torch."""

from typing import Any

import torch


def differentiable_once(gradient: Any, name: str) -> Any:
    """What a `backward` of the function `name` returns.

    Where torch records the backward pass (`create_graph`), the gradient seems to depend on something, so that deriving
    it is an error rather than 0 in silence, which `torch.autograd.function.once_differentiable` leaves it at where the
    incoming gradient is a constant.

    Raises:
        RuntimeError: when it is derived.
    """
    if not torch.is_grad_enabled():
        return gradient
    return _Once.apply(gradient, torch.zeros((), requires_grad=True), name)


class _Once(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, gradient: Any, anything: Any, name: str) -> Any:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(f"{ctx.name} cannot be differentiated twice: its gradient has no derivative here")
