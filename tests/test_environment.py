"""The environment check tells what is missing, in words."""

from clipnotes.lab import environment


def row(table, what):
    return table.set_index("what").loc[what]


def test_a_whole_environment_is_fine():
    table = environment.environment_check()
    assert set(table.columns) == {"what", "found", "needed", "fine"}
    assert row(table, "Python")["fine"] == "yes"
    assert (table[table["what"].isin(environment.LIBRARIES)]["fine"] == "yes").all()


def test_missing_things_come_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "WEIGHTS", tmp_path)
    monkeypatch.setattr(environment, "LIBRARIES", ["torch", "no-such-library"])
    table = environment.environment_check()
    assert row(table, "weights of pocket-vit")["fine"] == "reinstall clipnotes"
    assert row(table, "no-such-library")["found"] == "missing"
    assert row(table, "no-such-library")["fine"] == "run `make install`"
