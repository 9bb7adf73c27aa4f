"""Every layer, by one table, against torch's own modules and torch's own automatic differentiation."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from fdfa_cli.errors import Unsupported, UsageError
from fdfa_cli.network.base import Network
from fdfa_cli.network.kernels.layout import channels_last, unit_by_unit
from fdfa_cli.network.layers import (
    ELEMENTWISE,
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Chain,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2d,
    Mode,
    ModuleLayer,
    Residual,
)
from fdfa_cli.network.zoo.parts import ActivationName
from fdfa_cli.streams import Draw, Shape, sample, stream

B = 4  # samples
K = 3  # trials

Tensors = dict[str, torch.Tensor]


class Added(nn.Module):
    """y = body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


def conv_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh())


def half_fixed() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    return module


@dataclass(frozen=True)
class Case:
    """A layer, the shape of a sample, and torch's module of the same function."""

    name: str
    layer: Layer
    shape: Shape
    module: Callable[[], nn.Module]

    def __str__(self) -> str:
        return self.name


ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
CASES = [
    Case("linear", Linear(5, 3), (5,), lambda: nn.Linear(5, 3)),
    Case("linear without bias", Linear(5, 3, bias=False), (5,), lambda: nn.Linear(5, 3, bias=False)),
    Case("conv", Conv2d(2, 3, 3), (2, 6, 5), lambda: nn.Conv2d(2, 3, 3)),
    Case("conv of one channel", Conv2d(1, 3, 3), (1, 6, 5), lambda: nn.Conv2d(1, 3, 3)),
    Case(
        "conv with stride and padding",
        Conv2d(2, 3, 3, stride=2, padding=1),
        (2, 6, 5),
        lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1),
    ),
    Case("1×1 conv of stride 2", Conv2d(2, 3, 1, stride=2), (2, 6, 5), lambda: nn.Conv2d(2, 3, 1, stride=2)),
    Case(
        "conv in groups without bias",
        Conv2d(4, 6, 3, groups=2, bias=False),
        (4, 5, 5),
        lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False),
    ),
    Case("batch norm of vectors", BatchNorm(5), (5,), lambda: nn.BatchNorm1d(5)),
    Case("batch norm of images", BatchNorm(3), (3, 4, 5), lambda: nn.BatchNorm2d(3)),
    Case("batch norm of one channel", BatchNorm(1), (1, 4, 5), lambda: nn.BatchNorm2d(1)),
    Case("layer norm of vectors", LayerNorm(5), (5,), lambda: nn.LayerNorm(5)),
    Case("layer norm of images", LayerNorm(3), (3, 4, 5), lambda: nn.GroupNorm(1, 3)),
    *(Case(name, Activation(name), (7,), module) for name, module in ACTIVATIONS.items()),
    Case("relu of images", Activation("relu"), (3, 4, 5), nn.ReLU),
    Case("max pool", MaxPool2d(2), (3, 4, 5), lambda: nn.MaxPool2d(2)),
    Case("overlapping max pool", MaxPool2d(3, 2), (3, 7, 5), lambda: nn.MaxPool2d(3, 2)),
    Case("padded max pool", MaxPool2d(3, 2, 1), (3, 6, 5), lambda: nn.MaxPool2d(3, 2, 1)),
    Case("average pool", AvgPool2d(2), (3, 4, 5), lambda: nn.AvgPool2d(2)),
    Case("padded average pool", AvgPool2d(3, 2, 1), (3, 6, 5), lambda: nn.AvgPool2d(3, 2, 1)),
    Case("global average pool", AdaptiveAvgPool2d(), (3, 4, 5), lambda: nn.AdaptiveAvgPool2d(1)),
    Case("adaptive average pool", AdaptiveAvgPool2d(2), (3, 4, 5), lambda: nn.AdaptiveAvgPool2d(2)),
    Case("flatten", Flatten(), (3, 4, 5), nn.Flatten),
    Case("dropout of vectors", Dropout(0.4), (7,), nn.Identity),
    Case("dropout of images", Dropout(0.4), (3, 4, 5), nn.Identity),
    Case(
        "chain",
        Chain((Conv2d(2, 3, 3), BatchNorm(3), Activation(), MaxPool2d(2), Flatten(), Linear(12, 4))),
        (2, 6, 7),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
        ),
    ),
    Case(
        "residual with identity",
        Residual(Chain((Conv2d(3, 3, 3, padding=1), BatchNorm(3), Activation("tanh")))),
        (3, 4, 5),
        lambda: Added(
            nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh()), nn.Identity()
        ),
    ),
    Case(
        "residual with shortcut",
        Residual(
            Chain((Conv2d(2, 3, 3, stride=2, padding=1), Dropout(0.0), Conv2d(3, 3, 1))),
            Chain((Conv2d(2, 3, 1, stride=2), BatchNorm(3))),
        ),
        (2, 4, 5),
        lambda: Added(
            nn.Sequential(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Conv2d(3, 3, 1)),
            nn.Sequential(nn.Conv2d(2, 3, 1, stride=2), nn.BatchNorm2d(3)),
        ),
    ),
    Case("module", ModuleLayer(conv_norm()), (2, 5, 5), conv_norm),
    Case("module with fixed parameters", ModuleLayer(half_fixed()), (5,), half_fixed),
]
each = pytest.mark.parametrize("case", CASES, ids=str)
both_modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    """As in training: nothing here may lean on a recorded graph."""
    with torch.no_grad():
        yield


class Setting:
    """A case with tensors drawn: parameters, buffers, noise, input x, tangent dx, cotangent dy."""

    def __init__(self, case: Case, training: bool, seed: int = 0) -> None:
        self.layer, self.training = case.layer.named("layer"), training
        generator = stream(seed, "test")

        def normal(shape: Shape) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        # Not the initial values: a norm's would be ones and zeros, which hide mistakes.
        self.params = {name: normal(draw.shape) for name, draw in self.layer.parameters().items()}
        self.buffers = {
            name: normal(draw.shape).square() + 0.5 if name.endswith("var") else normal(draw.shape)
            for name, draw in self.layer.buffers().items()
        }
        self.noise = sample(self.layer.noise((B, *case.shape)), generator)
        self.x, self.dx = normal((B, *case.shape)), normal((B, *case.shape))
        self.dy = normal((B, *self.layer.out_shape(case.shape)))
        self.dparams = {name: normal(tensor.shape) for name, tensor in self.params.items()}

    def mode(self) -> Mode:
        return Mode(training=self.training, buffers=self.buffers, noise=self.noise)

    def forward(self) -> tuple[torch.Tensor, Any]:
        return self.layer.forward(self.params, self.x, self.mode())

    def tensors(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("layer", "training")}

    def step(self, at: dict[str, Any]) -> dict[str, Any]:
        """Everything a layer computes, from given tensors."""
        mode = Mode(training=self.training, buffers=at["buffers"], noise=at["noise"])
        y, dy, saved = self.layer.dual(at["params"], at["x"], at["dx"], mode)
        grads, dx = self.layer.vjp(at["params"], saved, at["dy"])
        tangent = self.layer.tangent(at["params"], saved, at["dx"], at["dparams"])
        return {"y": y, "dy": dy, "grads": grads, "dx": dx, "tangent": tangent, "updates": mode.updates}


def reference(case: Case, at: Setting) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
    """Torch's module as a function of the parameters (under our names) and x."""
    module = case.module().train(at.training)
    moving = [name for name, p in module.named_parameters() if p.requires_grad]
    still = [name for name, p in module.named_parameters() if not p.requires_grad]
    still += [name for name, _ in module.named_buffers() if "num_batches" not in name]
    rename = dict(zip(at.params, moving, strict=True))
    statistics = [tensor for name, tensor in at.buffers.items() if "num_batches" not in name]

    def function(params: Tensors, x: torch.Tensor) -> torch.Tensor:
        state = {name: buffer.clone() for name, buffer in module.named_buffers()}
        state |= {name: tensor.clone() for name, tensor in zip(still, statistics, strict=True)}
        state |= {rename[name]: tensor for name, tensor in params.items()}
        if isinstance(case.layer, Dropout) and at.training:
            x = x * at.noise["layer.mask"] / (1 - case.layer.p)
        y: torch.Tensor = functional_call(module, state, (x,))
        return y

    return function


def close(actual: Any, expected: Any, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def test_narrow_images_far_from_zero_keep_their_precision() -> None:
    """A mean of 1000 standard deviations: sums of x (x − μ) would lose five digits of them."""
    x = channels_last(torch.randn(64, 3, 8, 8, generator=stream(0, "far")) + 1000)
    norm = BatchNorm(3)
    params = {"norm.weight": torch.ones(3), "norm.bias": torch.zeros(3)}
    running = {"norm.running_mean": torch.zeros(3), "norm.running_var": torch.ones(3)}
    y, _ = norm.forward(params, x, Mode(training=True, buffers=running))
    close(y.double(), nn.BatchNorm2d(3).double()(x.double()).detach(), rtol=0, atol=2e-3)


def test_vectors_far_from_zero_keep_their_precision() -> None:
    x = torch.randn(64, 3, generator=stream(0, "far")) + 1000
    norm = BatchNorm(3)
    params = {"norm.weight": torch.ones(3), "norm.bias": torch.zeros(3)}
    running = {"norm.running_mean": torch.zeros(3), "norm.running_var": torch.ones(3)}
    mode = Mode(training=True, buffers=running)
    y, _ = norm.forward(params, x, mode)
    reference = nn.BatchNorm1d(3).double()
    close(y.double(), reference(x.double()).detach(), rtol=0, atol=2e-3)
    close(mode.updates["norm.running_var"].double(), reference.running_var, rtol=1e-4)


def test_units_that_never_move_leave_no_variance_behind() -> None:
    """What is kept is 1/√(0 + ε), and the running variance is told from it."""
    norm = BatchNorm(2)
    params = {"norm.weight": torch.ones(2), "norm.bias": torch.zeros(2)}
    mode = Mode(
        training=True, buffers={"norm.running_mean": torch.zeros(2), "norm.running_var": torch.ones(2)}
    )
    y, _ = norm.forward(params, torch.tensor([[3.0, 0.0]]).expand(8, 2), mode)
    close(y, torch.zeros(8, 2), atol=1e-4)  # of 3 · 316: γ x/√ε and its mean
    close(mode.updates["norm.running_mean"], torch.tensor([0.3, 0.0]))
    close(mode.updates["norm.running_var"], torch.full((2,), 0.9), rtol=1e-6)


@each
@both_modes
def test_forward_is_torchs(case: Case, training: bool) -> None:
    at = Setting(case, training)
    y, _ = at.forward()
    assert y.shape == (B, *at.layer.out_shape(case.shape))
    close(y, reference(case, at)(at.params, at.x))


@each
@both_modes
def test_jvp_is_torchs_forward_mode(case: Case, training: bool) -> None:
    at = Setting(case, training)
    _, saved = at.forward()
    function = reference(case, at)
    _, of_x = jvp(lambda x: function(at.params, x), (at.x,), (at.dx,))
    _, of_both = jvp(function, (at.params, at.x), (at.dparams, at.dx))
    close(at.layer.jvp(at.params, saved, at.dx), of_x)
    close(at.layer.tangent(at.params, saved, at.dx, at.dparams), of_both)
    if at.params:
        close(at.layer.tangent(at.params, saved, None, at.dparams), of_both - of_x, atol=1e-10)


@each
@both_modes
def test_vjp_is_torchs_reverse_mode(case: Case, training: bool) -> None:
    at = Setting(case, training)
    _, saved = at.forward()
    grads, dx = at.layer.vjp(at.params, saved, at.dy)
    of_params, of_x = vjp(reference(case, at), at.params, at.x)[1](at.dy)
    close(grads, of_params)
    close(dx, of_x)


@each
@both_modes
def test_vjp_without_dx_gives_the_same_gradients(case: Case, training: bool) -> None:
    at = Setting(case, training)
    _, saved = at.forward()
    grads, dx = at.layer.vjp(at.params, saved, at.dy, need_dx=False)
    assert dx is None
    close(grads, at.layer.vjp(at.params, saved, at.dy)[0])


@pytest.mark.parametrize(
    ("case", "share"),
    [
        # (torch's counter is wrong about groups)
        *((c, 1 / 2) for c in CASES if isinstance(c.layer, Linear | Conv2d) and "groups" not in c.name),
        # the convolution has 54 products at each of 20 positions, the linear layer 48 and needs its dx
        *((c, (20 * 54 + 2 * 48) / (2 * 20 * 54 + 2 * 48)) for c in CASES if c.name == "chain"),
    ],
    ids=str,
)
def test_vjp_without_dx_leaves_out_the_transposed_product(case: Case, share: float) -> None:
    at = Setting(case, True)
    _, saved = at.forward()
    counts = []
    for need_dx in (True, False):
        with FlopCounterMode(display=False) as counter:
            at.layer.vjp(at.params, saved, at.dy, need_dx)
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx(share * counts[0])


@each
@both_modes
def test_dual_is_forward_and_jvp(case: Case, training: bool) -> None:
    at = Setting(case, training)
    mode, expected_mode = at.mode(), at.mode()
    y, saved = at.layer.forward(at.params, at.x, expected_mode)
    primal, tangent, kept = at.layer.dual(at.params, at.x, at.dx, mode)
    close(primal, y)
    close(tangent, at.layer.jvp(at.params, saved, at.dx))
    close(at.layer.vjp(at.params, kept, at.dy), at.layer.vjp(at.params, saved, at.dy))
    close(mode.updates, expected_mode.updates)

    primal, nothing, _ = at.layer.dual(at.params, at.x, None, at.mode())
    close(primal, y)
    assert nothing is None


@each
@both_modes
def test_trials_stacked_by_vmap_equal_each_alone(case: Case, training: bool) -> None:
    trials = [Setting(case, training, seed) for seed in range(K)]
    tensors = [trial.tensors() for trial in trials]
    stacked = tree_map(lambda *some: torch.stack(some), *tensors)
    together = vmap(trials[0].step)(stacked)
    for k, trial in enumerate(trials):
        close(tree_map(lambda t, k=k: t[k], together), trial.step(tensors[k]))


@each
@both_modes
def test_many_tangents_at_one_point_by_vmap(case: Case, training: bool) -> None:
    """Multi-tangent forward gradients stack tangents over one forward pass."""
    trials = [Setting(case, training, seed) for seed in range(K)]
    at = trials[0]
    _, saved = at.forward()

    def tangent(dx: torch.Tensor, dparams: Tensors) -> torch.Tensor | None:
        return at.layer.tangent(at.params, saved, dx, dparams)

    along = [(trial.dx, trial.dparams) for trial in trials]
    together = vmap(tangent)(*tree_map(lambda *some: torch.stack(some), *along))
    close(together, torch.stack([tangent(*some) for some in along]))


LEAVES = [case for case in CASES if not isinstance(case.layer, Chain | Residual | ModuleLayer)]


@pytest.mark.parametrize("layer", [MaxPool2d(2), AvgPool2d(2), AdaptiveAvgPool2d()], ids=str)
def test_a_pool_lets_its_input_be_freed(layer: Layer) -> None:
    x = channels_last(torch.rand(B, 3, 4, 4))
    input_ = weakref.ref(x)
    _, saved = layer.forward({}, x, Mode(training=True))
    del x
    assert input_() is None
    assert saved is not None


@pytest.mark.parametrize("case", LEAVES, ids=str)
@both_modes
def test_saved_holds_no_weight(case: Case, training: bool) -> None:
    """So the backward pass can be given other weights: only dx follows them."""
    at = Setting(case, training)
    other = Setting(case, training, seed=1)
    _, saved = at.forward()
    grads, dx = at.layer.vjp(at.params, saved, at.dy)
    replaced, moved = at.layer.vjp(other.params, saved, at.dy)
    close(replaced, grads)
    if at.params:
        assert not torch.allclose(dx, moved)
        # and as far as if they had been the weights all along, for what is linear in x
        if isinstance(at.layer, Linear | Conv2d):
            close(moved, vjp(lambda x: reference(case, at)(other.params, x), at.x)[1](at.dy)[0])
    weights = {p.untyped_storage().data_ptr() for p in at.params.values()}
    kept = {t.untyped_storage().data_ptr() for t in tree_leaves(saved) if isinstance(t, torch.Tensor)}
    assert not weights & kept


@pytest.mark.parametrize(
    "case", [case for case in CASES if any("running" in name for name in case.layer.buffers())], ids=str
)
def test_running_statistics_follow_torchs(case: Case) -> None:
    layer, module = case.layer.named("layer"), case.module().double()
    params = {
        name: p.detach()
        for name, p in zip(
            layer.parameters(), (p for p in module.parameters() if p.requires_grad), strict=True
        )
    }
    generator = stream(0, "test")
    buffers = {name: b.to(torch.float64) for name, b in sample(layer.buffers(), generator).items()}
    for _ in range(5):
        x = 3 * torch.randn(B, *case.shape, generator=generator, dtype=torch.float64) + 2
        mode = Mode(training=True, buffers=buffers, noise=sample(layer.noise(x.shape), generator))
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        layer.forward(params, x, mode)
        close(buffers, before)  # updates are handed over, never applied
        layer.forward(params, x, mode.discarding())
        buffers = buffers | mode.updates
        module(x)
    theirs = [b for name, b in module.named_buffers() if "num_batches" not in name]
    close([b for name, b in buffers.items() if "num_batches" not in name], theirs)


@each
@both_modes
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
def test_lower_precision(case: Case, training: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Products are in the type of x; parameters and statistics stay in float32."""
    exact = Setting(case, training)
    tensors = exact.tensors()
    low = {
        name: tree_map(lambda t, name=name: t.to(dtype if name in ("x", "dx", "dy") else torch.float32), some)
        for name, some in tensors.items()
    }
    # max pools pick winners: both must see the same ties
    tensors["x"] = low["x"].double()
    expected, actual = exact.step(tensors), exact.step(low)
    for name in ("y", "dy", "dx", "tangent"):
        assert actual[name].dtype == dtype
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        assert (a.double() - e).norm() <= tolerance * (1 + e.norm())
    assert all(t.dtype == torch.float32 for t in actual["updates"].values())


@pytest.mark.parametrize("case", [case for case in CASES if len(case.shape) == 3], ids=str)
def test_images_stay_channels_last(case: Case) -> None:
    at = Setting(case, True)
    at.x, at.dx, at.dy = channels_last(at.x), channels_last(at.dx), channels_last(at.dy)
    y, saved = at.forward()
    seen = [y, at.layer.jvp(at.params, saved, at.dx), at.layer.vjp(at.params, saved, at.dy)[1]]
    if not isinstance(at.layer, ModuleLayer):  # its derivatives lie as torch leaves them
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen if t.ndim == 4)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.shape) == 1], ids=str)
@both_modes
def test_vectors_stay_unit_by_unit(case: Case, training: bool) -> None:
    at = Setting(case, training)
    at.x, at.dx, at.dy = unit_by_unit(at.x), unit_by_unit(at.dx), unit_by_unit(at.dy)
    y, saved = at.forward()
    seen = [y, at.layer.jvp(at.params, saved, at.dx), at.layer.vjp(at.params, saved, at.dy)[1]]
    if not isinstance(at.layer, ModuleLayer):
        assert all(t.mT.is_contiguous() for t in seen)


def test_a_linear_layer_brings_vectors_into_the_layout() -> None:
    layer = Linear(5, 4)
    params = sample(layer.parameters(), stream(0, "init"))
    x, dy = torch.randn(B, 5), torch.randn(B, 4)
    y, saved = layer.forward(params, x, Mode(training=True))
    for vectors in (y, layer.jvp(params, saved, x), layer.vjp(params, saved, dy)[1]):
        assert vectors.mT.is_contiguous()


def test_a_chain_brings_images_into_the_layout() -> None:
    chain = Chain((Conv2d(2, 3, 3), Activation())).named("chain")
    params = sample(chain.parameters(), stream(0, "init"))
    x, dy = torch.randn(B, 2, 5, 5), torch.randn(B, 3, 3, 3)
    y, saved = chain.forward(params, x, Mode(training=True))
    primal, tangent, _ = chain.dual(params, x, torch.randn_like(x), Mode(training=True))
    _, dx = chain.vjp(params, saved, dy)
    for images in (y, chain.jvp(params, saved, x), primal, tangent, dx):
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_settles_what_fits_both_layouts() -> None:
    images = channels_last(torch.randn(2, 1, 4, 5))
    assert images.stride() == (20, 1, 5, 1)
    vectors = torch.randn(2, 3)
    assert channels_last(vectors) is vectors


def test_flatten_orders_units_by_channel_whatever_the_layout() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    for images in (x, channels_last(x)):
        close(Flatten().forward({}, images, Mode(training=True))[0], x.view(2, -1))


def test_activation_names_of_the_schema_are_those_of_the_table() -> None:
    assert set(get_args(get_args(ActivationName)[0])) == set(ELEMENTWISE) == set(ACTIVATIONS)


@pytest.mark.parametrize("function", ELEMENTWISE)
def test_slope_is_the_derivative(function: str) -> None:
    x = torch.linspace(-3, 3, 20, dtype=torch.float64)
    expected = jvp(ELEMENTWISE[function].value, (x,), (torch.ones_like(x),))[1]
    close(Activation(function).slope(x), expected)


def test_repeated_names_are_numbered() -> None:
    body = Chain((Linear(3, 3), Activation(), Linear(3, 3)))
    residual = Chain((Residual(body), BatchNorm(3))).named("2")
    assert [*residual.parameters()] == [
        "2.residual.body.linear1.weight",
        "2.residual.body.linear1.bias",
        "2.residual.body.linear2.weight",
        "2.residual.body.linear2.bias",
        "2.norm.weight",
        "2.norm.bias",
    ]
    assert [leaf.name for leaf, _ in residual.leaves((3,))][1] == "2.residual.body.activation"


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (Linear(50, 400), lambda: nn.Linear(50, 400)),
        (Conv2d(6, 400, 5, groups=2), lambda: nn.Conv2d(6, 400, 5, groups=2)),
    ],
)
def test_initial_values_have_the_law_of_torchs(layer: Layer, module: Callable[[], nn.Module]) -> None:
    """Of 400 values or more in U(±bound) one is above 0.97 bound, but with probability 6e-6."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = module()
    for draw, p in zip(layer.parameters().values(), theirs.parameters(), strict=True):
        assert draw.law == "uniform"
        assert 0.97 * draw.scale <= p.abs().max() <= draw.scale
        assert draw.sample(stream(0, "init")).shape == p.shape


MISFITS = [
    (Linear(5, 3), (4,), "5 inputs cannot take a sample of shape (4,)"),
    (Conv2d(2, 3, 3), (3, 5, 5), "2 channels"),
    (Conv2d(2, 3, 5, padding=1), (2, 2, 9), "needs 3×3 at least"),
    (BatchNorm(3), (4,), "3 channels"),
    (LayerNorm(3), (4,), "3 channels"),
    (MaxPool2d(3), (1, 2, 2), "needs 3×3 at least"),
    (AvgPool2d(2), (8,), "needs images"),
    (AdaptiveAvgPool2d(), (8,), "needs images"),
    (Residual(Chain((Linear(3, 2),))), (3,), "cannot be added"),
    (ModuleLayer(nn.Linear(5, 3)), (4,), "module Linear cannot take a sample of shape (4,)"),
    (ModuleLayer(nn.Flatten(0)), (4,), "batch axis"),
]


@pytest.mark.parametrize(("layer", "shape", "message"), MISFITS)
def test_samples_that_do_not_fit(layer: Layer, shape: Shape, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        layer.out_shape(shape)


@pytest.mark.parametrize(
    "make", [lambda: Conv2d(3, 4, 3, groups=2), lambda: MaxPool2d(2, padding=2), lambda: Dropout(1.0)]
)
def test_options_that_make_no_layer(make: Callable[[], Layer]) -> None:
    with pytest.raises(UsageError):
        make()


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("module", [nn.Dropout(), Branching()])
def test_modules_that_cannot_be_layers(module: nn.Module) -> None:
    with pytest.raises(Unsupported, match=type(module).__name__):
        ModuleLayer(module).out_shape((3,))


def test_module_layer_starts_from_the_modules_values_and_leaves_them_alone() -> None:
    module = conv_norm()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    layer = ModuleLayer(module).named("1")
    params, buffers = (sample(draws, stream(0, "init")) for draws in (layer.parameters(), layer.buffers()))
    close({name.removeprefix("1."): tensor for name, tensor in (params | buffers).items()}, before)
    mode = Mode(training=True, buffers=buffers)
    layer.forward(params, torch.randn(B, 2, 5, 5), mode)
    assert mode.updates["1.1.num_batches_tracked"] == 1
    for tensor in params.values():
        tensor.zero_()
    close(dict(module.state_dict()), before)
    assert not layer.transposable


def pooled_network() -> Network:
    blocks = [
        [Conv2d(2, 4, 3), BatchNorm(4), Activation(), MaxPool2d(2)],
        [Flatten(), Linear(16, 6), Activation("tanh"), Dropout(0.5)],
        [Linear(6, 5)],
    ]
    return Network.of((2, 6, 6), 3, blocks, [Linear(5, 3)])


@pytest.mark.parametrize(
    ("regroup", "kinds"),
    [
        (
            lambda network: network,
            ["conv norm activation pool", "flatten linear activation dropout", "linear"],
        ),
        (
            lambda network: network.at_activations,
            ["conv norm activation", "pool flatten linear activation", "dropout linear"],
        ),
        (
            lambda network: network.at_preactivations,
            ["conv norm", "activation pool flatten linear", "activation dropout linear"],
        ),
    ],
    ids=["as built", "at activations", "at pre-activations"],
)
def test_regrouped_networks_are_the_same_function(
    regroup: Callable[[Network], Network], kinds: list[str]
) -> None:
    network = pooled_network()
    other = regroup(network)
    assert [" ".join(layer.name.split(".")[1] for layer in block.layers) for block in other.blocks] == kinds
    assert other.parameters() == network.parameters()
    assert other.buffers() == network.buffers()
    assert other.noise(B) == network.noise(B)
    generator = stream(0, "test")
    params, buffers, noise = (
        sample(draws, generator) for draws in (network.parameters(), network.buffers(), network.noise(B))
    )
    x = torch.randn(B, *network.shape, generator=generator)
    for training in (True, False):
        expected, actual = (
            net.chain.forward(params, x, Mode(training=training, buffers=buffers, noise=noise))[0]
            for net in (network, other)
        )
        close(actual, expected, rtol=0, atol=0)


def test_a_module_can_be_a_block() -> None:
    blocks = [[ModuleLayer(conv_norm())], [Flatten(), Linear(27, 6), Activation()]]
    network = Network.of((2, 5, 5), 3, blocks, [Linear(6, 3)])
    assert network.block_shapes == ((3, 3, 3), (6,))
    assert [layer.transposable for layer, _ in network.leaves()][:2] == [False, True]


# --- the order of a chain's layers ------------------------------------------------------------------------


@dataclass(frozen=True)
class Visited(Activation):
    """An activation that has a tensor of every kind."""

    def parameters(self) -> dict[str, Draw]:
        return {self.key("p"): Draw((), "constant")}

    def buffers(self) -> dict[str, Draw]:
        return {self.key("b"): Draw((), "constant")}

    def noise(self, shape: Shape) -> dict[str, Draw]:
        return {self.key("n"): Draw(shape, "constant")}

    def held(self, saved: Any) -> Any:
        return "held", self.name


@dataclass(frozen=True)
class VisitedPool(MaxPool2d):
    """A max pool that has the same."""

    parameters, buffers, noise, held = Visited.parameters, Visited.buffers, Visited.noise, Visited.held


def test_every_walk_over_a_chain_follows_the_order_of_computation() -> None:
    """The activation is computed after the pool that follows it; so is everything that is asked of them."""
    chain = Chain((Visited("relu", name="σ"), VisitedPool(2, name="max"), Flatten())).named("1")
    names = [layer.name for layer in chain.stages]
    assert names == ["1.max", "1.σ", "1.flatten"]
    visited = names[:2]
    assert [name.rpartition(".")[0] for name in chain.parameters()] == visited
    assert [name.rpartition(".")[0] for name in chain.buffers()] == visited
    draws = {name.rpartition(".")[0]: draw.shape for name, draw in chain.noise((B, 3, 4, 6)).items()}
    assert draws == {"1.max": (B, 3, 4, 6), "1.σ": (B, 3, 2, 3)}
    assert [(layer.name, shape) for layer, shape in chain.leaves((3, 4, 6))] == [
        ("1.max", (3, 4, 6)),
        ("1.σ", (3, 2, 3)),
        ("1.flatten", (3, 2, 3)),
    ]
    x = channels_last(torch.randn(B, 3, 4, 6, generator=stream(0, "order")))
    _, saved = chain.forward({}, x, Mode(training=True))
    shape, _ = saved[0]
    assert shape == (3, 4, 6)
    assert saved[1].shape == (B, 3, 2, 3)
    assert chain.held(saved) == [("held", "1.max"), ("held", "1.σ"), (3, 2, 3)]
    assert chain.first_with_parameters == 0
