"""Cutting a set in two so that each class keeps its share."""

from __future__ import annotations

from fdfa_cli.lazy import numpy, torch


def stratified(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Sorted positions of `count` of the samples labelled `labels` (n), drawn by `seed`.

    Each class gets its share count·n_c/n rounded down, and the samples then missing go to the classes with
    the largest remainders, so the counts add up exactly and differ from the shares by less than one.
    """
    y = labels.numpy()
    sizes = numpy.unique(y, return_counts=True)[1]
    quota, remainder = numpy.divmod(count * sizes, len(y))
    quota[numpy.argsort(-remainder, kind="stable")[: count - quota.sum()]] += 1
    # The legacy generator: its stream is frozen (NEP 19), so a split is the same under every version.
    shuffled = numpy.random.RandomState(seed).permutation(len(y))
    by_class = shuffled[numpy.argsort(y[shuffled], kind="stable")]
    rank = numpy.arange(len(y)) - numpy.repeat(numpy.cumsum(sizes) - sizes, sizes)
    return torch.from_numpy(numpy.sort(by_class[rank < numpy.repeat(quota, sizes)]))


def cut(labels: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted positions of the samples that `stratified` draws, and of all the others."""
    drawn = stratified(labels, count, seed)
    others = torch.ones(len(labels), dtype=torch.bool)
    others[drawn] = False
    return drawn, others.nonzero().flatten()
