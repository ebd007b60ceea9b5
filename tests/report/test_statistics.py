"""Every statistic against a value known by hand or by an independent route, and the coverage of every interval."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bench import coverage
from report import statistics as S

# --- how much ---


def test_paired_t_is_students_interval():
    t = S.paired_t([1.0, 2.0, 4.0])
    assert math.isclose(t.mean, 7 / 3) and math.isclose(t.sem, t.sd / math.sqrt(3))
    assert math.isclose(t.hi - t.mean, 4.302652729911275 * t.sem) and not t.excludes_zero


def test_differences_that_are_all_alike_have_no_interval():
    t = S.paired_t([0.1 + 0.2, 0.3, 0.3])
    assert t.sem == 0 and math.isnan(t.lo) and math.isnan(t.p) and not t.excludes_zero


def test_one_difference_has_a_mean_and_nothing_else():
    t = S.paired_t([5.0])
    assert t.mean == 5 and math.isnan(t.sem) and math.isnan(S.sign_flip_p([5.0])) and math.isnan(S.tost([5.0], 15).p)


@pytest.mark.parametrize("n", [3, 5, 6])
def test_sign_flip_p_counts_assignments(n):
    d = np.random.default_rng(n).normal(1, 1, n)
    flips = [abs((d * signs).mean()) for signs in itertools.product((1, -1), repeat=n)]
    assert math.isclose(S.sign_flip_p(d), np.mean([f >= abs(d.mean()) - 1e-12 for f in flips]))


def test_sign_flip_reaches_5_percent_at_six_and_not_below():
    assert S.sign_flip_p([1.0] * 5) == 2 / 2**5 and S.sign_flip_p([1.0] * 6) == 2 / 2**6 < 0.05


def test_tost_is_shown_exactly_where_the_90_percent_interval_lies_within_the_margin():
    d = [2.0, -3.0, 1.0, 4.0]
    edge = max(abs(S.tost(d, 15).lo), abs(S.tost(d, 15).hi))
    assert S.tost(d, edge + 0.01).shown and not S.tost(d, edge - 0.01).shown


@pytest.mark.parametrize("n, sd, pp", [(3, 10, 33), (5, 20, 34), (10, 30, 30), (20, 45, 30)])
def test_the_minimum_detectable_effect(n, sd, pp):
    assert round(S.min_detectable(sd, n)) == pp


def test_the_minimum_detectable_effect_is_found_with_its_power():
    effect = S.min_detectable(1.0, 5)
    d = np.random.default_rng(0).normal(effect, 1, (20_000, 5))
    assert abs((stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean() - S.POWER) < 0.01


@pytest.mark.parametrize("n, percent", [(3, 21), (5, 19), (10, 17)])
def test_what_a_threshold_of_one_sem_is_worth(n, percent):
    assert round(100 * S.chance_beyond_sem(n)) == percent


def test_holm_steps_down_and_passes_over_nan():
    assert S.holm([0.01, math.nan, 0.04, 0.03])[:1] == [0.03] and math.isnan(S.holm([0.01, math.nan])[1])
    assert S.holm([0.01, 0.04, 0.03])[1:] == [0.06, 0.06] and all(map(math.isnan, S.holm([math.nan])))


# --- how often ---


@pytest.mark.parametrize("k, n, lo, hi", [(0, 3, 0, 71), (2, 3, 9, 99), (2, 5, 5, 85), (5, 5, 48, 100)])
def test_clopper_pearson(k, n, lo, hi):
    assert tuple(round(100 * bound) for bound in S.clopper_pearson(k, n)) == (lo, hi)


def test_fisher():
    assert math.isclose(S.fisher_p(0, 3, 3, 3), 0.1) and math.isnan(S.fisher_p(0, 0, 1, 3))


# --- when ---


def test_the_median_is_kaplan_meiers():
    assert S.median_time([10, 20, 100], [True, True, False]) == 20
    assert math.isnan(S.median_time([10, 100, 100], [True, False, False]))
    # Censored at 15, the second run is not at risk when the third takes off.
    assert S.median_time([10, 15, 20], [True, False, True]) == 20


def test_log_rank_scores_are_observed_minus_expected():
    """The permuted sum is scipy's log-rank numerator: the order of assignments is the same."""
    times = np.array([3.0, 8, 9, 5, 12, 12])
    happened = np.array([True, True, False, True, True, False])
    own = (0, 1, 2)
    exact = S.log_rank_exact(times[:3], happened[:3], times[3:], happened[3:])

    def numerator(chosen) -> float:
        total = 0.0
        for t in np.unique(times[happened]):
            at_risk, dying = times >= t, happened & (times == t)
            share = sum(at_risk[i] for i in chosen) / at_risk.sum()
            total += sum(dying[i] for i in chosen) - share * dying.sum()
        return total

    every = [numerator(chosen) for chosen in itertools.combinations(range(6), 3)]
    below, above = (np.mean([sign * value <= sign * numerator(own) + 1e-9 for value in every]) for sign in (1, -1))
    assert math.isclose(exact, min(1.0, 2 * min(below, above)))


def test_log_rank_of_five_late_against_five_early_runs_stands_at_its_floor():
    assert math.isclose(
        S.log_rank_exact([100, 100, 100, 49, 53], [0, 0, 0, 1, 1], [23, 24, 23, 23, 23], [1] * 5), 2 / 252
    )


def test_log_rank_needs_two_runs_an_arm_and_an_event():
    assert math.isnan(S.log_rank_exact([1], [1], [2, 3], [1, 1]))
    assert math.isnan(S.log_rank_exact([9, 9], [0, 0], [9, 9], [0, 0]))


# --- a rate within a run, and modes ---


def test_clusters_of_one_are_plain_sampling():
    values = [0, 1, 1, 0, 1]
    rate = S.clustered_rate(values, range(5))
    assert math.isclose(rate.se, np.std(values, ddof=1) / math.sqrt(5)) and rate.clusters == 5


def test_completions_that_repeat_their_problem_add_nothing():
    once = S.clustered_rate([0, 1, 1, 0], range(4))
    assert math.isclose(S.clustered_rate([0, 0, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2, 3, 3]).se, once.se)


def test_one_mode_is_kept_and_two_are_found():
    rng = np.random.default_rng(0)
    assert S.unimodality_p(rng.normal(0.4, 0.15, 168)) > 0.05
    assert S.unimodality_p(np.r_[rng.normal(0, 0.1, 84), rng.normal(0.6, 0.1, 84)]) < 0.05
    assert math.isnan(S.unimodality_p([0.1] * 20))


def test_one_mode_is_rejected_no_more_often_than_it_says():
    rejected = [S.unimodality_p(np.random.default_rng(seed).normal(0, 1, 28)) < 0.05 for seed in range(60)]
    assert np.mean(rejected) < 0.1


# --- coverage ---


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("row", ["t 95%", "TOST 90%", "clustered 95%"])
def test_every_interval_covers_what_it_says_on_normal_data(row, n):
    covered, nominal = coverage.normal(row, n)
    assert abs(covered - nominal) < 0.02


@pytest.mark.parametrize("n", [3, 5, 10])
def test_clopper_pearson_covers_at_least_what_it_says(n):
    assert min(coverage.take_offs(n).values()) >= 0.95


def test_t_covers_less_where_runs_take_off_or_do_not():
    assert 0.55 < coverage.bimodal(3, 0.75, 0.0) < 0.6 < coverage.bimodal(10, 0.75, 0.0) < 0.96
