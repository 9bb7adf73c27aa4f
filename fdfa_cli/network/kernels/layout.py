"""Memory layout: images with their channels last, vectors unit by unit.

Batches of images are (B, C, H, W) everywhere; in memory their channels lie next to each other. On a CPU of
two cores forward convolutions take two thirds of the time so and max pools a tenth, and elementwise kernels
take twenty times as long where one operand lies otherwise than the other. `Chain` brings what enters it
into this layout, and every layer keeps it, so that a signal made by a matrix product is converted once.

Batches of vectors are (B, N) everywhere; in memory the B values of a unit lie next to each other, as
`Reference.linear` makes them. On a CPU of two cores W xᵀ takes 0.44 ms where x Wᵀ takes 0.51, and Wᵀ dyᵀ 0.45
where dy W takes 0.60 (800×800, batch 64); while the cores exchange data slowly x Wᵀ takes up to twice as long
and W xᵀ does not (docs/benchmarks.md). Layers keep this too; a network's input, multiplied only, lies
as it comes.
"""

from __future__ import annotations

from fdfa_cli.internals import transformed
from fdfa_cli.lazy import torch
from fdfa_cli.streams import Shape


def channels_last(t: torch.Tensor) -> torch.Tensor:
    """`t` with its channels adjacent in memory if it is a batch of images (B, C, H, W), else itself.

    Unlike ``contiguous(memory_format=torch.channels_last)``, works under `torch.func.vmap`, and settles the
    layout of single-channel images, which fit both.
    """
    if t.ndim != 4 or t.stride(1) == 1:
        return t
    b, c, h, w = t.shape
    return t.permute(0, 2, 3, 1).reshape(-1).view(b, h, w, c).permute(0, 3, 1, 2)


def unit_by_unit(t: torch.Tensor) -> torch.Tensor:
    """`t` with the values of each unit adjacent in memory if it is a batch of vectors (B, N), else itself."""
    return t if t.ndim != 2 or t.mT.is_contiguous() else t.mT.contiguous().mT


def laid_out(t: torch.Tensor) -> torch.Tensor:
    """A batch of images or vectors as the layers lay it out."""
    return unit_by_unit(channels_last(t))


def cast(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``t.to(dtype)``, without the 2 µs that it takes where `t` is of that type already."""
    return t if t.dtype == dtype else t.to(dtype)


def is_plain_float32(t: torch.Tensor) -> bool:
    """Whether a CPU library can take `t` as it is: float32 on a CPU, without autograd or `torch.func`."""
    return t.dtype == torch.float32 and t.device.type == "cpu" and not t.requires_grad and not transformed(t)


def empty_images(like: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Images (B, *shape) with channels last, B and type as of `like`; their values are not set.

    Torch's derivatives of pools ask for the input, and read only its shape and layout.
    """
    channels, height, width = shape
    return like.new_empty(len(like), height, width, channels).permute(0, 3, 1, 2)


def units(t: torch.Tensor) -> torch.Tensor:
    """The units of each row of `t` (M, *shape) as a vector (M, N), in the order they have in memory."""
    return t.permute(0, 2, 3, 1).flatten(1) if t.ndim == 4 else t.flatten(1)


def from_units(rows: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The inverse of `units`: (M, *shape) from (M, N); images with their channels last."""
    if len(shape) != 3:
        return rows.view(-1, *shape)
    channels, height, width = shape
    return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


def sample_by_sample(t: torch.Tensor) -> torch.Tensor:
    """Vectors (B×N) sample by sample in memory, and images as they lie: how a group norm takes them.

    Torch does that itself, but 2.11 refuses other vectors in one kernel and misreads them in the other.
    """
    return t if t.ndim == 4 else t.contiguous()


def as_positions(x: torch.Tensor) -> torch.Tensor:
    """Vectors (B×C) as the positions of one image (1×C×B), which is how they lie; images as they are."""
    return x.t().unsqueeze(0) if x.ndim == 2 else x


def as_vectors(y: torch.Tensor) -> torch.Tensor:
    """The inverse of `as_positions`."""
    return y.squeeze(0).t() if y.ndim == 3 else y
