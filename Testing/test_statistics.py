"""Means, intervals and tests against numbers one can derive."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("scipy")

from dbsam_training.evaluate.bootstrap import Row, compare_models, mean_over_datasets


def row(dataset: str, case: str, number: int, dsc: float, model: str = "m") -> Row:
    return Row(dataset, case, f"cell #{number}", "CT", 2, model, "roi", dsc, dsc)


def test_means_and_intervals_resample_cases_within_data_sets() -> None:
    rows = [row("A", f"case {n}", 0, value) for n, value in enumerate((0.2, 0.4, 0.6, 0.8))]
    rows += [row("B", "only", n, value) for n, value in enumerate((0.9, 1.0))]
    mean = mean_over_datasets(rows, "dsc")
    assert mean.value == pytest.approx((0.5 + 0.95) / 2)
    assert (mean.datasets, mean.cases, mean.objects) == (2, 5, 6)
    # The mean of four of (0.2, 0.4, 0.6, 0.8) has a standard deviation of sqrt(0.05 / 4); B has but one case.
    spread = 1.96 * np.sqrt(0.05 / 4) / 2
    assert (mean.value - mean.low, mean.high - mean.value) == (
        pytest.approx(spread, rel=0.15),
        pytest.approx(spread, rel=0.15),
    )


def test_models_are_compared_on_common_objects_by_a_signed_rank_test_over_cases() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(0.4, 0.6, 12)
    gain = rng.uniform(-0.01, 0.1, 12)
    rows = [row("A", f"case {n}", 0, value, "first") for n, value in enumerate(first)]
    rows += [row("A", f"case {n}", 0, value, "second") for n, value in enumerate(first + gain)]
    rows += [row("A", "case 99", 0, 0.0, "first")]
    (comparison,) = compare_models(rows, "dsc")
    assert (comparison.model, comparison.other, comparison.cases) == ("second", "first", 12)
    assert comparison.difference == pytest.approx(gain.mean())
    assert comparison.low < gain.mean() < comparison.high
    # The exact distribution: all 2**12 sign patterns of the ranks are equally likely.
    ranks = np.argsort(np.argsort(np.abs(gain))) + 1
    lower_tail = min(ranks[gain > 0].sum(), ranks[gain < 0].sum())
    sums = (np.array(list(itertools.product((0, 1), repeat=12))) * ranks).sum(axis=1)
    assert comparison.p_value == pytest.approx(min(1, 2 * (sums <= lower_tail).mean()))


def test_equal_models_do_not_differ_and_three_models_get_a_holm_correction() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for n, value in enumerate(rng.uniform(0.3, 0.7, 10)):
        rows += [
            row("A", f"{n}", 0, value, "a"),
            row("A", f"{n}", 0, value, "b"),
            row("A", f"{n}", 0, value + 0.1, "c"),
        ]
    equal, *others = compare_models(rows, "dsc")
    assert (equal.difference, equal.p_value, equal.p_adjusted) == (0, 1, 1)
    assert [entry.p_value for entry in others] == [pytest.approx(2 / 2**10)] * 2
    assert [entry.p_adjusted for entry in others] == [pytest.approx(3 * 2 / 2**10)] * 2
