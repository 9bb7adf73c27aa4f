"""Every learning rule once more, written from its equations.

Naive on purpose: float64, ordinary `torch.nn` modules, derivatives by torch's autograd alone, a loop over
samples, classes or columns wherever the equation has an index. Nothing here calls a layer's `jvp` or
`vjp`. Where the rules under test take one pass with a tangent, these take one for every block and add up;
where they take a directional derivative, these take the gradient and multiply.

Letters are those of `fdfa_cli.rules.base`. A `Case` is one step's arguments; a function here maps it to
an `Update`, as `Rule.step` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from fdfa_cli.network import layers
from fdfa_cli.network.base import Network
from fdfa_cli.rules.step import Update

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity, "softplus": nn.Softplus}


# --- the network, as ordinary modules --------------------------------------------------------------------


class Masked(nn.Module):
    """Dropout whose mask is given (B, …); a batch of several times B samples repeats it."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.mask = p, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.cat([self.mask] * (len(x) // len(self.mask))) / (1 - self.p)


class Sum(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def module(layer: layers.Layer) -> nn.Module:
    """The torch module of the same kind and sizes."""
    match layer:
        case layers.Linear():
            return nn.Linear(layer.inputs, layer.outputs, layer.bias)
        case layers.Conv2d():
            sizes = (layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding)
            return nn.Conv2d(*sizes, groups=layer.groups, bias=layer.bias)
        case layers.BatchNorm():
            return Norm(layer.channels, layer.eps, layer.momentum)
        case layers.Activation():
            return ACTIVATIONS[layer.function]()
        case layers.MaxPool2d():
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding)
        case layers.AdaptiveAvgPool2d():
            return nn.AdaptiveAvgPool2d(layer.side)
        case layers.Dropout():
            return Masked(layer.p)
        case layers.Residual():
            return Sum(module(layer.body), module(layer.shortcut))
        case layers.Flatten():
            return nn.Flatten()
        case layers.Chain():
            chain = nn.Sequential()
            for inner in layer.layers:
                chain.add_module(inner.name.rpartition(".")[2], module(inner))
            return chain
    raise TypeError(layer)


class Norm(nn.modules.batchnorm._BatchNorm):
    """`BatchNorm1d` or ``2d``, whichever the input asks for."""

    def _check_input_dim(self, x: Tensor) -> None:
        assert x.ndim in (2, 4)


def twin(network: Network, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> nn.ModuleDict:
    """The same network in torch's modules, in training, with copies of these tensors under their names."""
    chains = (*network.blocks, network.output)
    net = nn.ModuleDict({chain.name: module(chain) for chain in chains}).double().train()
    missing, unexpected = net.load_state_dict({**params, **buffers}, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return net


@dataclass
class Case:
    """The arguments of one step. `net` holds the parameters; `rule` is read for its options only."""

    rule: Any
    net: nn.ModuleDict
    state: Mapping[str, Tensor]
    x: Tensor
    labels: Tensor
    noise: Mapping[str, Tensor]
    perturbations: Mapping[str, Tensor]
    loss_name: str
    classes: int

    def __post_init__(self) -> None:
        for name, part in self.net.named_modules():
            if isinstance(part, Masked):
                part.mask = self.noise[f"{name}.mask"]

    @property
    def params(self) -> dict[str, Tensor]:
        return dict(self.net.named_parameters())

    @property
    def blocks(self) -> list[nn.Sequential]:
        *blocks, _ = self.net.values()
        return blocks

    @property
    def output(self) -> nn.Sequential:
        return self.net["out"]

    def segments(self, end: str) -> list[nn.Sequential]:
        """The network cut where every block ends, or after or before its last activation."""
        pieces: list[list[nn.Module]] = [[]]
        for block in self.blocks:
            before, activation, after = split(block)
            if end == "block":
                pieces[-1] += [*before, *activation, *after]
                pieces.append([])
            elif end == "activation":
                pieces[-1] += [*before, *activation]
                pieces.append([*after])
            else:
                pieces[-1] += before
                pieces.append([*activation, *after])
        pieces[-1] += self.output
        return [nn.Sequential(*piece) for piece in pieces]

    def losses(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Every sample's own loss (B); the training loss is their mean."""
        labels = self.labels if labels is None else labels
        target = F.one_hot(labels, self.classes).double()
        if self.loss_name == "cross_entropy":
            return F.cross_entropy(logits, labels, reduction="none")
        if self.loss_name == "mse":
            return F.mse_loss(logits, target, reduction="none").mean(1)
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)

    def error(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss and E (B×C)."""
        z = logits.detach().requires_grad_()
        loss = self.losses(z).mean()
        return loss.detach(), torch.autograd.grad(loss, z)[0]

    def gradients(self, value: Tensor, of: Iterable[nn.Module], cotangent: Tensor | None = None) -> Grads:
        """Gradients of `value`·`cotangent` for the parameters of these modules, by name."""
        mine = {id(p) for part in of for p in part.parameters()}
        params = {name: p for name, p in self.params.items() if id(p) in mine}
        grads = torch.autograd.grad(value, [*params.values()], cotangent)
        return dict(zip(params, grads, strict=True))

    def pull(self, part: nn.Module, x: Tensor, signal: Tensor) -> Grads:
        """Local vjp: gradients of this part's parameters for `signal` at its output, nothing further."""
        return self.gradients(part(x.detach()), [part], signal) if [*part.parameters()] else {}


Grads = dict[str, Tensor]


def split(block: nn.Sequential) -> tuple[list[nn.Module], list[nn.Module], list[nn.Module]]:
    """Before the last activation; it; after."""
    parts = [*block]
    found = [i for i, part in enumerate(parts) if type(part) in ACTIVATIONS.values()]
    cut = found[-1] if found else len(parts)
    return parts[:cut], parts[cut : cut + 1], parts[cut + 1 :]


def run(parts: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """X and the output of every part in turn, with autograd's graph.

    The first run moves the running statistics; later ones, by which the references differentiate, do not.
    """
    outputs = [x]
    for part in parts:
        outputs.append(part(outputs[-1]))
        for inner in part.modules():
            if isinstance(inner, Norm):
                inner.momentum = 0.0
    return outputs


def tangent(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """∂f/∂x · v, by forward-mode differentiation."""
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x.detach(), v))).tangent.detach()


def through(parts: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The map that these parts make up."""
    return nn.Sequential(*parts)


def slope_is_nonzero(part: nn.Module, z: Tensor) -> Tensor:
    """1 where the activation that opens `part` has a slope at z, 0 where it has none."""
    z = z.detach().requires_grad_()
    first = next(iter(part), nn.Identity())
    if type(first) not in ACTIVATIONS.values():
        return torch.ones_like(z)
    return (torch.autograd.grad(first(z).sum(), z)[0] != 0).double()


# --- backpropagation and its kin -------------------------------------------------------------------------


def bp(c: Case) -> Update:
    *_, logits = run(c.net.values(), c.x)
    loss = c.losses(logits).mean()
    return Update(c.gradients(loss, [c.net]), loss, logits)


def shallow(c: Case) -> Update:
    *_, logits = run(c.net.values(), c.x)
    loss = c.losses(logits).mean()
    return Update(c.gradients(loss, [c.output]), loss, logits)


def transported(c: Case, feedback: Mapping[str, Tensor]) -> Update:
    """Backprop in which F stands in for W on the way back.

    Every linear map is computed as f(x̄; W) + f(x; F) − f(x̄; F), where x̄ is x cut off from autograd: its
    value is f(x; W), its slope in W is f's own, its slope in x is that of f(·; F).
    """

    def affine(part: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(part, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, part.stride, part.padding, groups=part.groups)

    def replaced(f: Tensor) -> Callable[..., Tensor]:
        def hook(part: nn.Module, inputs: tuple[Tensor], _: Tensor) -> Tensor:
            (x,) = inputs
            back = affine(part, x, f, None) - affine(part, x.detach(), f, None)
            return affine(part, x.detach(), part.weight, part.bias) + back

        return hook

    modules = dict(c.net.named_modules())
    parts = {modules[name.removesuffix(".weight")]: f for name, f in feedback.items()}
    hooks = [part.register_forward_hook(replaced(f)) for part, f in parts.items()]
    update = bp(c)
    for hook in hooks:
        hook.remove()
    return update


def matrices(c: Case) -> dict[str, Tensor]:
    """Weights that a backward pass transposes: all linear maps' but the first's."""
    found = [name for name, p in c.params.items() if p.ndim > 1]
    return {name: c.params[name].detach() for name in found[1:]}


def fa(c: Case) -> Update:
    return transported(c, {name: c.state[f"feedback.{name}"] for name in matrices(c)})


def usf(c: Case) -> Update:
    """s: the standard deviation of U(±1/√fan_in), torch's initial law."""
    return transported(c, {name: w.sign() / (3 * w[0].numel()) ** 0.5 for name, w in matrices(c).items()})


def brsf(c: Case) -> Update:
    return transported(c, {n: c.perturbations[f"size.{n}"].abs() * w.sign() for n, w in matrices(c).items()})


def frsf(c: Case) -> Update:
    return transported(c, {n: c.state[f"size.{n}"].abs() * w.sign() for n, w in matrices(c).items()})


def kp(c: Case) -> Update:
    """∇F = ∇W; both decay."""
    u, decay = fa(c), c.rule.decay
    state_grads = {f"feedback.{n}": u.grads[n] + decay * c.state[f"feedback.{n}"] for n in matrices(c)}
    grads = {**u.grads, **{n: u.grads[n] + decay * w for n, w in matrices(c).items()}}
    return Update(grads, u.loss, u.logits, state_grads)


def wm(c: Case) -> Update:
    """F ← F + η mean (y − ȳ) xᵀ over noise samples (and positions), then scaled to the initial norm."""
    update, state = fa(c), {}
    modules = dict(c.net.named_modules())
    for name, w in matrices(c).items():
        part = modules[name.removesuffix(".weight")]
        x = c.perturbations[name.removesuffix(".weight")]
        y = part(x).detach()
        y = y - sum(y) / len(y)
        if isinstance(part, nn.Conv2d):  # a position's input is its window, and its output all channels'
            window = {"stride": part.stride, "padding": part.padding}
            xs, ys = F.unfold(x, part.kernel_size, **window).mT.flatten(0, 1), y.flatten(2).mT.flatten(0, 1)
        else:
            xs, ys = x, y
        increment = sum(torch.outer(y_, x_) for y_, x_ in zip(ys, xs, strict=True)) / len(xs)
        f = c.state[f"feedback.{name}"] + c.rule.mirror_rate * increment.view_as(w)
        variance = 1 / w[0].numel() / 3  # of U(±1/√fan_in)
        state[f"feedback.{name}"] = f * (variance * w.numel()) ** 0.5 / f.norm()
    return Update(update.grads, update.loss, update.logits, state=state)


# --- direct feedback -------------------------------------------------------------------------------------


def direct(c: Case, message: Callable[[Tensor], Tensor]) -> tuple[Update, list[Tensor], Tensor]:
    """G_l[b] = Σ_c m[b, c] F_l[c] and the local vjp of each block; also every H_l, and E."""
    *h, logits = run(c.net.values(), c.x)
    loss, error = c.error(logits)
    m = message(error)
    grads = c.pull(c.output, h[-1], error)
    for l, block in enumerate(c.blocks):
        f = c.state[f"feedback.{l}"]
        signal = [sum(m[b, k] * f[k] for k in range(c.classes)) for b in range(len(c.x))]
        grads |= c.pull(block, h[l], torch.stack(signal).view_as(h[l + 1]))
    return Update(grads, loss, logits), h, error


def dfa(c: Case) -> Update:
    return direct(c, lambda error: error)[0]


def sdfa(c: Case) -> Update:
    return direct(c, lambda error: error.sign() / len(error))[0]


def drtp(c: Case) -> Update:
    return direct(c, lambda error: F.one_hot(c.labels, c.classes).double() / len(error))[0]


def dkp(c: Case) -> Update:
    """∇F_l = Σ_b E[b]ᵀ H_l[b]; the decay is the optimizers'."""
    update, h, error = direct(c, lambda error: error)
    state_grads = {}
    for l in range(len(c.blocks)):
        f = c.state[f"feedback.{l}"]
        outer = sum(torch.outer(error[b], h[l + 1][b].flatten()) for b in range(len(c.x)))
        state_grads[f"feedback.{l}"] = outer.detach().view_as(f)
    return Update(update.grads, update.loss, update.logits, state_grads)


# --- direct feedback that estimates Jacobians ------------------------------------------------------------


def patch_of(shape: Sequence[int], side: int) -> Tensor:
    """For every unit of a block's output (in order), the number of the patch it belongs to."""
    if side == 1:
        return torch.arange(torch.Size(shape).numel())
    channels, height, width = shape
    rows, columns = -(-height // side), -(-width // side)
    return torch.tensor(
        [
            (k * rows + i // side) * columns + j // side
            for k in range(channels)
            for i in range(height)
            for j in range(width)
        ]
    )


def jacobian_estimates(c: Case) -> tuple[Update, Grads]:
    """Gradients under G_l = E F_l, and Ĵ_l = mean_b d_b ⊗ v_b of every perturbed block.

    d = Σ_l ∂Z/∂H_l · v_l, one forward-mode pass a block. In a patch every unit has the same v, and the
    same feedback: the mean over the patch.
    """
    parts = c.segments(c.rule.inject)
    *h, logits = run(parts, c.x)
    loss, error = c.error(logits)
    sides = patch_sides(c, [t.shape[1:] for t in h[1:]])
    grads = c.pull(parts[-1], h[-1], error)
    d, v = torch.zeros_like(error), {}
    for l, part in enumerate(parts[:-1]):
        name, drawn, out = f"feedback.{l}", f"v.{l}", h[l + 1]
        patch = patch_of(out.shape[1:], sides[l])
        f = c.state[name].flatten(1)[:, patch]
        signal = [sum(error[b, k] * f[k] for k in range(c.classes)) for b in range(len(c.x))]
        grads |= c.pull(part, h[l], torch.stack(signal).view_as(out))
        if drawn in c.perturbations:
            v[name] = c.perturbations[drawn].flatten(1)
            d = d + tangent(through(parts[l + 1 :]), out, v[name][:, patch].view_as(out))
    jacobians = {}
    for l in range(len(parts) - 1):
        if (name := f"feedback.{l}") in v:
            size = torch.bincount(patch_of(h[l + 1].shape[1:], sides[l]))
            sum_over_patch = sum(torch.outer(d[b], v[name][b]) for b in range(len(c.x))) / len(c.x)
            jacobians[name] = (sum_over_patch / size).view_as(c.state[name])
    return Update(grads, loss, logits), jacobians


def patch_sides(c: Case, shapes: Sequence[Sequence[int]]) -> list[int]:
    """One entry of `share` for each block with positions in turn, the last one repeated."""
    given = list(getattr(c.rule, "share", (1,)))  # the paper's rule shares none
    sides = []
    for shape in shapes:
        spatial = len(shape) == 3 and shape[1] * shape[2] > 1
        sides.append(given[0] if spatial else 1)
        if spatial and len(given) > 1:
            given.pop(0)
    return sides


def fdfa(c: Case) -> Update:
    """F follows Ĵ: SGD of rate α on F − Ĵ is the average over time."""
    update, jacobians = jacobian_estimates(c)
    return Update(update.grads, update.loss, update.logits, {n: c.state[n] - j for n, j in jacobians.items()})


def grape(c: Case) -> Update:
    """A step on 1 − cos of every column, which is then scaled to norm 1; bp where nothing is perturbed."""
    if not c.perturbations:
        return bp(c)
    update, jacobians = jacobian_estimates(c)
    state = {}
    for name, jacobian in jacobians.items():
        columns = []
        for f, j in zip(c.state[name].flatten(1).T, jacobian.flatten(1).T, strict=True):
            f = f.clone().requires_grad_()
            distance = 1 - (f @ j) / (f.norm() * j.norm())
            f = f.detach() - c.rule.feedback_rate * torch.autograd.grad(distance, f)[0]
            columns.append(f / f.norm())
        state[name] = torch.stack(columns, 1).view(jacobian.shape)
    return Update(update.grads, update.loss, update.logits, state=state)


# --- forward gradients -----------------------------------------------------------------------------------


def combined(rule: Any, v: Tensor, gradient_along: Tensor) -> Tensor:
    """From tangents V (k×n) and slopes c (k): their mean Vᵀc/k, or V⁺c, the gradient's projection."""
    if rule.combine == "mean":
        return sum(slope * row for slope, row in zip(gradient_along, v, strict=True)) / len(v)
    return torch.linalg.pinv(v) @ gradient_along


def fg_w(c: Case) -> Update:
    true = bp(c)
    k = range(c.rule.tangents)
    slopes = torch.stack([sum((g * c.perturbations[n][i]).sum() for n, g in true.grads.items()) for i in k])
    v = torch.stack([torch.cat([c.perturbations[n][i].flatten() for n in true.grads]) for i in k])
    flat = combined(c.rule, v, slopes).split([g.numel() for g in true.grads.values()])
    grads = {n: part.view_as(g) for (n, g), part in zip(true.grads.items(), flat, strict=True)}
    return Update(grads, true.loss, true.logits)


def fg_a(c: Case) -> Update:
    """g_b = Σ_l tangent of sample b's loss along u_l, D_l[b] = g_b u_l[b]/B (k of them, combined)."""
    parts = c.segments("preactivation")
    *z, logits = run(parts, c.x)
    loss, error = c.error(logits)
    grads = c.pull(parts[-1], z[-1], error)
    blocks = range(len(parts) - 1)
    if not blocks:
        return Update(grads, loss, logits)
    u = [c.perturbations[f"u.{l}"] * slope_is_nonzero(parts[l + 1], z[l + 1]) for l in blocks]  # k×B×…
    g = [
        sum(tangent(lambda h, l=l: c.losses(through(parts[l + 1 :])(h)), z[l + 1], u[l][i]) for l in blocks)
        for i in range(c.rule.tangents)
    ]
    signals = []
    for b in range(len(c.x)):
        v = torch.stack([torch.cat([u[l][i, b].flatten() for l in blocks]) for i in range(c.rule.tangents)])
        signals.append(combined(c.rule, v, torch.stack([slopes[b] for slopes in g])) / len(c.x))
    by_block = torch.stack(signals).split([z[l + 1][0].numel() for l in blocks], dim=1)
    for l in blocks:
        grads |= c.pull(parts[l], z[l], by_block[l].view_as(z[l + 1]))
    return Update(grads, loss, logits)


# --- local losses ----------------------------------------------------------------------------------------


def local(c: Case, hidden: Callable[..., Grads]) -> Update:
    """Blocks cut off from one another, each with a head: its own linear map, the output for the last."""
    h, grads, state_grads = c.x, {}, {}
    if not c.blocks:
        return bp(c)
    for l, block in enumerate(c.blocks):
        last = l == len(c.blocks) - 1
        names = [] if last else [f"head.{l}.linear.weight", f"head.{l}.linear.bias"]
        own = [c.state[name].clone().requires_grad_() for name in names]

        def head(h: Tensor, last: bool = last, own: Sequence[Tensor] = own) -> Tensor:
            return c.output(h) if last else F.linear(h.flatten(1), *own)

        _, out = run([block], h.detach())
        logits = head(out)
        loss = c.losses(logits).mean()
        if last:
            grads |= c.gradients(loss, [c.output])
            loss = c.losses(head(block(h.detach()))).mean()
        else:
            some = torch.autograd.grad(loss, own, retain_graph=True)
            state_grads |= dict(zip(names, some, strict=True))
        grads |= hidden(l, block, head, h.detach(), loss)
        h = out
    return Update(grads, loss, logits, state_grads)


def lg_bp(c: Case) -> Update:
    return local(c, lambda l, block, head, x, loss: c.gradients(loss, [block]))


def lg_fg_w(c: Case) -> Update:
    """ĝ = (∇L_l·v) v over the block's parameters."""

    def hidden(l: int, block: nn.Module, head: Any, x: Tensor, loss: Tensor) -> Grads:
        true = c.gradients(loss, [block])
        slope = sum((g * c.perturbations[name]).sum() for name, g in true.items())
        return {name: slope * c.perturbations[name] for name in true}

    return local(c, hidden)


def lg_fg_a(c: Case) -> Update:
    """D[b] = g_b u[b]/B at the block's pre-activation."""

    def hidden(l: int, block: nn.Sequential, head: Any, x: Tensor, loss: Tensor) -> Grads:
        before, activation, after = split(block)
        z = through(before)(x)
        rest = through([*activation, *after])
        u = c.perturbations["u"][:, : z[0].numel()].reshape(z.shape) * slope_is_nonzero(rest, z)
        g = tangent(lambda z: c.losses(head(rest(z))), z, u)
        signal = torch.stack([g[b] * u[b] / len(x) for b in range(len(x))])
        return c.pull(through(before), x, signal)

    return local(c, hidden)


# --- two passes ------------------------------------------------------------------------------------------


def pepita(c: Case) -> Update:
    """H_l − H_l' at block l's pre-activation, met by the second pass's input of the block."""
    heads = [through(split(block)[0]) for block in c.blocks]
    tails = [through([*split(block)[1]]) for block in c.blocks]
    ends = [through(split(block)[2]) for block in c.blocks]

    def activities(x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Every block's input, with the output layer's last; every activation's output."""
        inputs, outputs = [x], []
        for head, activation, end in zip(heads, tails, ends, strict=True):
            *_, a, h = run([head, activation, end], inputs[-1])
            outputs.append(a)
            inputs.append(h)
        return inputs, outputs

    inputs, first = activities(c.x)
    logits = c.output(inputs[-1])
    loss, error = c.error(logits)
    own, f = len(c.x) * error, c.state["feedback"]  # every sample's error, without the mean's 1/B
    change = [sum(own[b, k] * f[k] for k in range(c.classes)) for b in range(len(c.x))]
    inputs, second = activities(c.x + torch.stack(change).view_as(c.x))
    grads = c.pull(c.output, inputs[-1], error)
    for l, head in enumerate(heads):
        grads |= c.pull(head, inputs[l], (first[l] - second[l]).detach() / len(c.x))
    return Update(grads, loss, logits)


def ff(c: Case) -> Update:
    """softplus(−s(g − θ)) of every block's goodness, over true and wrong labels; then the output layer."""

    def labelled(values: Tensor) -> Tensor:
        x = c.x.clone().flatten(1)
        x[:, : c.classes] = values
        return x.view_as(c.x)

    def scaled(h: Tensor) -> Tensor:
        return torch.stack([a / (a.square().mean() + 1e-8).sqrt() for a in h.detach()])

    wrong = []
    for label, draw in zip(c.labels.tolist(), c.perturbations["wrong"].tolist(), strict=True):
        others = [(label + k) % c.classes for k in range(1, c.classes)]
        wrong.append(others[int((draw + 1) / 2 * len(others))])
    true, false = (labelled(F.one_hot(y, c.classes).double()) for y in (c.labels, torch.tensor(wrong)))

    grads, h = {}, torch.cat((true, false))
    for block in c.blocks:
        _, out = run([block], h)
        goodness = out.flatten(1).square().mean(1) - c.rule.threshold
        sign = torch.tensor([1.0] * len(true) + [-1.0] * len(false))
        grads |= c.gradients(F.softplus(-sign * goodness).mean(), [block])
        h = scaled(out)
    h = labelled(torch.full((c.classes,), 1 / c.classes))
    for block in c.blocks:
        h = scaled(block(h))
    logits = c.output(h)
    loss = c.losses(logits).mean()
    return Update(grads | c.gradients(loss, [c.output]), loss, logits)


def goodness_scores(c: Case) -> Tensor:
    """Forward-Forward's evaluation (B×C): one sample under one label at a time, in evaluation mode."""
    c.net.eval()
    scores = torch.zeros(len(c.x), c.classes)
    for b, sample in enumerate(c.x):
        for label in range(c.classes):
            h = sample.clone().flatten()
            h[: c.classes] = F.one_hot(torch.tensor(label), c.classes).double()
            h, every = h.view(1, *sample.shape), []
            for block in c.blocks:
                h = block(h)
                every.append(h.square().mean())
                h = h / (h.square().mean() + 1e-8).sqrt()
            scores[b, label] = sum(every[1:]) if len(every) > 1 else every[0]
    return scores.detach()
