"""The one way to check what comes in: what is taken, in which form, and one sentence for all that is not."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import says

from clipnotes.checks import (
    FLAG,
    SEED,
    Number,
    OneOf,
    Several,
    Whole,
    check_all,
    class_labels,
    class_names,
    feature_matrix,
)
from clipnotes.errors import shown

# --- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [
    [0, 2, 1], (0, 2, 1), range(3), np.array([0, 2, 1], np.uint8), np.array([0, 2, 1], ">i4"), np.array([0, 2, 1], np.uint64),
    pd.Series([0, 2, 1]), pd.Series([0, 2, 1], dtype="Int64"), pd.Series([0, 2, 1], index=[7, 8, 9]),
    torch.tensor([0, 2, 1]), torch.tensor([0, 2, 1], dtype=torch.int32), [torch.tensor(0), torch.tensor(2), torch.tensor(1)]])
def test_labels_of_every_kind_become_int64(y):
    expected = [0, 1, 2] if isinstance(y, range) else [0, 2, 1]
    labels = class_labels(y, "y", 3, 3)
    assert labels.dtype == torch.int64 and labels.tolist() == expected


@pytest.mark.parametrize("y, message", [
    ([0.2, 1.7, 1.0], r"^y holds values of type float64; labels must be whole numbers \(integers\).$"),
    (torch.tensor([0.0, 1.0, 2.0]), "^y holds values of type float32"),
    (pd.Series([0, None, 1]), "^y holds values of type float64"),
    (np.array([1j, 0, 0]), "^y holds values of type complex128"),
    ([True, False, True], "^y holds values of type bool; labels must be whole numbers"),
    (torch.tensor([True, False, True]), "^y holds values of type bool"),
    (["cat", "dog", "cat"], r"^y = \['cat', 'dog', 'cat'\] is no array of numbers; give the number of each one's "
     "class, from 0 in the order of the class names.$"),
    (np.array(["cat", "dog", "cat"]), r"^y = ndarray \[3\] of <U3 is no array of numbers; give the number of each one's class"),
    (pd.Series(["1", "2", "0"]), "^y = Series .* is no array of numbers"),
    (np.ma.array([0, 1, 2], mask=[0, 1, 0]), r"^y = MaskedArray \[3\] of int64 has masked values; leave out their rows.$"),
    ([[0], [1, 2], 3], "^y = .* is no array of numbers"),
    ([0, None, 1], "^y = .* is no array of numbers"),
    ("012", "^y = '012' is no array of numbers"),
    (None, "^y = None is no array of numbers"),
    ([10**30, 0, 0], "^y = .* is no array of numbers"),
    ([0, 1], r"^y has shape \[2\], but there are 3 rows of features; give one label each.$"),
    ([[0], [1], [2]], r"^y has shape \[3, 1\], but there are 3 rows"),
    (1, r"^y has shape \[\], but there are 3 rows"),
    ([0, 1, 3], "^Label 3 in y is out of range; labels must be 0 to 2, as there are 3 classes.$"),
    ([0, -1, 2], "^Label -1 in y is out of range; labels must be 0 to 2"),
])
def test_other_labels_are_refused(y, message):
    with says(message):
        class_labels(y, "y", 3, 3)


def test_labels_where_the_number_of_rows_or_classes_is_open():
    assert class_labels([5, 0]).tolist() == [5, 0]
    assert class_labels([], n=0).dtype == torch.int64  # a split without images
    with says(r"^y has shape \[0\]; give labels \[N\], one or more.$"):
        class_labels([])
    with says("^Label 1000000000000000 in y is out of range; labels must be below 1,000,000.$"):
        class_labels([0, 10**15])
    with says("^Label -2 in y is out of range; labels must be 0 or more.$"):
        class_labels([0, -2])


# --- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [
    [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]], pd.DataFrame([[1.0, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.float16),
    np.array([[3, 4], [1, 2]], np.float32)[::-1], torch.tensor([[1, 2], [3, 4]]),
    np.array([[1, 2], [3, 4]], ">f4"), np.array([[1, 2], [3, 4]], ">u2"), np.array([[1, 2], [3, 4]], np.longdouble),
    pd.DataFrame([[1.0, 2], [3, 4]]).convert_dtypes(), pd.DataFrame({"a": [1, 3], "b": np.array([2.0, 4], object)}),
    pd.DataFrame([[1, 2], [3, 4]], index=[7, 3], columns=["a", "b"]), np.ma.array([[1, 2], [3, 4]]),
    [torch.tensor([1.0, 2]), torch.tensor([3.0, 4])]])
def test_features_of_every_kind_become_float32(x):
    assert feature_matrix(x).dtype == torch.float32 and feature_matrix(x).tolist() == [[1, 2], [3, 4]]


def test_features_in_double_stay_so_and_views_stay_apart():
    assert feature_matrix(np.ones((2, 3))).dtype == feature_matrix(torch.ones(2, 3).double()).dtype == torch.float64
    assert feature_matrix(torch.ones(4, 2, 3), width=3).shape == (4, 2, 3)


@pytest.mark.parametrize("x, message", [
    (torch.ones(3), r"^x has shape \[3\], but must be \[N, d\] or, with V views, \[V, N, d\].$"),
    (torch.ones(1, 1, 1, 3), r"^x has shape \[1, 1, 1, 3\]"),
    (torch.ones(0, 3), r"^x has shape \[0, 3\], so no features; give at least one row.$"),
    (torch.tensor([[1.0, math.nan, 0], [0, 1, math.inf], [1, 1, 1]]), "^2 rows of x hold NaN or infinite values"),
    (np.full((2, 3), 1j), "^x holds values of type complex128; features are real numbers.$"),
    (torch.ones(2, 3).bool(), "^x holds values of type bool"),
    ([["a", "b", "c"]], "^x = .* is no array of numbers; give a tensor, an array or lists of numbers.$"),
    (pd.DataFrame({"a": [1, 2], "b": ["3", "4"]}), "^x = DataFrame .* is no array of numbers"),
    (pd.DataFrame([[1, None]]).convert_dtypes(), "^x = DataFrame .* is no array of numbers"),
    (np.ma.array(np.ones((2, 3)), mask=[[0, 0, 0], [0, 1, 0]]), "^x = MaskedArray .* has masked values"),
    (object(), "^x = <object .* is no array of numbers"),
    (torch.ones(2, 4), "^x has features of size d = 4, but d = 3 is needed; both must come from one model.$"),
])
def test_other_features_are_refused(x, message):
    with says(message):
        feature_matrix(x, "x", width=3)


def test_views_are_refused_where_none_belong():
    with says(r"^text has shape \[5, 1, 3\], but must be \[N, d\].$"):
        feature_matrix(torch.ones(5, 1, 3), "text", views=False)


# --- class names ----------------------------------------------------------------------------------------------------


def test_class_names_are_a_list_of_text():
    assert class_names(("cat", "dog")) == class_names(np.array(["cat", "dog"])) == class_names(pd.Series(["cat", "dog"]))
    assert all(type(name) is str for name in class_names(np.array(["cat", "dog"])))


@pytest.mark.parametrize("names, message", [
    ("abc", r"^classnames = 'abc' is no list of names; give one name a class, such as \['cat', 'dog'\].$"),
    (3, "^classnames = 3 is no list of names"), (None, "^classnames = None is no list"), ([], "^classnames is empty"),
    (["cat", " "], r"^classnames\[1\] = ' ' is no class name; give text that is not blank.$"),
    (["cat", 7], r"^classnames\[1\] = 7 is no class name"), ([["cat"]], r"^classnames\[0\] = \['cat'\] is no class name"),
])
def test_other_class_names_are_refused(names, message):
    with says(message):
        class_names(names)


# --- rules ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule, value, expected", [
    (Number(0), np.float32(0.5), 0.5), (Number(0, 1), 1, 1.0), (Whole(1), np.int64(3), 3),
    (Whole(1, optional=True), None, None), (SEED, 0, 0), (OneOf(None, "reference"), None, None),
    (OneOf("ce", "gce"), np.str_("gce"), "gce"), (FLAG, False, False), (Several(Number(0), 2), [1, 2], (1.0, 2.0)),
    (Several(Whole()), np.array([3]), (3,)), (Several(Number()), torch.tensor([0.5]), (0.5,))])
def test_what_fits_a_rule_is_handed_back(rule, value, expected):
    result = rule(value, "s")
    assert result == expected and type(result) is type(expected) or isinstance(value, str)


@pytest.mark.parametrize("rule, value, message", [
    (Whole(1), 1.5, "^s = 1.5 is no whole number; it must be a whole number of 1 or more.$"),
    (Whole(1), 2.0, "^s = 2.0 is no whole number"), (Whole(1), True, "^s = True is no whole number"),
    (Whole(1), 0, "^s = 0 is out of range"), (Whole(1), None, "^s = None is no whole number"),
    (Whole(1, optional=True), 0, "it must be a whole number of 1 or more or None.$"),
    (Number(0), math.nan, "^s = nan is out of range; it must be a number of 0 or more.$"),
    (Number(0), math.inf, "^s = inf is out"),
    (Number(), -math.inf, "it must be a finite number.$"), (Number(0), "fast", "^s = 'fast' is no number"),
    (Number(0, 1), 1.1, "it must be a number from 0 to 1.$"),
    (Number(0, 1, below=True), 1, "it must be a number from 0 to below 1.$"),
    (Number(0, above=True), 0, "it must be a number above 0.$"),
    (Number(0), torch.ones(2), "^s = Tensor \\[2\\] of float32 is no number"),
    (SEED, -1, "^s = -1 is out of range"), (SEED, 2**63, "^s = 9223372036854775808 is out of range"),
    (OneOf("ce", "gce", "mae"), "nll", "^s = 'nll' is unknown; choose 'ce', 'gce' or 'mae'.$"),
    (OneOf(None, "reference"), torch.ones(300), "is unknown; choose None or 'reference'.$"),
    (FLAG, 1, "^s = 1 is unknown; choose True or False.$"),
    (Several(Number(0), 2), (1, 2, 3), r"^s = \(1, 2, 3\) does not fit; give a list of 2 values.$"),
    (Several(Number(0), 2), (1, -2), r"^s\[1\] = -2 is out of range"),
    (Several(Whole()), [], "give a list of one or more values.$"),
])
def test_what_does_not_fit_a_rule_is_refused(rule, value, message):
    with says(message):
        rule(value, "s")


def test_a_table_of_rules_checks_the_attributes_of_an_object():
    settings = SimpleNamespace(lr=0.1, epochs=0)
    with says("^epochs = 0 is out of range"):
        check_all({"lr": Number(0), "epochs": Whole(1)}, settings)


def test_values_are_shown_short_and_on_one_line():
    assert len(shown(list(range(1000)))) <= 200 and shown("a" * 500).endswith("'")
    assert shown(torch.ones(30, 2)) == "Tensor [30, 2] of float32" and shown(pd.DataFrame([[1, 2]])) == "DataFrame [1, 2]"
    assert shown(np.float64(0.5)) == shown(torch.tensor(0.5)) == "0.5"
