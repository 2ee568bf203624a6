"""The exhibits of both papers as tables: which numbers of which notebook stand in which row and column."""

from dataclasses import dataclass, field

from clipnotes.errors import ClipnotesError


@dataclass(frozen=True)
class Layout:
    """One exhibit: what it needs of the records and how they are laid out.

    grid: the file of notebooks/grids that fills it. methods: (method, loss) as recorded, in the exhibit's order. across: the
    column of the records whose values head the columns of the table. drivers: {column: the notebook's parameter, or parameters,
    that its values come from}. rows: the columns that name a row. several: the column of which a data set (or a source of
    shifted ones) and model must have more than one value, else their rows belong to another exhibit. only, without: {column:
    values} that records must have, None for an empty one, or must not. off: the parameters that switch everything else of the
    notebook off. paper: (paper, item, filters) as `papers.known_numbers` takes them. names: {a method's name in the records or
    in the paper's numbers: the one in the table}.
    """

    title: str
    notebook: str
    grid: str
    methods: tuple
    across: str
    drivers: dict
    rows: tuple = ("dataset", "method", "loss")
    metric: str = "accuracy"
    several: str = "method"
    only: dict = field(default_factory=dict)
    without: dict = field(default_factory=dict)
    off: dict = field(default_factory=dict)
    paper: tuple = ()
    names: dict = field(default_factory=dict)

    def parameters(self, column: str) -> list[str]:
        """The columns of a gathered table with the parameters that a column's values come from."""
        names = self.drivers.get(column, column.removeprefix("p_"))
        return [f"p_{name}" for name in ((names,) if isinstance(names, str) else names)]


_CURVES = {"noise_rate": "noise_rates", "seed": "seeds"}
_PROMPT, _PROBE = "Prompt Tuning", "Linear Probe"
_RERUN = {"backbone": "RN50", "context": "shared"}
_CACHES = (("zero-shot", ""), ("Tip-Adapter", ""), ("Tip-X", ""), ("APE", ""))

LAYOUTS = {
    "ptnl:fig1": Layout(
        "Paper B, Fig. 1: test accuracy (%) by share of wrong labels", "07_noisy_labels", "ptnl_fig1",
        ((_PROMPT, "ce"), (_PROMPT, "gce"), (_PROBE, "ce"), ("Image Finetuning", "ce")), "noise_rate",
        {"dataset": "closely", **_CURVES, "model": "models"}, off={"four": [], "datasets": []},
        paper=(("ptnl", "OxfordPets curve", {}), ("ptnl", "PTNL row", {"dataset": "DTD", "metric": "accuracy"}),
               ("ptnl", "independent grid", {"dataset": "DTD", **_RERUN}),
               ("ptnl", "independent grid", {"dataset": "UCF101", **_RERUN}))),
    "ptnl:fig2": Layout(
        "Paper B, Fig. 2: test accuracy (%) by share of wrong labels, with CE and with GCE", "07_noisy_labels", "ptnl_fig1",
        ((_PROMPT, "ce"), (_PROMPT, "gce"), (_PROBE, "ce"), (_PROBE, "gce")), "noise_rate",
        {"dataset": ("four", "closely"), **_CURVES, "model": "models"},
        off={"closely": [], "datasets": [], "finetuning_seeds": []},
        paper=(("ptnl", "OxfordPets curve", {}), ("ptnl", "independent grid", {"dataset": "OxfordPets", **_RERUN}),
               ("ptnl", "independent grid", {"dataset": "DTD", **_RERUN}),
               ("ptnl", "independent grid", {"dataset": "UCF101", **_RERUN}))),
    "ptnl:table1": Layout(
        "Paper B, Table 1: test accuracy (%) with and without a frozen text encoder", "08_why_prompts_resist",
        "ptnl_tables_1_2", (("Classifier-R", "ce"), ("Classifier-C", "ce"), ("TEnc-FT", "ce"), (_PROMPT, "ce")), "noise_rate",
        {"dataset": "datasets", **_CURVES, "model": "model"}, off={"context_lengths": []},
        paper=(("ptnl", "PTNL row", {"dataset": "DTD", "metric": "accuracy"}), ("ptnl", "OxfordPets curve", {})),
        names={"CLIP Linear Probe": "Classifier-R"}),
    "ptnl:table2": Layout(
        "Paper B, Table 2: test accuracy (%) with fixed and with learnt class names", "08_why_prompts_resist",
        "ptnl_tables_1_2", (("Full Prompt Tuning", "ce"), ("CLS Tuning", "ce"), (_PROMPT, "ce")), "noise_rate",
        {"dataset": "datasets", **_CURVES, "model": "model"}, off={"context_lengths": []},
        paper=(("ptnl", "PTNL row", {"dataset": "DTD", "metric": "accuracy"}),
               ("ptnl", "OxfordPets curve", {"method": "CLIP Prompt Tuning"}))),
    "ptnl:own_rates": Layout(
        "Beside paper B, Tables 1 and 2: test accuracy (%) with the learning rate that is each method's own best",
        "08_why_prompts_resist", "ptnl_tables_1_2",
        tuple((method, "ce") for method in ("Classifier-R", "Classifier-C", "TEnc-FT", "Full Prompt Tuning", "CLS Tuning",
                                            _PROMPT)),
        "noise_rate", {"dataset": "datasets", **_CURVES, "model": "model"}, metric="accuracy_own_rate",
        off={"context_lengths": []}),
    "ptnl:table3": Layout(
        "Paper B, Table 3: test accuracy (%) of prompt tuning with two backbones", "07_noisy_labels", "ptnl_table3",
        ((_PROMPT, "ce"),), "noise_rate", {"dataset": "datasets", **_CURVES, "model": "models"},
        several="", off={"closely": [], "four": [], "finetuning_seeds": []},
        paper=(("ptnl", "PTNL row", {"metric": "accuracy"}),
               *(("ptnl", "independent grid", {"backbone": backbone, "context": "shared", "loss": "CE"})
                 for backbone in ("RN50", "ViT-B/32")))),
    "ptnl:table4": Layout(
        "Paper B, Table 4: test accuracy (%) with random and with confusion noise", "10_confusion", "ptnl_table4",
        ((_PROBE, "ce"), (_PROMPT, "ce")), "noise_kind",
        {"dataset": "datasets", "seed": "seeds", "model": "model"}, rows=("dataset", "method", "loss", "noise_rate"),
        only={"noise_kind": ("uniform", "confusion")}, without={"noise_rate": (0,)}, off={"closely": [], "draws": 2}),
    "ptnl:table5": Layout(
        "Paper B, Table 5: test accuracy (%) without labels, ensembles", "11_without_labels", "ptnl_table5",
        (("zero-shot CLIP", ""), ("UPL", "ce"), ("Robust UPL (CE)", "ce"), ("Robust UPL (GCE)", "gce")), "method",
        {"dataset": "datasets", "model": "model"}, rows=("dataset",), only={"seed": (None,)},
        paper=(("ptnl", "UPL table as quoted", {}),), names={"UPL (16-prompt ensemble)": "UPL"}),
    "ptnl:fig4": Layout(
        "Paper B, Fig. 4: noisy over clean gradient norm by training epoch", "09_noisy_gradients", "ptnl_fig4",
        ((_PROMPT, "ce"), (_PROBE, "ce")), "epoch",
        {"dataset": "datasets", "seed": "seeds", "model": "model"}, metric="gradient_ratio"),
    "ptnl:fig5": Layout(
        "Paper B, Fig. 5: test accuracy (%) by length of the context", "08_why_prompts_resist", "ptnl_tables_1_2",
        (*((f"Ctx-{n}", "ce") for n in range(16)), (_PROMPT, "ce"), *((f"Ctx-{n}", "ce") for n in range(17, 65)),
         ("Classifier-R", "ce")), "noise_rate",
        {"dataset": "datasets", **_CURVES, "model": "model", "method": "context_lengths"},
        names={_PROMPT: "Ctx-16"}),
    "imo:main": Layout(
        "Paper A, main results: test accuracy (%) of cache models by shots", "04_cache_models", "imo_main", _CACHES, "shots",
        {"dataset": "datasets", "shots": "shots", "seed": "seeds", "features": "corrections", "model": "model"},
        rows=("dataset", "method", "features"),
        paper=(("imo", "mean of 11 data sets", {}), ("imo", "exp.log", {}), ("imo", "EuroSAT rows", {}))),
    "imo:shift": Layout(
        "Paper A, distribution shift: test accuracy (%) of a cache on other sets with its classes",
        "05_does_overlap_explain_accuracy", "imo_shift", (("Tip-Adapter", ""),), "dataset",
        {"dataset": "shifted", "seed": "seeds", "features": "corrections", "model": "model"}, rows=("method", "features"),
        metric="shift_accuracy", several="dataset"),
    "imo:gain": Layout(
        "Paper A: test accuracy (%) by features, to be compared with their overlap", "05_does_overlap_explain_accuracy",
        "imo_overlap", (("Tip-Adapter", ""), ("nearest class mean", "")), "features",
        {"dataset": "datasets", "shots": "shots", "seed": "seeds", "features": "corrections", "model": "model",
         "p_source": "source"},
        rows=("dataset", "method", "shots"), off={"shifted": []}),
    "imo:overlap": Layout(
        "Paper A: overlap area of the test features", "05_does_overlap_explain_accuracy", "imo_overlap",
        (("CLIP image features", ""),), "features",
        {"dataset": "datasets", "features": "corrections", "model": "model", "p_source": "source"},
        rows=("dataset", "method"), metric="overlap", several="", off={"shifted": []},
        paper=(("measured", "overlap area", {}),)),
    "meet:noise": Layout(
        "Where the papers meet: test accuracy (%) of caches and of trained methods by share of wrong labels",
        "15_where_they_meet", "where_they_meet",
        tuple((method, "") for method in ("class means", "soft means, rho estimated", "cache without text",
                                          "cache without text, soft labels", "linear probe", "linear probe, GCE",
                                          "prompt tuning", "prompt tuning, GCE")),
        "noise_rate", {"dataset": "datasets", **_CURVES, "features": "correction", "model": "model"},
        rows=("dataset", "method", "features"), only={"noise_kind": ("uniform",)}),
    "pretraining:noise": Layout(
        "Pre-training on web or tidy captions: test accuracy (%) by share of wrong labels", "14_what_pretraining_does",
        "pretraining", ((_PROMPT, "ce"), (_PROMPT, "gce"), ("CLS Tuning", "ce"), ("Full Prompt Tuning", "ce"),
                        ("TEnc-FT", "ce"), ("Classifier-C", "ce"), ("Classifier-R", "ce"), ("Classifier-R", "gce")),
        "noise_rate", {"dataset": "datasets", **_CURVES, "model": "model"}, rows=("dataset", "captions", "method", "loss")),
}


def layout(like: str) -> Layout:
    """The layout of an exhibit such as "ptnl:table1"; ClipnotesError lists what there is."""
    if like not in LAYOUTS:
        raise ClipnotesError(f"There is no exhibit {like!r}; known are: {', '.join(LAYOUTS)}.")
    return LAYOUTS[like]
