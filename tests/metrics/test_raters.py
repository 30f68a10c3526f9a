"""Agreement beyond chance: worked by hand, blind to who is who, and not defined where nothing varies."""

import math

import numpy as np
import pytest

pytest.importorskip("krippendorff")
pytest.importorskip("statsmodels")

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.raters import cohen_kappa, fleiss_kappa, krippendorff_alpha

NAN = math.nan
THREE = [[1, 1, 1], [0, 0, -1], [-1, -1, -1], [1, 1, 0]]


def test_fleiss_kappa_of_three_raters_is_what_it_is_by_hand():
    # Pairs that agree: 1, 1/3, 1, 1/3, mean 2/3. Of 12 ratings 5 are 1, 3 are 0, 4 are -1, so chance is
    # (25 + 9 + 16) / 144 = 50/144, and kappa (96 - 50) / (144 - 50).
    kappa = fleiss_kappa(THREE, resamples=50)
    assert (kappa.value, kappa.count) == (pytest.approx(46 / 94), 4)
    assert kappa.low <= kappa.value <= kappa.high


def test_fleiss_kappa_counts_only_units_with_the_most_ratings():
    short = [*THREE, [1, 0, NAN], [NAN, NAN, 1]]
    assert fleiss_kappa(short, resamples=1).value == fleiss_kappa(THREE, resamples=1).value
    assert fleiss_kappa(short, resamples=1).count == 4


def test_cohen_kappa_is_what_it_is_by_hand_on_the_units_that_both_rated():
    # 1 of 4 agrees. The first says 1 once and -1 three times, the second 1 three times and 0 once: chance
    # 1/4 * 3/4 = 3/16, kappa (4 - 3) / (16 - 3).
    kappa = cohen_kappa([1, -1, -1, -1, 1], [1, 0, 1, 1, NAN], resamples=50)
    assert (kappa.value, kappa.count) == (pytest.approx(1 / 13), 4)


def test_alpha_is_what_it_is_by_hand_for_names_and_for_an_order():
    # Names: 2 of 6 values stand in pairs that differ, 1/3; expected 2 * 3 * 3 / (6 * 5) = 3/5.
    named = krippendorff_alpha([[1, 1], [2, 2], [1, 2], [1, NAN]], "nominal", resamples=20)
    assert (named.value, named.count) == (pytest.approx(1 - (1 / 3) / (3 / 5)), 3)
    # Order: 1 three times, 2 twice, 3 once. Squared distances: 1-2 2.5^2, 2-3 1.5^2, 1-3 4^2. Observed
    # 2 * 16 / 6 = 16/3, expected 2 * (6 * 6.25 + 2 * 2.25 + 3 * 16) / 30 = 6.
    ordered = krippendorff_alpha([[1, 1], [2, 2], [1, 3]], "ordinal", resamples=20)
    assert ordered.value == pytest.approx(1 - (16 / 3) / 6)


def test_agreement_does_not_depend_on_the_order_of_raters_or_units():
    table = np.random.default_rng(0).integers(1, 6, (12, 4)).astype(float)
    mixed = table[::-1, [2, 0, 3, 1]]
    assert fleiss_kappa(table, resamples=1).value == pytest.approx(fleiss_kappa(mixed, resamples=1).value)
    one, other = (krippendorff_alpha(t, "ordinal", resamples=1).value for t in (table, mixed))
    assert one == pytest.approx(other)


@pytest.mark.parametrize("table", [[[1, 1], [1, 1]], [[1, NAN], [NAN, 2]], np.zeros((0, 2))])
def test_agreement_is_not_known_where_nothing_varies_or_nobody_rated_the_same(table):
    for value in (fleiss_kappa(table), krippendorff_alpha(table, "nominal"), cohen_kappa(*np.array(table).T)):
        assert math.isnan(value.value)
        assert value.to_dict()["value"] is None


def test_full_agreement_is_one_and_what_is_no_table_is_refused():
    assert fleiss_kappa([[1, 1], [2, 2]], resamples=5).value == 1
    assert krippendorff_alpha([[1, 1], [2, 2]], "ordinal", resamples=5).value == 1
    with pytest.raises(ConfigError, match=r"shape \[units, raters\], got \[2\]"):
        fleiss_kappa([1, 2])
