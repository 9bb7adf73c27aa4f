"""Tapes: what is played is what the function does, for every layout, in place and beyond constants."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from fdfa_cli.training.traced import METHODS, Traced


class Counted:
    """A function that knows how often it was called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given):
        self.calls += 1
        return self.function(*given)


def test_it_is_played_from_the_third_time_on():
    def stepped(params, x):
        y = x @ params["weight"].mT + params["bias"]
        first, second = y.chunk(2)
        return {"y": y.relu(), "both": (first * 2, second.expand(3, *second.shape))}

    counted = Counted(stepped)
    traced_ = Traced(counted)
    for seed in range(4):
        torch.manual_seed(seed)
        params, x = {"weight": torch.randn(4, 3), "bias": torch.randn(4)}, torch.randn(6, 3)
        played, known = traced_(params, x), stepped(params, x)
        assert torch.equal(played["y"], known["y"])
        for mine, theirs in zip(played["both"], known["both"], strict=True):
            assert torch.equal(mine, theirs)
    assert counted.calls == 2


def test_every_layout_has_its_own():
    counted = Counted(lambda x: x.sum(0) / len(x))
    traced_ = Traced(counted)
    for shape in ((4, 3), (5, 3), (4, 3), (5, 3), (4, 3), (5, 3)):
        x = torch.randn(shape)
        torch.testing.assert_close(traced_(x), x.mean(0))
        torch.testing.assert_close(traced_(x.mT.contiguous().mT), x.mean(0))
        torch.testing.assert_close(traced_(x.double()), x.double().mean(0))
    assert counted.calls == 12


def test_what_happens_in_place_happens_again():
    def averaged(mean, x):
        fresh = mean.clone()
        fresh.lerp_(x, 0.5)
        view = fresh[:2]
        view.mul_(2)
        return fresh

    counted = Counted(averaged)
    traced_ = Traced(counted)
    for seed in range(4):
        torch.manual_seed(seed)
        mean, x = torch.randn(5), torch.randn(5)
        before = mean.clone()
        assert torch.equal(traced_(mean, x), averaged(mean, x))
        assert torch.equal(mean, before)
    assert counted.calls == 2


def test_what_is_held_is_read_anew():
    weight = torch.randn(3, 3)
    counted = Counted(lambda held, x: x @ held["weight"])
    traced_ = Traced(counted, {"weight": weight})
    for _ in range(4):
        x = torch.randn(2, 3)
        assert torch.equal(traced_(x), x @ weight)
        weight.add_(1)
    assert counted.calls == 2


def test_a_tensor_from_elsewhere_is_kept():
    table = torch.randn(3)
    traced_ = Traced(lambda x: x * table)
    for _ in range(4):
        x = torch.randn(3)
        assert torch.equal(traced_(x), x * table)


@pytest.mark.parametrize("look", [lambda x: x.sum().item() > 0, lambda x: bool((x > 0).all())])
def test_who_looks_at_a_value_is_called_every_time(look):
    counted = Counted(lambda x: x + 1 if look(x) else x - 1)
    traced_ = Traced(counted)
    for x in (torch.ones(2), -torch.ones(2)) * 2:
        assert torch.equal(traced_(x), 2 * x)
    assert counted.calls == 4


def test_what_is_cached_the_first_time_is_a_constant():
    made = []

    @cache
    def table() -> torch.Tensor:
        made.append(torch.arange(3.0))
        return made[0]

    traced_ = Traced(lambda x: x * table())
    for _ in range(4):
        assert torch.equal(traced_(torch.ones(3)), torch.arange(3.0))
    made[0].add_(1)
    assert torch.equal(traced_(torch.ones(3)), torch.arange(1.0, 4.0))


#: Every overload of the operations that are played as methods, of x and y (2×3).
OVERLOADS = {
    "add": [lambda x, y: torch.add(x, y, alpha=2), lambda x, y: x + 1, lambda x, y: x + y],
    "argmax": [lambda x, y: x.argmax(), lambda x, y: x.argmax(1, keepdim=True)],
    "bmm": [lambda x, y: torch.bmm(x[None], y.mT[None])],
    "clone": [lambda x, y: x.mT.clone(memory_format=torch.contiguous_format), lambda x, y: x.mT.clone()],
    "copy_": [lambda x, y: torch.zeros(2, 3, dtype=torch.float64).copy_(x)],
    "div": [lambda x, y: x / y, lambda x, y: x / 3, lambda x, y: torch.div(x, y, rounding_mode="floor")],
    "eq": [lambda x, y: x == y, lambda x, y: x == 1],
    "exp": [lambda x, y: x.exp()],
    "mean": [lambda x, y: x.mean(), lambda x, y: x.mean(1, keepdim=True, dtype=torch.float64)],
    "mul": [lambda x, y: x * y, lambda x, y: x * 3, lambda x, y: x * True],
    "neg": [lambda x, y: -x],
    "new_empty": [lambda x, y: x.new_empty(4, dtype=torch.float64).fill_(1)],
    "permute": [lambda x, y: x.permute(1, 0), lambda x, y: x.permute([-1, -2])],
    "relu": [lambda x, y: x.relu()],
    "sub": [lambda x, y: torch.sub(x, y, alpha=2), lambda x, y: x - 1],
    "sum": [lambda x, y: x.sum(), lambda x, y: x.sum((0, 1)), lambda x, y: x.sum(1, dtype=torch.float64)],
    "transpose": [lambda x, y: x.transpose(0, -1)],
    "unsqueeze": [lambda x, y: x.unsqueeze(-1)],
    "view": [lambda x, y: x.view(3, -1), lambda x, y: x.view(torch.int32), lambda x, y: x.view(6)],
}  # fmt: skip


@pytest.mark.parametrize("first", [lambda x: x, lambda x: torch.tensor(2.0)])
def test_what_no_method_can_do_is_left_to_the_operator(first):
    """`out=`, which methods do not take."""
    traced_ = Traced(lambda x: torch.mul(first(x), x, out=torch.empty(3)))
    for _ in range(3):
        x = torch.randn(3)
        assert torch.equal(traced_(x), first(x) * x)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_does_what_the_operator_does(name):
    for function in OVERLOADS[name]:
        counted = Counted(function)
        traced_ = Traced(counted)
        for _ in range(3):
            x, y = torch.randn(2, 3), torch.randn(2, 3)
            played, known = traced_(x, y), function(x, y)
            assert torch.equal(played, known)
            assert (played.dtype, played.stride()) == (known.dtype, known.stride())
        assert counted.calls == 2
