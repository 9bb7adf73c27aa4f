"""Every network of the zoo against the same network of `torch.nn` modules, written here a second time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from fdfa_cli.errors import UsageError
from fdfa_cli.network.base import NETWORKS, Network, NetworkOptions
from fdfa_cli.network.layers import Mode
from fdfa_cli.network.losses import LOSSES, Batch, one_hot
from fdfa_cli.network.zoo.alexnet import AlexNet
from fdfa_cli.network.zoo.cnn import CNN
from fdfa_cli.network.zoo.mlp import MLP
from fdfa_cli.network.zoo.resnet import ResNet
from fdfa_cli.streams import Shape, sample, stream

B, C = 6, 5  # samples, classes

Tensors = dict[str, torch.Tensor]


# --- the second opinion ------------------------------------------------------------------------------


class Masked(nn.Module):
    """Dropout whose mask is given."""

    def __init__(self, mask: torch.Tensor, p: float) -> None:
        super().__init__()
        self.mask, self.p = mask, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask / (1 - self.p) if self.training else x


class Unit(nn.Module):
    """A residual unit of He et al. with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = outputs // inputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def mlp(masks: Iterator[torch.Tensor]) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU()),
        *(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU()),
        nn.Linear(8, C),
    )


def mlp_with_dropout(masks: Iterator[torch.Tensor]) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(12, 9), nn.LayerNorm(9), nn.GELU(), Masked(next(masks), 0.3)),
        *(nn.Linear(9, 8), nn.LayerNorm(8), nn.GELU(), Masked(next(masks), 0.3)),
        nn.Linear(8, C),
    )


def perceptron(masks: Iterator[torch.Tensor]) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, C))


def authors_cnn(masks: Iterator[torch.Tensor]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 15, 5), nn.BatchNorm2d(15), nn.ReLU()),
        *(nn.Conv2d(15, 40, 5), nn.BatchNorm2d(40), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(40 * 2 * 2, 128), nn.BatchNorm1d(128), nn.ReLU()),
        nn.Linear(128, C),
    )


def other_cnn(masks: Iterator[torch.Tensor]) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 2), nn.GroupNorm(1, 4), nn.Tanh()),
        *(nn.Conv2d(4, 5, 2), nn.GroupNorm(1, 5), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(5 * 4 * 4, C)),
    )


def alexnet(kernel: int, stride: int, padding: int, side: int) -> Callable[..., nn.Module]:
    def build(masks: Iterator[torch.Tensor]) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 2, kernel, stride, padding), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(2, 6, 5, 1, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(6, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Flatten(), nn.Linear(8 * side**2, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(Masked(next(masks), 0.5), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(Masked(next(masks), 0.5), nn.Linear(128, C)),
        )

    return build


def resnet(units: int, width: int) -> Callable[..., nn.Module]:
    def build(masks: Iterator[torch.Tensor]) -> nn.Module:
        stages = [Unit(width, width) for _ in range(units)]
        for inputs in (width, 2 * width):
            stages += [Unit(inputs, 2 * inputs), *(Unit(2 * inputs, 2 * inputs) for _ in range(units - 1))]
        return nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *stages,
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, C)),
        )

    return build


@dataclass(frozen=True)
class Case:
    name: str
    options: NetworkOptions
    shape: Shape
    module: Callable[[Iterator[torch.Tensor]], nn.Module]

    def __str__(self) -> str:
        return self.name


SMALL = {"width": 1 / 32, "dropout": 0.5}
CASES = [
    Case("mlp", MLP(hidden=(9, 8)), (3, 2, 2), mlp),
    Case(
        "mlp with dropout",
        MLP(hidden=(9, 8), norm="layer", activation="gelu", dropout=0.3),
        (12,),
        mlp_with_dropout,
    ),
    Case("mlp without hidden layers", MLP(hidden=()), (3, 2, 2), perceptron),
    Case("cnn", CNN(), (2, 12, 12), authors_cnn),
    Case(
        "other cnn",
        CNN(
            channels=(3, 4, 5),
            kernels=(3, 2),
            padding=(1, 0),
            pools=(2, 1),
            hidden=(),
            norm="layer",
            activation="tanh",
        ),
        (2, 12, 12),
        other_cnn,
    ),
    Case("alexnet of 32 pixels", AlexNet(**SMALL), (3, 32, 32), alexnet(3, 1, 1, side=3)),
    Case("alexnet of 64 pixels", AlexNet(**SMALL), (3, 64, 64), alexnet(5, 2, 2, side=3)),
    Case("alexnet of 224 pixels", AlexNet(**SMALL), (3, 224, 224), alexnet(11, 4, 2, side=6)),
    Case("resnet 20", ResNet(width=4), (3, 8, 8), resnet(units=3, width=4)),
    Case("resnet 8", ResNet(depth=8), (3, 9, 7), resnet(units=1, width=16)),
]
each = pytest.mark.parametrize("case", CASES, ids=str)


class Pair:
    """A network of the zoo and its counterpart of modules, with the same parameters and masks."""

    def __init__(self, case: Case, seed: int = 0) -> None:
        self.network = case.options.build(case.shape, C)
        generator = stream(seed, "test")
        draws = (self.network.parameters(), self.network.buffers(), self.network.noise(B))
        self.params, self.buffers, self.noise = (
            {name: tensor.double() for name, tensor in sample(some, generator).items()} for some in draws
        )
        self.x = torch.randn(B, *case.shape, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(C, (B,), generator=generator)
        self.module = case.module(iter(self.noise.values())).double()
        with torch.no_grad():
            for theirs, name in zip(self.module.parameters(), self.params, strict=True):
                if "norm" in name:  # at their initial values these would hide mistakes
                    self.params[name] += 0.3 * torch.randn(theirs.shape, generator=generator)
                theirs.copy_(self.params[name])

    def mode(self) -> Mode:
        return Mode(training=True, buffers=self.buffers, noise=self.noise)

    def expected_grads(self) -> Tensors:
        F.cross_entropy(self.module(self.x), self.labels).backward()
        return dict(zip(self.params, (p.grad for p in self.module.parameters()), strict=True))


def backprop(network: Network, params: Tensors, x: torch.Tensor, labels: torch.Tensor, mode: Mode) -> Tensors:
    """Gradients of the cross-entropy by one vjp after another, block by block."""
    saved = []
    for block in network.blocks:
        x, kept = block.forward(params, x, mode)
        saved.append(kept)
    logits, kept = network.output.forward(params, x, mode)
    _, signal = LOSSES["cross_entropy"](logits, labels)
    grads, signal = network.output.vjp(params, kept, signal, need_dx=bool(network.blocks))
    for block, kept in reversed([*zip(network.blocks, saved, strict=True)]):
        some, signal = block.vjp(params, kept, signal, need_dx=block is not network.blocks[0])
        grads |= some
    return grads


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


# --- gradients ---------------------------------------------------------------------------------------


@each
def test_backprop_by_vjps_is_torchs_autograd(case: Case) -> None:
    pair = Pair(case)
    expected = pair.expected_grads()
    with torch.no_grad():
        blockwise = backprop(pair.network, pair.params, pair.x, pair.labels, pair.mode())
        logits, saved = pair.network.chain.forward(pair.params, pair.x, pair.mode())
        _, error = LOSSES["cross_entropy"](logits, pair.labels)
        whole, dx = pair.network.chain.vjp(pair.params, saved, error, need_dx=False)
    assert dx is None
    assert blockwise.keys() == whole.keys() == expected.keys()
    largest = max(float(grad.norm()) for grad in expected.values())
    for name, grad in expected.items():
        assert blockwise[name].shape == whole[name].shape == grad.shape
        # the gradient of a bias before batch norm is zero, so it is measured by the largest one
        scale = max(float(grad.norm()), 1e-4 * largest)
        assert (blockwise[name] - grad).norm() <= 1e-10 * scale, name
        assert (whole[name] - grad).norm() <= 1e-10 * scale, name


@pytest.mark.parametrize("case", [case for case in CASES if "224" not in case.name], ids=str)
def test_trials_stacked_by_vmap_equal_each_alone(case: Case) -> None:
    pairs = [Pair(case, seed) for seed in range(2)]
    network = pairs[0].network

    def step(
        params: Tensors, buffers: Tensors, noise: Tensors, x: torch.Tensor, labels: torch.Tensor
    ) -> tuple[Tensors, Tensors]:
        mode = Mode(training=True, buffers=buffers, noise=noise)
        return backprop(network, params, x, labels, mode), mode.updates

    with torch.no_grad():
        trials = [(pair.params, pair.buffers, pair.noise, pair.x, pair.labels) for pair in pairs]
        together = torch.func.vmap(step)(*tree_map(lambda *some: torch.stack(some), *trials))
        for k, trial in enumerate(trials):
            alone = step(*trial)
            stacked = tree_map(lambda t, k=k: t[k], together)
            torch.testing.assert_close(stacked, alone, rtol=1e-9, atol=1e-9)


@each
def test_prediction_after_training_passes_is_the_modules_in_evaluation(case: Case) -> None:
    pair = Pair(case)
    with torch.no_grad():
        for _ in range(3):
            mode = pair.mode()
            logits, _ = pair.network.chain.forward(pair.params, pair.x, mode)
            assert relative(logits, pair.module.train()(pair.x)) < 1e-10
            pair.buffers |= mode.updates
        scores = pair.network.predict(pair.params, pair.buffers, pair.x)
        assert relative(scores, pair.module.eval()(pair.x)) < 1e-10
        assert relative(scores, logits) > 1e-3 or not (pair.buffers or pair.noise)


# --- sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "classes", "count"),
    [
        # 784·800 + 800·800 + 800·10, biases 800 + 800 + 10, batch norm 2·(800 + 800)
        (MLP(hidden=(800, 800)), (1, 28, 28), 10, 1_280_010),
        (MLP(hidden=(800, 800), norm="none"), (784,), 10, 1_276_810),
        # conv 390 + 15040, linear 4000·128 + 128, output 1290, batch norm 2·(15 + 40 + 128)
        (CNN(), (1, 28, 28), 10, 529_214),
        # pytorchcv's model list; "0.27M", "0.46M", "0.85M" in table 6 of the paper
        (ResNet(), (3, 32, 32), 10, 272_474),
        (ResNet(depth=32), (3, 32, 32), 10, 466_906),
        (ResNet(depth=56), (3, 32, 32), 10, 855_770),
        # torchvision's documentation, and batch norm 2·(64 + 192 + 384 + 256 + 256 + 4096 + 4096)
        (AlexNet(norm="none"), (3, 224, 224), 1000, 61_100_840),
        (AlexNet(), (3, 224, 224), 1000, 61_100_840 + 18_688),
    ],
)
def test_number_of_parameters(options: NetworkOptions, shape: Shape, classes: int, count: int) -> None:
    network = options.build(shape, classes)
    assert sum(torch.Size(draw.shape).numel() for draw in network.parameters().values()) == count


def test_alexnet_has_the_shapes_of_torchvisions() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.alexnet()
    network = AlexNet(norm="none").build((3, 224, 224), 1000)
    assert [draw.shape for draw in network.parameters().values()] == [
        tuple(p.shape) for p in theirs.parameters()
    ]
    assert network.block_shapes == (
        *((64, 27, 27), (192, 13, 13), (384, 13, 13), (256, 13, 13), (256, 6, 6)),
        *((4096,), (4096,)),
    )


def test_blocks_are_where_rules_act() -> None:
    assert CNN().build((3, 32, 32), 10).block_shapes == ((15, 28, 28), (40, 12, 12), (128,))
    assert CNN().build((3, 32, 32), 10).at_activations.block_shapes == ((15, 28, 28), (40, 24, 24), (128,))
    shapes = ResNet().build((3, 32, 32), 10).block_shapes
    assert shapes == (*((16, 32, 32),) * 4, *((32, 16, 16),) * 3, *((64, 8, 8),) * 3)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        (CNN(), 1),
        (CNN(channels=(4, 4), kernels=(7, 3), pools=(3,)), 3),
        (AlexNet(), 3),
        (AlexNet(stem="11x11"), 3),
    ],
)
def test_an_image_too_small_is_told_what_would_fit(options: NetworkOptions, channels: int) -> None:
    with pytest.raises(UsageError, match=f"network '{options.name}'") as error:
        options.build((channels, 2, 2), 10)
    found = re.search(r"smallest image that fits these options is (\d+)×(\d+)$", str(error.value))
    assert found, error.value
    side = int(found[1])
    options.build((channels, side, side), 10)
    with pytest.raises(UsageError):
        options.build((channels, side - 1, side - 1), 10)


@pytest.mark.parametrize("options", [CNN(), AlexNet(), ResNet()])
def test_networks_for_images_refuse_vectors(options: NetworkOptions) -> None:
    with pytest.raises(UsageError, match="needs images"):
        options.build((784,), 10)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (ResNet, {"depth": 21}, "6n + 2, such as 20 or 26"),
        (ResNet, {"depth": 2}, "greater than or equal to 8"),
        (CNN, {"channels": (4,), "kernels": (3, 3)}, "kernels: has 2 entries"),
        (CNN, {"channels": ()}, "at least 1"),
        (MLP, {"activation": "rleu"}, "relu"),
        (MLP, {"dropout": 1.0}, "less than 1"),
        (AlexNet, {"width": 0.0}, "greater than 0"),
    ],
)
def test_options_that_make_no_network(
    model: type[NetworkOptions], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        model(**given)


def test_building_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from fdfa_cli.network.base import NETWORKS\n"
        "for model in NETWORKS.models().values():\n"
        "    network = model().build((3, 32, 32), 10)\n"
        "    network.parameters(), network.buffers(), network.noise(4), network.at_activations\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_network_of_the_zoo_is_tested_here() -> None:
    assert set(NETWORKS) == {case.options.name for case in CASES}


# --- losses ------------------------------------------------------------------------------------------

EXPECTED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": lambda z, labels: F.mse_loss(z, F.one_hot(labels, C).to(z.dtype)),
    "bce": lambda z, labels: F.binary_cross_entropy_with_logits(z, F.one_hot(labels, C).to(z.dtype)),
}


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["moderate", "extreme"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_its_gradient_are_torchs(name: str, scale: float) -> None:
    generator = stream(0, "test")
    logits = scale * torch.randn(B, C, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (B,), generator=generator)
    gradient, expected = torch.func.grad_and_value(EXPECTED[name])(logits, labels)
    loss, error = LOSSES[name](logits, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(error, gradient, rtol=1e-12, atol=1e-15)

    trials = torch.stack([logits, -logits]), torch.stack([labels, labels.flip(0)])
    losses, errors = torch.func.vmap(LOSSES[name])(*trials)
    torch.testing.assert_close((losses[0], errors[0]), (loss, error))
    torch.testing.assert_close((losses[1], errors[1]), LOSSES[name](-logits, labels.flip(0)))


def test_the_loss_of_low_precision_logits_is_taken_in_float32() -> None:
    logits, labels = torch.randn(B, C, generator=stream(0, "test")).bfloat16(), torch.arange(B) % C
    batch = Batch(torch.zeros(B, 1), labels, Mode(training=True), LOSSES["cross_entropy"])
    loss, error = batch.loss(logits)
    assert loss.dtype == error.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), labels))
    assert len(batch) == B


def test_one_hot() -> None:
    labels = torch.tensor([2, 0, 4])
    assert torch.equal(one_hot(labels, C, torch.float32), F.one_hot(labels, C).float())
