"""The recipe's ``sweep`` section."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from fdfa_cli.registry import Options

#: What a sweep may select by, and in which direction. Nothing that is measured on test data is here.
METRICS: dict[str, Literal["maximize", "minimize"]] = {
    "val_accuracy": "maximize",
    "val_loss": "minimize",
    "train_accuracy": "maximize",
    "train_loss": "minimize",
}


class Search(NamedTuple):
    """What a recipe must give for a search; `draws`: the number of configurations, else listed values.

    A search that `learns` draws later configurations from what the earlier ones came to.
    """

    draws: bool
    learns: bool


#: The searches, which `fdfa_cli.sweeps.search` implements.
SEARCHES = {
    "grid": Search(draws=False, learns=False),
    "random": Search(draws=True, learns=False),
    "sobol": Search(draws=True, learns=False),
    "tpe": Search(draws=True, learns=True),
}

#: The most trials of a sweep: more than anyone trains, and far fewer than a mistyped step could ask for.
MAX_TRIALS = 100_000

#: A list of seeds, or their number, which then count up from ``training.seed``.
Seeds = (
    Annotated[int, Field(ge=1, le=MAX_TRIALS)]
    | Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
)


class Space(Options):
    """The values that one key of the recipe may take: a list, or a range from `low` to `high`.

    A range consists of whole numbers when its ends and its step are whole; both ends belong to it.
    """

    values: Annotated[tuple[Any, ...] | None, Field(min_length=1, description="the values to try")] = None
    low: Annotated[int | float | None, Field(description="the smallest value")] = None
    high: Annotated[int | float | None, Field(description="the largest value")] = None
    log: Annotated[bool, Field(description="as many values between 1 and 10 as between 10 and 100")] = False
    step: Annotated[int | float | None, Field(gt=0, description="distance of values from low on")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.values is not None:
            if self.log or (self.low, self.high, self.step) != (None, None, None):
                raise ValueError("give either values, or a range with low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give values: […], or a range with low and high")
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other")
        if self.step is not None and (self.high - self.low) / self.step >= MAX_TRIALS:
            raise ValueError(f"step {self.step:g} makes more than {MAX_TRIALS} values")
        return self

    @property
    def listed(self) -> tuple[Any, ...] | None:
        """The list, or the steps of the range; None where there are more values than can be listed."""
        if self.values is not None:
            return self.values
        if self.step is None:
            return None
        assert self.low is not None
        assert self.high is not None
        # The last step may miss `high` by the rounding of a decimal fraction only.
        count = int((self.high - self.low) / self.step * (1 + 1e-12)) + 1
        return tuple(_rounded(self.low + i * self.step) for i in range(count))

    def at(self, u: float) -> Any:
        """The value at `u` in [0, 1); where u is uniform, values are uniform, or log-uniform with `log`."""
        if (listed := self.listed) is not None:
            return listed[min(int(u * len(listed)), len(listed) - 1)]
        assert self.low is not None
        assert self.high is not None
        # Whole numbers share the range in equal parts, the ends included.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        return self.nearest(low * (high / low) ** u if self.log else low + (high - low) * u)

    @property
    def ends(self) -> tuple[Any, ...]:
        """All values of a list, or the first and the last of a range."""
        if self.values is not None:
            return self.values
        listed = self.listed or (self.low, self.high)
        return listed[0], listed[-1]

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def nearest(self, x: float) -> int | float:
        """The value of the range nearest to `x`, rounded to six digits, which a person can retype."""
        assert self.low is not None
        assert self.high is not None
        return min(max(round(x) if self.whole else float(f"{x:.6g}"), self.low), self.high)


class Prune(Options):
    """Give up configurations that are behind, by their mean over all seeds; ``prune: median`` for short.

    All configurations train to the same epoch, a rung, before any of them is judged: which ones go on depends
    neither on the engine nor on which were faster.
    """

    shorthand: ClassVar[str | None] = "rule"

    rule: Annotated[
        Literal["median", "halving"],
        Field(description="keep those no worse than the median, or one of `factor` (successive halving)"),
    ]
    first: Annotated[int, Field(ge=1, description="epochs before the first decision")] = 1
    factor: Annotated[int, Field(ge=2, description="each rung is at this many times the epoch before")] = 3

    def rungs(self, epochs: int) -> Iterator[int]:
        """The epochs after which configurations are judged, all below `epochs`."""
        powers = (self.first * self.factor**i for i in itertools.count())
        return itertools.takewhile(lambda epoch: epoch < epochs, powers)


class Tpe(Options):
    """The rounds in which a search by tree-structured Parzen estimators learns.

    A round is suggested from the results of all rounds before it, so it depends neither on the engine nor on
    which trials were faster. Whatever changes these results, such as more seeds or a failed trial that is
    trained again, changes the rounds to come.
    """

    startup: Annotated[int, Field(ge=1, description="configurations of the first round, drawn at random")] = (
        10
    )
    round: Annotated[int, Field(ge=1, description="configurations of every round after it")] = 8


class Sweep(Options):
    """Many trainings: which configurations, under which seeds, and the metric that chooses the best."""

    parameters: Annotated[
        dict[str, Space], Field(description="dotted keys of the recipe, and the values that each may take")
    ]
    search: Annotated[
        Literal["grid", "random", "sobol", "tpe"],
        Field(
            description="every combination, independent draws, an even spread (Sobol's sequence), or draws "
            "that learn from the results before them (tree-structured Parzen estimators)"
        ),
    ] = "grid"
    trials: Annotated[
        int | None, Field(ge=1, le=MAX_TRIALS, description="number of configurations to draw; not for a grid")
    ] = None
    seeds: Annotated[
        Seeds,
        Field(description="a list, or how many from training.seed on; all are for each configuration"),
    ] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63, description="seed of the search, not of a run")] = 0
    tpe: Annotated[Tpe | None, Field(description="options of search: tpe")] = None
    metric: Annotated[
        Literal["val_accuracy", "val_loss", "train_accuracy", "train_loss"],
        Field(description="compares configurations at the last epoch; never of test data"),
    ] = "val_accuracy"
    prune: Annotated[Prune | None, Field(description="give up configurations that are behind")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.parameters:
            raise ValueError("parameters: is empty; give at least one key with its values")
        search = SEARCHES[self.search]
        if self.trials is not None and not search.draws:
            raise ValueError("trials: a grid trains every combination; trials are for random, sobol and tpe")
        if self.trials is None and search.draws:
            raise ValueError(f"search: {self.search} needs trials, the number of configurations to draw")
        if self.tpe is not None and not search.learns:
            raise ValueError(f"tpe: these options are for search: tpe, and this one is {self.search}")
        if isinstance(self.seeds, tuple) and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is given twice")
        return self

    def seed_list(self, first: int) -> tuple[int, ...]:
        """The seeds of every configuration, where a number counts up from `first`."""
        return seed_list(self.seeds, first)

    @property
    def learns(self) -> bool:
        """Whether later configurations depend on what the earlier ones came to."""
        return SEARCHES[self.search].learns

    @property
    def count(self) -> int:
        """The number of configurations to draw, duplicates included; not for a grid."""
        assert self.trials is not None, "a search that draws has `trials`, as the schema checks"
        return self.trials

    def better(self, value: float) -> float:
        """`value` of the metric, with its sign turned where a smaller one is better."""
        return value if METRICS[self.metric] == "maximize" else -value


def seed_list(seeds: int | tuple[int, ...], first: int) -> tuple[int, ...]:
    """`seeds` as a list, where a number counts up from `first`."""
    return seeds if isinstance(seeds, tuple) else tuple(range(first, first + seeds))


def _rounded(value: int | float) -> int | float:
    """`value` without the noise of adding decimal fractions (0.1 + 2·0.1)."""
    return value if isinstance(value, int) else float(f"{value:.12g}")


#: Values for dotted keys of a recipe.
Overrides = dict[str, Any]


def random(parameters: Mapping[str, Space], seed: int, number: int) -> Overrides:
    """The values of draw `number`, all independent; those of one key do not depend on the other keys."""
    return {key: space.at(_uniform(f"{seed}/{number}/{key}")) for key, space in parameters.items()}


def _uniform(text: str) -> float:
    """A number in [0, 1) that looks random, and is the same function of `text` on every machine."""
    digest = hashlib.sha256(text.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
