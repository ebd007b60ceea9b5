"""Each statistic against another way to the same number, and its limits at small n."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from report.branch_statistics import clopper_pearson, holm, min_detectable, paired_t, sign_flip_p, tost

SAMPLES = [np.random.default_rng(n).normal(3, 10, n).tolist() for n in (2, 3, 5, 6, 10, 16)]


@pytest.mark.parametrize("x", SAMPLES, ids=len)
def test_the_t_interval_is_scipys_of_one_sample(x):
    reference = stats.ttest_1samp(x, 0)
    low, high = reference.confidence_interval(0.95)
    assert paired_t(x) == pytest.approx((np.mean(x), low, high, reference.pvalue), rel=1e-12)


def test_the_t_interval_by_hand():
    # mean 4, sd 2, n 4: standard error 1, t(3) at 97.5% is 3.182446
    mean, low, high, _ = paired_t([2.0, 4.0, 6.0, 4.0 + 0.0])
    sd = math.sqrt(8 / 3)
    assert (mean, high - mean, mean - low) == pytest.approx((4, *[3.182446 * sd / 2] * 2), rel=1e-6)


def test_one_difference_has_no_interval_and_equal_ones_have_none_of_width():
    assert paired_t([5.0])[0] == 5 and all(map(math.isnan, paired_t([5.0])[1:]))
    assert all(map(math.isnan, tost([5.0], 15)))
    assert paired_t([0.1 + 0.2, 0.3, 0.3]) == pytest.approx((0.3, 0.3, 0.3, 0))
    assert paired_t([0.0, 0.0])[3] == 1
    assert tost([20.0, 20.0], 15) == (1, 20, 20) and tost([1.0, 1.0], 15) == (0, 1, 1)


@pytest.mark.parametrize("x", SAMPLES[:5], ids=len)
def test_sign_flips_are_all_counted(x):
    sums = [
        abs(sum(s * d for s, d in zip(signs, x, strict=True))) for signs in itertools.product((1, -1), repeat=len(x))
    ]
    assert sign_flip_p(x) == np.mean([s >= abs(sum(x)) - 1e-9 for s in sums])


def test_sign_flips_at_their_least_and_beyond_counting():
    assert [sign_flip_p([1.0] * n) for n in (3, 5, 6)] == [0.25, 0.0625, 0.03125]
    x = np.random.default_rng(1).normal(0.5, 1, 24).tolist()
    assert sign_flip_p(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.02)


@pytest.mark.parametrize("x", SAMPLES, ids=len)
def test_equivalence_is_two_one_sided_tests(x):
    p, low, high = tost(x, 15)
    both = [
        stats.ttest_1samp(x, -15, alternative="greater").pvalue,
        stats.ttest_1samp(x, 15, alternative="less").pvalue,
    ]
    assert p == pytest.approx(max(both), rel=1e-12)
    assert (low, high) == pytest.approx(tuple(stats.ttest_1samp(x, 0).confidence_interval(0.90)), rel=1e-12)
    assert (p < 0.05) == (low > -15 and high < 15)


def test_holm_by_hand():
    assert holm([0.01, 0.04, math.nan, 0.03])[:2] == pytest.approx([0.03, 0.06])
    assert holm([0.01, 0.04, math.nan, 0.03])[3] == pytest.approx(0.06), "never below a smaller p's"
    assert math.isnan(holm([0.01, math.nan])[1]) and holm([0.01, math.nan])[0] == 0.01
    assert holm([0.9, 0.8]) == [1, 1]


def test_clopper_pearson_by_its_beta_quantiles():
    for k, n in [(1, 5), (2, 5), (7, 10)]:
        reference = stats.beta.ppf(0.025, k, n - k + 1), stats.beta.ppf(0.975, k + 1, n - k)
        assert clopper_pearson(k, n) == pytest.approx(reference, rel=1e-9)
    assert clopper_pearson(0, 3) == pytest.approx((0, 1 - 0.025 ** (1 / 3)))
    assert clopper_pearson(3, 3) == pytest.approx((0.025 ** (1 / 3), 1))


@pytest.mark.parametrize(("n", "sd", "found"), [(3, 10, 32.6), (5, 20, 33.6), (6, 10, 14.3), (10, 30, 29.9)])
def test_the_detectable_difference_is_found_with_that_power(n, sd, found):
    effect = min_detectable(sd, n)
    assert effect == pytest.approx(found, abs=0.1)
    assert stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect / sd * math.sqrt(n)) == pytest.approx(0.8, abs=1e-4)


def test_nothing_is_detectable_with_one_and_everything_without_spread():
    assert math.isnan(min_detectable(10, 1)) and math.isnan(min_detectable(math.nan, 5))
    assert min_detectable(0, 5) == 0


def test_what_is_not_finite_or_not_there_is_refused():
    for x in ([], [1.0, math.nan]):
        for statistic in (paired_t, sign_flip_p, lambda x: tost(x, 15)):
            with pytest.raises(ValueError, match="differences"):
                statistic(x)
