"""YAML, JSON and text files: what is read, and one sentence for what is not."""

import re
import time

import pytest
import yaml

from clipnotes.errors import ClipnotesError, shown
from clipnotes.text_files import read_json, read_text
from clipnotes.yaml_files import NODES, load_yaml, read_yaml


def test_numbers_in_scientific_form_are_numbers_and_dates_are_text():
    assert load_yaml("[1e-3, 1E+2, -2.5e-1, .5e1, e1]") == [0.001, 100.0, -0.25, 5.0, "e1"]
    assert load_yaml("[2024-02-30, 2024-01-01 10:00:00]") == ["2024-02-30", "2024-01-01 10:00:00"]
    assert yaml.safe_load("[1e-3, 2024-01-01]")[0] == "1e-3", "PyYAML's own loader is left as it was"
    assert yaml.safe_load("2024-01-01").year == 2024


@pytest.mark.parametrize("text, value", [
    ("010", 10), ("-08", -8), ("+7", 7), ("0x1F", 31), ("1_000", 1000), ("0o17", "0o17"), ("0b11", "0b11"), ("1:30", "1:30"),
    ("1:30.5", "1:30.5"), ("190:20:30", "190:20:30"), ("1.", 1.0), (".5", 0.5), ("-1.5", -1.5), ("-.inf", float("-inf")),
    ("1__0", "1__0"), ("1.2.3", "1.2.3"),
])  # fmt: skip
def test_numbers_are_decimal_and_no_times(text, value):
    assert load_yaml(text) == value and type(load_yaml(text)) is type(value)
    assert load_yaml(f"[{text}]", texts=True) == [text]


def test_all_is_text_where_text_is_wanted():
    assert load_yaml("{010: yes, 1: null, b: ~, c: , 2024-01-01: 1e3}", texts=True) == {
        "010": "yes", "1": "null", "b": "~", "c": "", "2024-01-01": "1e3"}
    with pytest.raises(ClipnotesError, match="the key 'a' stands twice"):
        load_yaml("{a: 1, a: 2}", texts=True)


def test_aliases_and_merges_work_where_they_are_small():
    assert load_yaml("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: [*x, *x]") == {
        "a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": [{"b": 1, "c": 2}] * 2}


BOMB = "a: &a [x, x, x]\n" + "\n".join(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
                                        for before, name in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize("text, message", [
    ("a: 1\nb: 2\na: 3", "line 3, the key 'a' stands twice"),
    ("x: {1: 2, 1: 3}", "line 1, the key '1' stands twice"),
    ("a: &x {<<: *x}", "stands inside what it names"),
    ("&a [*a]", "stands inside what it names"),
    ("*a", "undefined alias"),
    (BOMB, f"more than {NODES:,} values"),
    ("[" * 5000, "nested more than 40 levels"),
    ("a: " + "{a: " * 100, "nested more than 40 levels"),
    ("!!python/object/apply:os.system ['true']", "tag 'tag:yaml.org,2002:python/object/apply:os.system' is not allowed"),
    ("a: !!timestamp x", "is not allowed"),
    ("a: !mine 1", "tag '!mine' is not allowed"),
    ("? [1]\n: 2", "unhashable key"),
    ("1" * 5000, "Exceeds the limit"),
    ("a: \x01", "special characters"),
    ("a: [", "line 1, while parsing"),
    ("--- 1\n--- 2", "expected a single document"),
])
def test_what_is_no_plain_yaml_is_refused_at_once(text, message):
    began = time.process_time()
    with pytest.raises(ClipnotesError, match=re.escape(message)) as caught:
        load_yaml(text, "Grid x.yaml")
    assert time.process_time() - began < 2
    assert str(caught.value).startswith("Grid x.yaml is no valid YAML") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content, message", [
    ("title: Gärten".encode("latin-1"), "is no UTF-8 text, since byte 9 is 0xe4"),
    ("a: 1".encode("utf-16"), "is text in UTF-16"),
    (b"PK\x03\x04" + bytes(9), "is a zip archive"),
    (b"\x00\x01", "is a binary file"),
    (b" " * 2_000_001, "has more than 2 MB"),
])
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ClipnotesError, match=f"Grid x.yaml in .*{message}"):
        read_yaml(path, "Grid x.yaml")


def test_what_cannot_be_opened_says_why(tmp_path):
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file"), (tmp_path / ("x" * 5000), "too long"),
                         ("a\0b", "null")):
        with pytest.raises(ClipnotesError, match=f"^Notes cannot be read from .*{reason}"):
            read_text(path, "Notes")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfa: 1")
    assert read_yaml(tmp_path / "bom", "Notes") == {"a": 1}


@pytest.mark.parametrize("text, reason", [("{", "line 1: Expecting"), ("[" * 10**5, "nested too deep"), ("1" * 5000, "Exceeds"),
                                          ("", "line 1: Expecting value")])
def test_json_that_is_none(tmp_path, text, reason):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ClipnotesError, match=rf"^run.json in .* is no valid JSON \(.*{reason}.*\): restore it"):
        read_json(tmp_path / "run.json", "run.json")


def test_values_are_quoted_at_a_length_that_can_be_read():
    assert shown([1, "a"]) == "[1, 'a']"
    assert len(shown("x" * 10**6)) < 200 and shown(list(range(10**4))).endswith("9999]")
