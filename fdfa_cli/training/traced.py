"""A function of tensors, recorded once and played again.

`torch.func.vmap` interprets a step anew each time: every operation passes through the rule, the layers and
functorch, which on small networks takes as long as the sums. But a step is pure, and under vmap nothing can
look at the values of a batched tensor: for inputs of one layout it always comes to the same operations. The
second time, when all that the function caches is made, they are written down, as they arrive below vmap, into
a `torch.fx` graph; from then on its generated code runs them. A function that does look at a value (of a
tensor that is not batched) has no recording, and none has where torch lacks what recording takes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any

from fdfa_cli.internals import private, recording_mode
from fdfa_cli.lazy import torch

#: Tensors, in mappings and tuples of any depth.
Tree = Any

#: Operations that are played as a tensor's method of that name. Called as an operator, each is parsed anew by
#: its schema, which takes longer than making a view does (2.5 in place of 0.9 µs).
METHODS = {"add", "argmax", "bmm", "clone", "copy_", "div", "eq", "exp", "mean", "mul", "neg", "new_empty"}
METHODS |= {"permute", "relu", "sub", "sum", "transpose", "unsqueeze", "view"}


class Traced:
    """A pure `function` of trees of tensors, played from a recording for each layout of its inputs.

    The first arguments of the function are `held`: the same tensors at every call, whatever their values.
    """

    def __init__(self, function: Callable[..., Tree], *held: Tree) -> None:
        self._function, self._held = function, held
        self._held_leaves = torch.utils._pytree.tree_leaves(held) if _recordable() else []
        #: The recording for a layout, or None where the function looks at a value and has to be called.
        self._recordings: dict[object, Callable[..., Tree] | None] = {}
        #: The layouts with which the function has been called.
        self._met: set[object] = set()

    def __call__(self, *trees: Tree) -> Tree:
        """The function's value. The function itself is called the first two times for inputs of a layout."""
        if not _recordable():
            return self._function(*self._held, *trees)
        leaves, structure = torch.utils._pytree.tree_flatten(trees)
        layout = structure, *map(_layout, leaves)
        if layout in self._recordings:
            play = self._recordings[layout]
            return play([*self._held_leaves, *leaves]) if play else self._function(*self._held, *trees)
        if layout not in self._met:
            self._met.add(layout)
            return self._function(*self._held, *trees)
        recorder = _Recorder([*self._held_leaves, *leaves])
        with _watch()(recorder):
            result = self._function(*self._held, *trees)
        self._recordings[layout] = None if recorder.looked else recorder.recording(result)
        return result


class _Recorder:
    """Writes down what happens to `inputs`."""

    def __init__(self, inputs: list[torch.Tensor]) -> None:
        #: Whether a tensor's value has left it: what is done next time may depend on that.
        self.looked = False
        self._graph = torch.fx.Graph()
        self._constants: dict[str, torch.Tensor] = {}
        #: Every tensor seen, by its identity. They are held, so that no other tensor gets the same identity.
        self._seen: dict[int, tuple[torch.Tensor, torch.fx.Node]] = {}
        for i, tensor in enumerate(inputs):
            self._seen[id(tensor)] = tensor, self._graph.placeholder(f"input_{i}")

    def write(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note an operation that has been done."""
        self.looked |= isinstance(result, int | float | complex)  # bool included
        if args and _is_same_view(result, args[0]) and not operation._schema.is_mutable:
            self._seen[id(result)] = result, self._node(args[0])
            return
        named = torch.fx.node.map_aggregate((args, kwargs), self._node)
        name = operation._schema.name.removeprefix("aten::")
        if name in METHODS and isinstance(args[0], torch.Tensor) and "out" not in kwargs:
            node = self._graph.call_method(name, *named)
        else:
            node = self._graph.call_function(operation, *named)
        parts = [(result, node)]
        if isinstance(result, tuple | list):
            parts = [
                (part, self._graph.call_function(operator.getitem, (node, i)))
                for i, part in enumerate(result)
            ]
        for part, its_node in parts:
            if isinstance(part, torch.Tensor):
                self._seen[id(part)] = part, its_node

    def recording(self, result: Tree) -> Callable[[list[torch.Tensor]], Tree]:
        """A function that does it all again on other inputs and gives a tree like `result`."""
        leaves, structure = torch.utils._pytree.tree_flatten(result)
        self._graph.output([self._node(leaf) for leaf in leaves])
        self._graph.eliminate_dead_code()
        play = torch.fx.GraphModule(self._constants, self._graph).forward
        return lambda inputs: torch.utils._pytree.tree_unflatten(play(*inputs), structure)

    def _node(self, value: Any) -> Any:
        """The node of a tensor, a new constant where it was not seen before; other values are themselves."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._seen:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = value
            self._seen[id(value)] = value, self._graph.get_attr(name)
        return self._seen[id(value)][1]


def _layout(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()


def _is_same_view(result: Any, argument: Any) -> bool:
    """Whether `result` is `argument` seen in the same way: a view to its own shape, say."""
    return (
        isinstance(result, torch.Tensor)
        and isinstance(argument, torch.Tensor)
        and result.data_ptr() == argument.data_ptr()
        and _layout(result) == _layout(argument)
    )


@cache
def _recordable() -> bool:
    """Whether torch has what recording takes."""
    taken = ("utils._pytree.tree_flatten", "ops.aten.add.Tensor._schema.is_mutable")
    return recording_mode() is not None and all(private(path) is not None for path in taken)


@cache
def _watch() -> Callable[[_Recorder], Any]:
    """The mode in which a recorder sees every operation, below vmap."""
    base: Any = recording_mode()

    class Watch(base):  # type: ignore[misc]  # torch does not type it
        def __init__(self, recorder: _Recorder) -> None:
            super().__init__()
            self._recorder = recorder

        def __torch_dispatch__(
            self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            result = operation(*args, **(kwargs or {}))
            self._recorder.write(operation, args, kwargs or {}, result)
            return result

    return Watch
