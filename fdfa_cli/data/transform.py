"""From stored uint8 images to inputs: augmentation, size and normalisation of whole batches.

Every step is a pure function of the batch and of uniform numbers, one row of them a sample; nothing loops
over samples and nothing waits for the device. Images are square, B×C×S×S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from fdfa_cli.lazy import F, torch

#: Bounds of the width-to-height ratio of a resized crop: torchvision's defaults.
RATIO = (3 / 4, 4 / 3)


class Augmentation(Protocol):
    """A random change of each sample, which takes `draws` numbers of U[0,1) a sample."""

    draws: ClassVar[int]

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Change `images` (B×C×S×S) as `uniforms` (B×draws) say."""
        ...


@dataclass(frozen=True)
class Flip:
    """Mirrors an image left to right with probability 1/2."""

    draws: ClassVar[int] = 1

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Mirror each image whose number in `uniforms` (B×1) is below 1/2."""
        # Every image and its mirror image, and one of the two: on a CPU a third of the time of `where`.
        both = torch.cat((images, images.flip(-1)))
        mirrored = uniforms[:, 0] < 0.5
        return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * mirrored)


@dataclass(frozen=True)
class Crop:
    """Shifts an image by up to `padding` pixels each way; the border that appears is black."""

    padding: int
    draws: ClassVar[int] = 2

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Shift each image by what its two numbers in `uniforms` (B×2) say, down and to the right."""
        side, p = images.shape[-1], self.padding
        top, left = (uniforms * (2 * p + 1)).long().unbind(1)
        # A view of every window: B×C×(2p+1)×(2p+1)×S×S. One of them is copied for each sample.
        windows = F.pad(images, (p, p, p, p)).unfold(2, side, 1).unfold(3, side, 1)
        return windows[torch.arange(len(images), device=images.device), :, top, left]


@dataclass(frozen=True)
class ResizedCrop:
    """Cuts a random box out of an image and resizes it to `side` pixels.

    The box covers a share of the area uniform in [`min_area`, 1]; the logarithm of its ratio is uniform
    over the part of `RATIO` that fits into the image (torchvision redraws both until they fit).
    """

    side: int
    min_area: float
    draws: ClassVar[int] = 4

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Crop and resize each image to the box that its four numbers in `uniforms` (B×4) say."""
        return resample(images, self.boxes(images.shape[-1], uniforms), self.side)

    def boxes(self, side: int, uniforms: torch.Tensor) -> torch.Tensor:
        """Boxes (top, left, height, width; B×4 int64) in images of `side` pixels."""
        area, ratio, down, across = uniforms.unbind(1)
        area = self.min_area + (1 - self.min_area) * area
        low = area.log().clamp(min=math.log(RATIO[0]))
        high = (-area.log()).clamp(max=math.log(RATIO[1]))
        ratio = (low + (high - low) * ratio).exp()
        height = ((area / ratio).sqrt() * side).round().clamp(1, side)
        width = ((area * ratio).sqrt() * side).round().clamp(1, side)
        top, left = down * (side - height + 1), across * (side - width + 1)
        return torch.stack((top, left, height, width), 1).long()


def resample(images: torch.Tensor, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """The `boxes` (top, left, height, width; B×4 or 1×4) of `images`, resized to B×C×side×side float32.

    Antialiased bilinear interpolation, as torchvision's and Pillow's. It is separable and linear, so
    it is two matrix products with the interpolation weights of each sample.
    """
    top, left, height, width = boxes.unbind(1)
    down = _interpolation(top, height, images.shape[-2], side)
    across = _interpolation(left, width, images.shape[-1], side)
    return down[:, None] @ images.float() @ across.mT[:, None]


def _interpolation(start: torch.Tensor, length: torch.Tensor, pixels: int, side: int) -> torch.Tensor:
    """Weights (B×side×pixels) that resize `length` pixels from `start` on to `side` pixels."""
    start, length = start[:, None, None], length[:, None, None]
    step = length / side
    pixel = torch.arange(pixels, device=start.device) - start
    centre = (torch.arange(side, device=start.device)[:, None] + 0.5) * step
    # A triangle as wide as a pixel of the finer of the two grids' coarser one: shrinking averages.
    weights = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel >= 0) & (pixel < length))
    return weights / weights.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Transform:
    """What happens to every batch: augmentation, resizing to `side`, then x·scale + shift.

    `scale` and `shift` are C×1×1 on the images' device.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    side: int
    augment: tuple[Augmentation, ...] = ()

    @classmethod
    def normalising(
        cls,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        value_range: float,
        side: int,
        augment: tuple[Augmentation, ...],
    ) -> Transform:
        """Inputs (x/value_range − mean)/std, channel by channel, folded into one multiply-add."""
        mean_, std_ = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
        return cls((1 / (value_range * std_)).float(), (-mean_ / std_).float(), side, augment)

    @property
    def draws(self) -> int:
        """How many uniform numbers all augmentations of a sample take."""
        return sum(step.draws for step in self.augment)

    def to(self, device: torch.device) -> Transform:
        """The same transform, with its tensors on `device`."""
        return replace(self, scale=self.scale.to(device), shift=self.shift.to(device))

    def __call__(self, images: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
        """Inputs (B×C×side×side float32) of `images` (B×C×S×S uint8); augmented by `uniforms` when given."""
        if uniforms is not None:
            for step, numbers in zip(
                self.augment, torch.split(uniforms, [step.draws for step in self.augment], 1), strict=True
            ):
                images = step(images, numbers)
        if images.shape[-1] != self.side:
            whole = torch.full((1, 4), images.shape[-1], device=images.device)
            whole[:, :2] = 0
            images = resample(images, whole, self.side)
        # Tensors made above, so in place; three plain kernels are faster than one addcmul that broadcasts.
        return images.float().mul_(self.scale).add_(self.shift)
