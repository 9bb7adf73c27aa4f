"""Batches: normalisation and augmentation against naive loops and torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import functional as reference

from fdfa_cli.data import Splits, Subset
from fdfa_cli.data.base import DATA
from fdfa_cli.data.images import ImageData
from fdfa_cli.data.transform import RATIO, Crop, Flip, ResizedCrop, Transform, resample

CPU = torch.device("cpu")
REAL = [pytest.param(name, marks=pytest.mark.real_data(name)) for name in ("mnist", "cifar10")]


def load(name: str, **options: Any) -> Splits:
    """A set that is on no disk."""
    return DATA.get(name)(**options).load(Path(), CPU)


# --- normalisation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", *REAL])
def test_standard_constants_are_those_of_the_training_file(name: str, data_root: Path) -> None:
    model = DATA.get(name)()
    assert isinstance(model, ImageData)
    file = model.read(data_root)[0]
    if name == "digits":  # all 1797 of them, as is usual for this set
        file = Subset.whole(torch.cat([part.images for part in model.read(data_root)]), torch.zeros(1797))
    values = np.arange(model.white + 1) / model.white
    for c in range(file.images.shape[1]):
        counts = np.bincount(file.images[:, c].flatten().numpy(), minlength=len(values))
        mean = np.average(values, weights=counts)
        assert model.mean[c] == pytest.approx(mean, abs=6e-5)
        assert model.std[c] == pytest.approx(
            np.sqrt(np.average((values - mean) ** 2, weights=counts)), abs=6e-5
        )


@pytest.mark.parametrize(
    ("normalize", "ends"),
    [("unit", (0.0, 1.0)), ("symmetric", (-1.0, 1.0)), ("standard", (-0.3053 / 0.376, None))],
)
def test_normalisation_maps_black_and_white(normalize: str, ends: tuple[float, float | None]) -> None:
    x = load("digits", normalize=normalize).train.batch(torch.arange(1197))
    low, high = ends
    assert x.min().item() == pytest.approx(low, abs=1e-6)
    assert x.max().item() == pytest.approx((1 - 0.3053) / 0.376 if high is None else high, abs=1e-6)


def test_a_batch_is_the_rows_asked_for_normalised() -> None:
    train = load("digits").train
    rows = torch.tensor([5, 0, 1196, 5])
    x = train.batch(rows)
    for i, row in enumerate(rows.tolist()):
        naive = (train.images[row].double() / 16 - 0.3053) / 0.3760
        torch.testing.assert_close(x[i].double(), naive, rtol=1e-6, atol=1e-6)


# --- augmentation ------------------------------------------------------------------------------------

IMAGES = torch.randint(0, 256, (40, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
#: Draws that fill [0, 1) evenly, its ends included.
ENDS = torch.tensor([0.0, 1 - 2**-24])


def draws(count: int, width: int) -> torch.Tensor:
    numbers = torch.rand(count, width, generator=torch.Generator().manual_seed(2))
    numbers[: 2**width] = torch.cartesian_prod(*[ENDS] * width).view(-1, width)[:count]
    return numbers


def test_flip_mirrors_the_samples_drawn() -> None:
    numbers = draws(40, 1)
    flipped = Flip()(IMAGES, numbers)
    for image, number, got in zip(IMAGES, numbers[:, 0], flipped, strict=True):
        assert torch.equal(got, image[:, :, range(11, -1, -1)] if number < 0.5 else image)
    assert 0 < (numbers < 0.5).sum() < 40


@pytest.mark.parametrize("padding", [1, 4, 15])
def test_crop_is_a_shift_of_each_sample(padding: int) -> None:
    numbers = draws(40, 2)
    cropped = Crop(padding)(IMAGES, numbers)
    for image, (down, right), got in zip(IMAGES.numpy(), numbers.double().tolist(), cropped, strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        top, left = int(down * (2 * padding + 1)), int(right * (2 * padding + 1))
        assert torch.equal(got, torch.from_numpy(padded[:, top : top + 12, left : left + 12]))


@pytest.mark.parametrize("side", [5, 12, 30])
def test_resized_crop_is_torchvisions_for_the_same_boxes(side: int) -> None:
    numbers, crop = draws(40, 4), ResizedCrop(side, 0.08)
    got = crop(IMAGES, numbers)
    for image, box, ours in zip(IMAGES.float(), crop.boxes(12, numbers).tolist(), got, strict=True):
        theirs = reference.resized_crop(image, *box, size=[side, side], antialias=True)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("stored", "side"), [(8, 28), (32, 224), (64, 20), (28, 28)])
def test_resizing_is_torchvisions(stored: int, side: int) -> None:
    images = torch.randint(0, 256, (3, 1, stored, stored), dtype=torch.uint8)
    ours = resample(images, torch.tensor([[0, 0, stored, stored]]), side)
    torch.testing.assert_close(ours, reference.resize(images.float(), [side, side]), rtol=0, atol=1e-3)


@settings(max_examples=100, deadline=None)
@given(
    side=st.integers(1, 64),
    min_area=st.floats(0.01, 1),
    numbers=st.lists(st.floats(0, 1 - 2**-24, width=32), min_size=4, max_size=4),
)
def test_boxes_lie_in_the_image_and_keep_area_and_ratio(
    side: int, min_area: float, numbers: list[float]
) -> None:
    box = ResizedCrop(1, min_area).boxes(side, torch.tensor([numbers]))[0].tolist()
    top, left, height, width = box
    assert min(top, left) >= 0
    assert min(height, width) >= 1
    assert max(top + height, left + width) <= side
    # Whole pixels: each side is within half a pixel of a box with the drawn area and an allowed ratio.
    area = min_area + (1 - min_area) * numbers[0]
    assert (height + 0.51) * (width + 0.51) >= area * side**2
    assert max(height - 0.51, 0) * max(width - 0.51, 0) <= max(area * side**2, 1)
    assert (width + 0.51) / max(height - 0.51, 0.01) >= RATIO[0]
    assert max(width - 0.51, 0) / (height + 0.51) <= RATIO[1]


def augmented(**options: Any) -> Subset:
    return load("digits", augment=("crop", "flip"), crop_padding=2, **options).train


def test_the_same_stream_gives_the_same_batch_and_samples_differ() -> None:
    train, rows = augmented(), torch.zeros(64, dtype=torch.int64)
    one, same, other = (train.batch(rows, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    # 5×5 shifts, each mirrored or not: 64 draws of one image show many of the 50.
    assert len({image.numpy().tobytes() for image in one}) > 25


def test_only_training_with_a_stream_augments() -> None:
    splits, rows = load("digits", augment=("crop", "flip")), torch.arange(50)
    plain = load("digits")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(splits.train.batch(rows), plain.train.batch(rows))
    assert not torch.equal(splits.train.batch(rows, generator), plain.train.batch(rows))
    for held, same in ((splits.validation, plain.validation), (splits.test, plain.test)):
        assert torch.equal(held.batch(rows, generator), same.batch(rows))


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_stacked_trials_get_what_each_gets_alone(name: str) -> None:
    train = augmented(resize=10) if name == "digits" else load("synthetic").train
    rows = torch.randint(len(train), (3, 20), generator=torch.Generator().manual_seed(0))
    alone = [train.batch(r, torch.Generator().manual_seed(k)) for k, r in enumerate(rows)]
    numbers = [train.draw(20, torch.Generator().manual_seed(k)) for k in range(3)]
    stacked = train.assemble(rows, None if numbers[0] is None else torch.stack(numbers))  # type: ignore[arg-type]
    assert stacked.shape[:2] == (3, 20)
    assert torch.equal(stacked, torch.stack(alone))


class OnlyOn(TorchDispatchMode):
    """Refuses tensors on any other device: moving one there would make the host wait."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.lift_fresh.default:  # a number in an index: torch 2.11 shows it as a tensor
            return out
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            assert not isinstance(tensor, torch.Tensor) or tensor.device.type == self.device, func
        return out


def test_nothing_in_a_batch_waits_for_the_device() -> None:
    """Traced on an imagined GPU, where reading a value or a shape that depends on one is an error."""
    steps = (Flip(), Crop(4), ResizedCrop(48, 0.1))
    with FakeTensorMode():
        transform = Transform.normalising((0.5,) * 3, (0.5,) * 3, 255, 48, steps).to(torch.device("cuda"))
        images = torch.zeros(100, 3, 32, 32, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(100, dtype=torch.int64, device="cuda")
        rows, numbers = torch.zeros_like(labels).view(4, 25), torch.rand(4, 25, 7, device="cuda")
        subset = Subset(images, labels, labels, transform)
        with OnlyOn("cuda"):
            assert subset.assemble(rows, numbers).shape == (4, 25, 3, 48, 48)
            assert subset.assemble(rows).shape == (4, 25, 3, 48, 48)
        with pytest.raises(AssertionError), OnlyOn("cuda"):
            images[torch.arange(4)]
