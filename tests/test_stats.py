"""Statistics against published worked examples, scipy's own tests, and naive second implementations."""

from __future__ import annotations

import statistics

import numpy
import pytest
import scipy.stats

from fdfa_cli.stats import (
    Mean,
    holm,
    interquartile_mean,
    mean,
    paired,
    probability_of_improvement,
)

#: Extra hours of sleep of ten patients under two drugs (Cushny & Peebles 1905), the data of Student 1908.
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def test_paired_t_of_students_sleep_data():
    # R: t.test(extra ~ group, data = sleep, paired = TRUE)
    found = paired(dict(enumerate(DRUG_2)), dict(enumerate(DRUG_1)))
    assert found is not None
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.difference.n == 10
    assert found.difference.mean == pytest.approx(1.58)
    assert found.difference.half is not None
    assert found.difference.mean - found.difference.half == pytest.approx(0.7001142, abs=1e-7)
    assert found.difference.mean + found.difference.half == pytest.approx(2.4598858, abs=1e-7)


@pytest.mark.parametrize("n", [3, 4, 10, 50])
def test_t_interval_equals_scipy(n):
    values = numpy.random.default_rng(n).normal(0.9, 0.01, n)
    found = mean(list(values))
    low, high = scipy.stats.t.interval(0.95, n - 1, values.mean(), scipy.stats.sem(values))
    assert found is not None
    assert found.half is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high), rel=1e-12)


def test_t_interval_covers_the_truth_as_often_as_it_says():
    # 2000 binomial trials of 0.95: outside ± 0.0195 (4 standard errors) with probability 6e-5; seed fixed
    samples = numpy.random.default_rng(1).normal(0, 1, (2000, 5))
    hits = [
        abs(m.mean) <= m.half for m in map(mean, samples.tolist()) if m is not None and m.half is not None
    ]
    assert len(hits) == 2000
    assert statistics.fmean(hits) == pytest.approx(0.95, abs=0.0195)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.75]])
def test_below_three_values_there_is_no_interval(values):
    assert mean(values) == Mean(len(values), statistics.fmean(values), None)


def test_no_values_no_mean():
    assert mean([]) is None
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_pairs_are_the_common_keys():
    found = paired({0: 3.0, 1: 5.0, 2: 9.0, 7: 100.0}, {2: 2.0, 1: 1.0, 0: 2.0, 8: -100.0})
    assert found is not None
    assert found.difference.n == 3
    assert found.difference.mean == pytest.approx(4)
    assert found.p == pytest.approx(scipy.stats.ttest_rel([3, 5, 9], [2, 1, 2]).pvalue)


def test_differences_without_spread_are_not_tested():
    found = paired({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.1, 1: 0.2, 2: 0.3})
    assert found is not None
    assert found.p is None


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        # https://en.wikipedia.org/wiki/Holm-Bonferroni_method, the example; R: p.adjust(p, "holm")
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1.0, 1.0]),  # never above 1
        ([0.01], [0.01]),
        ([], []),
    ],
)
def test_holm(p, adjusted):
    assert holm(p) == pytest.approx(adjusted)


def test_interquartile_mean_is_the_middle_half_of_all_runs_of_all_tasks():
    # Agarwal et al. 2021: 25 % of the pooled runs are dropped at each end
    assert interquartile_mean([[0.0, 2.0, 3.0, 100.0], [-9.0, 1.0, 4.0, 5.0]]).value == pytest.approx(2.5)


def test_probability_of_improvement_is_mann_whitney_u_over_pairs_and_averaged_over_tasks():
    generator = numpy.random.default_rng(2)
    ours, theirs = generator.integers(0, 9, (2, 3, 7)) / 10
    parts = [
        scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
        for x, y in zip(ours, theirs, strict=True)
    ]
    found = probability_of_improvement(ours.tolist(), theirs.tolist())
    assert found.value == pytest.approx(statistics.fmean(parts))
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("ours", "expected"), [([2.0, 3.0], 1.0), ([0.0, -1.0], 0.0), ([1.0, 1.0], 0.5)])
def test_probability_of_improvement_at_its_ends(ours, expected):
    found = probability_of_improvement([ours], [[1.0, 1.0]])
    assert (found.value, found.low, found.high) == (expected, expected, expected)


def test_bootstrap_is_stratified_and_agrees_with_a_naive_one():
    generator = numpy.random.default_rng(3)
    tasks = [generator.normal(0, 1, 12).tolist(), generator.normal(3, 1, 12).tolist()]
    naive = []
    for _ in range(2000):  # resample within each task, pool, and drop a quarter at each end
        pool = sorted(float(x) for task in tasks for x in generator.choice(task, len(task)))
        naive.append(statistics.fmean(pool[6:-6]))
    low, high = numpy.percentile(naive, [2.5, 97.5])
    found = interquartile_mean(tasks, seed=0)
    # The ends of 2000 resamples scatter by about 4 % of the width; 20 % would be another interval.
    assert found.low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.high == pytest.approx(high, abs=0.2 * (high - low))


def test_bootstrap_is_a_function_of_its_seed():
    tasks = [numpy.random.default_rng(4).normal(0, 1, 30).tolist()]
    assert interquartile_mean(tasks, 1) == interquartile_mean(tasks, 1) != interquartile_mean(tasks, 2)
