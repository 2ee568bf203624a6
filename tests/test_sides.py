"""Claims as differences by data set: what is recorded, drawn and said."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clipnotes.analysis import sides
from clipnotes.exhibits.claims import CLAIMS
from clipnotes.lab.plots import image_grid, seed_dots
from clipnotes.lab.sides import claim_rows, said, show_sides

DIFFERENCES = {"up": pd.Series({"a": 1.0, "b": 2.0}), "mixed": pd.Series({"a": 1.0, "b": -2.0}),
               "down": pd.Series({"a": -1.0, "b": 0.0})}


class Listener:
    """Takes what a notebook's Run takes."""

    def __init__(self):
        self.rows, self.said, self.drawn = [], [], []

    def record(self, **row):
        self.rows.append(row)

    def figure(self, id, figure, **facts):
        self.drawn.append((id, facts))
        plt.close(figure)

    def takeaway(self, text):
        self.said.append(text)


def test_sides_are_recorded_drawn_and_said():
    run = Listener()
    show_sides(run, "fig1_sides", DIFFERENCES, "Fig. 1.", model="m")
    assert len(run.rows) == 6
    assert run.rows[1] == {"metric": "difference", "value": 2.0, "dataset": "b", "of": "up", "model": "m"}
    (id, facts), = run.drawn
    assert id == "fig1_sides" and list(facts["data"]["positive"]) == [2, 1, 0] and "mixed: -0.5, 1 of 2 sets" in facts["alt"]
    assert run.said == ["On the paper's side on all data sets: up (2 of 2); on some data sets: mixed (1 of 2); "
                        "on no data sets: down (0 of 2)."]


def test_what_is_said_leaves_out_empty_groups():
    assert said(sides({"up": DIFFERENCES["up"]})) == "On the paper's side on all data sets: up (2 of 2)."


def test_a_claim_is_a_row_a_data_set_real_clip_first_and_best_first():
    effects = pd.DataFrame({"scale": ["pocket", "pocket", "real CLIP"], "dataset": ["pocket-a", "pocket-b", "DTD"],
                            "value": [-1.0, 3.0, 2.0]})
    sided, size = (next(claim for claim in CLAIMS if claim.sided is each) for each in (True, False))
    _, ax = plt.subplots()
    claim_rows(ax, sided, effects, 5)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["DTD (real CLIP)", "b (pocket)", "a (pocket)"]
    assert [text.get_text() for text in ax.texts] == ["+2.0", "+3.0", "-1.0"] and ax.get_xlim() == (-5, 5) and ax.patches
    _, ax = plt.subplots()
    claim_rows(ax, size, effects.head(1), 5)
    assert not ax.patches
    plt.close("all")


def test_seeds_are_dots_and_their_mean_a_large_one():
    _, ax = plt.subplots()
    seed_dots(ax, [0, 1, 2], [np.array([1.0, 3.0]), np.array([]), np.array([5.0])], "o", "blue", label="mean")
    large = ax.lines[-1]
    assert large.get_label() == "mean" and list(large.get_xdata()) == [0, 2] and list(large.get_ydata()) == [2, 5]
    assert sorted(len(line.get_xdata()) for line in ax.lines[:-1]) == [0, 1, 2]
    plt.close()


def test_room_for_lines_gives_grids_of_several_titles_one_size():
    sizes = {tuple(image_grid([np.zeros((1, 2, 2, 3))], ["row"], [[title]], lines=3).get_size_inches())
             for title in ("one", "one\ntwo", "one\ntwo\nthree")}
    assert len(sizes) == 1


def test_titles_above_pictures_are_wrapped_between_words():
    figure = image_grid([np.zeros((1, 2, 2, 3))], ["row"], [["red hexagon\nis crosshatched"]], wrap=8)
    assert figure.axes[0].get_title(loc="center") == "red\nhexagon\nis\ncrosshatched"
    plt.close(figure)
