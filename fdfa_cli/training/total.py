"""Sums over an epoch, on the device, so that no step waits for it: of float32 numbers, in twice their width.

In float64, but for devices that have none (Apple's GPUs): there a sum is a pair of float32 numbers, of which
the second keeps what the first loses by rounding (Møller 1965, Knuth's "two sum").
"""

from __future__ import annotations

from fdfa_cli.lazy import torch
from fdfa_cli.streams import Shape

#: Devices without float64.
NARROW = {"mps"}


def zero(device: torch.device, shape: Shape = ()) -> torch.Tensor:
    """Sums of `shape` with nothing in them yet; a pair is the last axis."""
    if device.type in NARROW:
        return torch.zeros(*shape, 2, device=device)
    return torch.zeros(shape, dtype=torch.float64, device=device)


def add(total: torch.Tensor, value: torch.Tensor, weight: int = 1) -> None:
    """Add `weight` times `value` (float32, of the shape of the sums), in place."""
    if total.dtype == torch.float64:
        total.add_(value, alpha=weight)
        return
    high, low = total.unbind(-1)
    value = value * weight
    grown = high + value
    share = grown - high  # of the sum: what of `value` has reached it
    low += (high - (grown - share)) + (value - share)
    high.copy_(grown)


def wide(total: torch.Tensor) -> torch.Tensor:
    """The sums in float64; of pairs, on the CPU. Waits for the device in that case."""
    return total if total.dtype == torch.float64 else total.cpu().double().sum(-1)


def put(total: torch.Tensor, value: torch.Tensor) -> None:
    """Make the sums `value` (float64), in place."""
    if total.dtype == torch.float64:
        total.copy_(value)
        return
    high = value.float()
    total.copy_(torch.stack((high, (value - high).float()), -1))
