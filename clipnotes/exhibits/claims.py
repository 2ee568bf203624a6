"""Every claim of both papers as one number a data set, positive on the side that the paper claims.

Computed from a gathered table of pocket runs and, where real CLIP was measured or rerun, from the numbers that ship under
data_manifests/papers. The papers' sentences are in our own words; section numbers of claims follow the order of the papers.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipnotes.analysis.statistics import mean_ci
from clipnotes.errors import ClipnotesError
from clipnotes.exhibits import real_clip
from clipnotes.exhibits.papers import known_numbers
from clipnotes.exhibits.tables import measured

PROMPT, PROBE = "Prompt Tuning", "Linear Probe"
RERUN = "independent reruns of CoOp's recipe"
OWN = "this study's code on public ViT-B/32 features"


@dataclass(frozen=True)
class Claim:
    """id: A or B and a number. effect: what is measured, positive where the paper is right. said: the paper's own size of it,
    where known. see: notebook and figure. pocket, real: table or nothing -> Series of effects by data set, or None."""

    id: str
    statement: str
    effect: str
    said: str
    see: str
    pocket: Callable[[pd.DataFrame], pd.Series | None]
    real: Callable[[], pd.Series | None] = lambda: None
    source: str = ""
    sided: bool = True  # whether 0 is what separates right from wrong


# --- where numbers come from --------------------------------------------------------------------------------------


def pocket_means(table: pd.DataFrame, like: str, model: str = "pocket-vit", **cell: object) -> pd.Series | None:
    """Means over seeds by data set of an exhibit's records with these values; None where there are none."""
    try:
        rows, _ = measured(table, like)
    except ClipnotesError:
        return None
    for column, value in {"model": model, **cell}.items():
        rows = rows[rows[column] == value]
    return rows.groupby("dataset")["value"].mean() if len(rows) else None


def accuracy(table: pd.DataFrame, like: str, method: str, loss: str = "ce", rate: float | None = None,
             **cell: object) -> pd.Series | None:
    """Accuracy in % by data set of an exhibit of paper B."""
    rated = {} if rate is None else {"noise_rate": rate}
    return percent(pocket_means(table, like, method=method, loss=loss, **rated, **cell))


def percent(shares: pd.Series | None) -> pd.Series | None:
    return None if shares is None else 100 * shares


def difference(a: pd.Series | None, b: pd.Series | None) -> pd.Series | None:
    """a - b over the data sets that both have; None where either is missing."""
    return None if a is None or b is None else (a - b).dropna()


def loss_of(curve: Callable[[float], pd.Series | None]) -> pd.Series | None:
    """Points lost from 0 to 50 % wrong labels."""
    return difference(curve(0.0), curve(0.5))


def grid(loss: str = "CE", rate: float = 0.5, context: str = "shared", backbone: str = "ViT-B/32") -> pd.Series:
    """Accuracy (%) by data set of prompt tuning in the independent grid on real CLIP."""
    rows = known_numbers("ptnl", "independent grid", loss=loss, context=context, backbone=backbone)
    rows = rows[rows["noise_rate"].astype(float) == 100 * rate]
    return rows.assign(value=rows["value"].astype(float)).groupby("dataset")["value"].mean()


REAL_NAMES = {"dtd": "DTD", "caltech101": "Caltech101", "oxford_pets": "OxfordPets", "stanford_cars": "StanfordCars"}


def real_probe(loss: str = "ce", rate: float = 0.5) -> pd.Series:
    """Accuracy (%) by data set of the linear probe on real features."""
    rows = real_clip.read("probe")
    rows = rows[(rows["loss"] == loss) & np.isclose(rows["noise_rate"], rate)]
    return 100 * rows.groupby("dataset")["accuracy"].mean().rename(index=REAL_NAMES)


def real_gains(method: str) -> pd.Series:
    """Points gained by half-whitened features with 16 shots, by data set."""
    rows = real_clip.read("accuracy")
    rows = rows[(rows["method"] == method) & (rows["shots"] == 16)]
    means = 100 * rows.groupby(["features", "dataset"])["accuracy"].mean()
    return (means["whitening"] - means["original"]).rename(index=REAL_NAMES)


def areas(features: str, table: pd.DataFrame | None = None) -> pd.Series | None:
    """Overlap areas, % of a histogram, by data set: of the pocket runs, or without a table of real CLIP."""
    if table is not None:
        return percent(pocket_means(table, "imo:overlap", features=features))
    rows = real_clip.read("overlap")
    return 100 * rows[rows["features"] == features].set_index("dataset")["area"].rename(index=REAL_NAMES)


def cache_gain(table: pd.DataFrame, method: str) -> pd.Series | None:
    """Points that supervised adapters give a cache model, mean over shots and draws."""
    return percent(difference(*(pocket_means(table, "imo:main", method=method, features=kind)
                                for kind in ("supervised adapters", "original"))))


def gain_with_overlap(table: pd.DataFrame) -> pd.Series | None:
    """Points of Tip-Adapter by data set: gained where the overlap fell, lost where it rose; both count as positive."""
    change = difference(areas("supervised adapters", table), areas("original", table))
    gain = difference(*(pocket_means(table, "imo:gain", method="Tip-Adapter", features=kind)
                        for kind in ("supervised adapters", "original")))
    return None if change is None or gain is None else (-np.sign(change) * 100 * gain).dropna()


def real_gain_with_overlap() -> pd.Series:
    change = areas("whitening") - areas("original")
    return (-np.sign(change) * real_gains("nearest class mean")).dropna()


def shift_gain(table: pd.DataFrame) -> pd.Series | None:
    return percent(difference(*(pocket_means(table, "imo:shift", features=kind)
                                for kind in ("supervised adapters", "original"))))


def ratio_below(table: pd.DataFrame) -> pd.Series | None:
    """By how many % the prompts' gradient ratio lies below the probe's; geometric means over epochs and seeds."""
    logs = []
    for method in (PROBE, PROMPT):
        try:
            rows = measured(table, "ptnl:fig4")[0]
        except ClipnotesError:
            return None
        logs.append(np.log2(rows[rows["method"] == method].set_index("dataset")["value"]).groupby("dataset").mean())
    return 100 * (1 - 2 ** -difference(*logs))


def without_labels(table: pd.DataFrame, method: str, other: str) -> pd.Series | None:
    def of(name):
        found = pocket_means(table, "ptnl:table5", method=name)
        return None if found is None else 100 * found
    return difference(of(method), of(other))


def shortest_above_probe(table: pd.DataFrame) -> pd.Series | None:
    """Accuracy of the worst context length minus the probe's, at 50 % wrong labels."""
    try:
        rows = measured(table, "ptnl:fig5")[0]
    except ClipnotesError:
        return None
    rows = rows[(rows["noise_rate"] == 0.5) & (rows["model"] == "pocket-vit")]
    means = 100 * rows.groupby(["method", "dataset"])["value"].mean().unstack("dataset")
    return means.drop("Classifier-R").min() - means.loc["Classifier-R"]


# --- the claims ---------------------------------------------------------------------------------------------------

CLAIMS = (
    Claim("A1", "Similarities of same-class and of different-class images overlap strongly.",
          "overlap area, % of a histogram", "shown as a histogram, no number known", "02, Fig. 4",
          lambda t: areas("original", t), lambda: areas("original"), OWN, sided=False),
    Claim("A2", "A light adapter trained on generic images lowers the overlap.",
          "overlap area removed, % of a histogram", "shown as a histogram, no number known", "03, Fig. 4",
          lambda t: difference(areas("original", t), areas("supervised adapters", t)),
          lambda: areas("original") - areas("whitening"), f"{OWN}; whitening in place of adapters"),
    *(Claim(f"A3{letter}", f"With corrected features {method} gets better ({method}++).", "points gained",
            "every method examined improves", "04, Fig. 5", lambda t, m=method: cache_gain(t, m),
            lambda m=method: real_gains(m), f"{OWN}; whitening in place of adapters")
      for letter, method in zip("abc", ("Tip-Adapter", "Tip-X", "APE"), strict=True)),
    Claim("A4", "The more the overlap falls, the more accuracy is gained.", "points gained on the side of less overlap",
          "positive correlation, no number known", "05, Fig. 1", gain_with_overlap, real_gain_with_overlap,
          f"{OWN}; whitening, nearest class mean"),
    Claim("A5", "Corrected features bear a shift of the data better.", "points gained on shifted sets",
          "better on shifted sets, no number known", "05, Fig. 3", shift_gain),
    Claim("B1a", "Prompt tuning loses less to wrong labels than a linear probe.", "points less lost, 0 to 50 % wrong",
          "Oxford Pets: the probe loses 41, prompts 11", "07, Fig. 4",
          lambda t: difference(loss_of(lambda r: accuracy(t, "ptnl:fig2", PROBE, rate=r)),
                               loss_of(lambda r: accuracy(t, "ptnl:fig2", PROMPT, rate=r))),
          lambda: difference(loss_of(lambda r: real_probe(rate=r)), loss_of(lambda r: grid(rate=r))),
          f"prompts: {RERUN}; probe: {OWN}"),
    Claim("B1b", "Prompt tuning loses less than fine-tuning an image network.", "points less lost, 0 to 50 % wrong",
          "Oxford Pets: fine-tuning loses 26, prompts 11", "07, Fig. 3",
          lambda t: difference(loss_of(lambda r: accuracy(t, "ptnl:fig1", "Image Finetuning", rate=r)),
                               loss_of(lambda r: accuracy(t, "ptnl:fig1", PROMPT, rate=r)))),
    Claim("B2a", "GCE makes prompt tuning more robust still.", "points of GCE over CE at 50 % wrong",
          "shown as curves", "07, Fig. 4",
          lambda t: difference(accuracy(t, "ptnl:fig2", PROMPT, "gce", 0.5), accuracy(t, "ptnl:fig2", PROMPT, "ce", 0.5)),
          lambda: difference(grid("GCE"), grid("CE")), RERUN),
    Claim("B2b", "With GCE, too, a probe drops clearly more than prompts.", "points less lost, 0 to 50 % wrong",
          "shown as curves", "07, Fig. 4",
          lambda t: difference(loss_of(lambda r: accuracy(t, "ptnl:fig2", PROBE, "gce", r)),
                               loss_of(lambda r: accuracy(t, "ptnl:fig2", PROMPT, "gce", r))),
          lambda: difference(loss_of(lambda r: real_probe("gce", r)), loss_of(lambda r: grid("GCE", r))),
          f"prompts: {RERUN}; probe: {OWN}"),
    *(Claim(f"B3{letter}", f"Fixed class names protect: {method} falls far below prompt tuning.", "points at 50 % wrong",
            "collapses at high noise", "08, Fig. 2",
            lambda t, m=method: difference(accuracy(t, "ptnl:table2", PROMPT, rate=0.5),
                                           accuracy(t, "ptnl:table2", m, rate=0.5)),
            real, source)
      for letter, method, real, source in (
          ("a", "CLS Tuning", lambda: difference(grid(), grid(context="CSC")),
           f"{RERUN}; class-specific contexts as the near kin of learnt names"),
          ("b", "Full Prompt Tuning", lambda: None, ""))),
    *(Claim(f"B4{letter}", statement, "points at 50 % wrong", f"{best} at all rates", "08, Fig. 3",
            lambda t, a=a, b=b: difference(accuracy(t, "ptnl:table1", a, rate=0.5), accuracy(t, "ptnl:table1", b, rate=0.5)))
      for letter, statement, best, a, b in (
          ("a", "The text encoder is needed: prompts stand above a text-initialised classifier.", "prompt tuning best",
           PROMPT, "Classifier-C"),
          ("b", "Text as a start helps: Classifier-C stands above Classifier-R.", "Classifier-C above Classifier-R",
           "Classifier-C", "Classifier-R"),
          ("c", "The text encoder must be frozen: prompts stand above TEnc-FT.", "prompt tuning best", PROMPT, "TEnc-FT"))),
    Claim("B5", "Wrong labels pull less on prompts: lower ratio of noisy to clean gradients.",
          "% by which the prompts' ratio is lower", "clearly lower on four sets", "09, Fig. 2", ratio_below),
    Claim("B6", "Every context length beats the probe.", "points of the worst length at 50 % wrong", "on four sets",
          "08, Fig. 5", shortest_above_probe),
    *(Claim(f"B7{letter}", f"{name} does not drop sharply.", "points lost, 0 to 50 % wrong", "neither backbone drops sharply",
            "07, Fig. 5", lambda t, m=model: loss_of(lambda r: accuracy(t, "ptnl:table3", PROMPT, rate=r, model=m)),
            lambda b=backbone: loss_of(lambda r: grid(rate=r, backbone=b)), RERUN, sided=False)
      for letter, name, model, backbone in (("a", "The ResNet", "pocket-rn", "RN50"),
                                            ("b", "The vision transformer", "pocket-vit", "ViT-B/32"))),
    *(Claim(f"B8{letter}", f"Noise along CLIP's own confusions is harder for {word}.", "points harder than uniform at 50 %",
            "harder for both methods", "10, Fig. 7",
            lambda t, m=method: difference(accuracy(t, "ptnl:table4", m, noise_kind="uniform"),
                                           accuracy(t, "ptnl:table4", m, noise_kind="confusion")))
      for letter, word, method in (("a", "prompts", PROMPT), ("b", "the probe", PROBE))),
    Claim("B9a", "Without labels: robust UPL (GCE) stands above UPL.", "points", "on average", "11, Fig. 4",
          lambda t: without_labels(t, "Robust UPL (GCE)", "UPL")),
    Claim("B9b", "Without labels: robust UPL (GCE) stands above zero-shot CLIP.", "points", "all three improve", "11, Fig. 4",
          lambda t: without_labels(t, "Robust UPL (GCE)", "zero-shot CLIP")),
)


def effects(table: pd.DataFrame, claims: tuple = CLAIMS) -> pd.DataFrame:
    """Every claim's effects as tidy rows: claim, scale ("pocket" or "real CLIP"), dataset, value."""
    rows = []
    for claim in claims:
        for scale, found in (("pocket", claim.pocket(table)), ("real CLIP", claim.real())):
            rows += [{"claim": claim.id, "scale": scale, "dataset": name, "value": value}
                     for name, value in ({} if found is None else found.dropna()).items()]
    return pd.DataFrame(rows, columns=["claim", "scale", "dataset", "value"])


def results(effects: pd.DataFrame, claims: tuple = CLAIMS) -> pd.DataFrame:
    """One row a claim in words: what the paper says, and for either scale "mean ± half interval, n of m on its side"."""
    rows = []
    for claim in claims:
        row = {"claim": claim.id, "statement": claim.statement, "effect": claim.effect, "paper": claim.said}
        for scale in ("real CLIP", "pocket"):
            values = effects[(effects["claim"] == claim.id) & (effects["scale"] == scale)]["value"]
            row[scale] = in_words(values, claim.sided)
        rows.append(row | {"real source": claim.source if row["real CLIP"] else "", "see": claim.see})
    return pd.DataFrame(rows)


def in_words(values: pd.Series, sided: bool = True) -> str:
    """"+21.3 ± 4.0, 4 of 4": mean, 95 % Student-t interval over data sets, how many are positive; "" for no value."""
    if not len(values):
        return ""
    mean, half = mean_ci(values)
    text = f"{mean:+.1f}" if sided else f"{mean:.1f}"
    text += f" ± {half:.1f}" if np.isfinite(half) else ""
    return text + (f", {(values > 0).sum()} of {len(values)}" if sided else f", {len(values)} sets")
