"""Words around numbers: one, many, and where there is no spread."""

import math

from clipnotes.lab.display import mean_std, plural, plus_minus


def test_one_and_many():
    assert plural(1, "data set") == "1 data set" and plural(0, "draw") == "0 draws" and plural(6, "data set") == "6 data sets"


def test_a_single_value_has_no_spread_and_no_interval():
    assert mean_std(51.44, 0.55) == "51.4 ± 0.6" and mean_std(51.44, math.nan) == "51.4"
    assert plus_minus(1.25, 0.5, digits=2) == "+1.25 ± 0.50 points"
    assert plus_minus(-1.25, math.nan, of="draw") == "-1.2 points, one draw, no interval"
    assert plus_minus(2, math.nan, "") == "+2.0, one data set, no interval"
