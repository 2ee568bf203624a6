"""The tables of real CLIP features: made from any folder of banks, broken off and resumed, and those that ship."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from clipnotes.analysis.cache_gains import CACHE_MODELS
from clipnotes.analysis.corrected import StoredSets, corrected_banks
from clipnotes.analysis.overlap import overlap
from clipnotes.analysis.transfer import nearest_mean_accuracy
from clipnotes.cli.main import main
from clipnotes.data import FeatureBank
from clipnotes.errors import ClipnotesError
from clipnotes.exhibits import real_clip
from clipnotes.exhibits.real_clip_tables import TABLES, Settings, make

SMALL = Settings(corrections=("whitening",), shots=(1, 4), draws=(1, 2), axes=(2, 8), noise_rates=(0.0, 0.5),
                 noise_seeds=(1, 2), epochs=2, resamples=20)
CLASSES, WIDTH = 3, 8


def features(rows, seed):
    """Unit rows around a mean of their own for every class, on a common direction as CLIP's are: (x, y)."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % CLASSES
    x = 3 + 2 * np.eye(CLASSES, WIDTH)[y] + random.normal(size=(rows, WIDTH))
    return torch.tensor(x / np.linalg.norm(x, axis=1, keepdims=True)), torch.tensor(y)


def save_generic(folder, seed):
    x, y = features(60, seed)
    FeatureBank.from_arrays("generic", {"train_x": x, "train_y": y}).save(folder / "generic.npz")


@pytest.fixture
def folder(tmp_path):
    """A data set with texts, one without, and generic images without a test split."""
    given = {}
    for seed, split in enumerate(("train", "val", "test")):
        given[f"{split}_x"], given[f"{split}_y"] = features(12, seed)
    plain = {key: value for key, value in given.items() if not key.startswith("val")}
    text = torch.nn.functional.normalize(3 + 2 * torch.eye(CLASSES, WIDTH), dim=1)
    FeatureBank.from_arrays("named", given | {"text": text, "classnames": ["a", "b", "c"]}).save(tmp_path / "named.npz")
    FeatureBank.from_arrays("plain", plain).save(tmp_path / "plain.safetensors")
    save_generic(tmp_path, 9)
    return tmp_path


def test_tables_are_those_of_the_functions_that_notebooks_call(folder, tmp_path):
    paths = make(folder, tmp_path / "out", SMALL, report=lambda line: None)
    assert [path.stem for path in paths] == list(TABLES)
    tables = {path.stem: pd.read_csv(path) for path in paths}
    bank = corrected_banks(StoredSets(folder, ["generic"]), ["named"], ["whitening"])["named"]
    for kind in ("original", "whitening"):
        found = overlap(bank[kind].test.unit(), bank[kind].test.y)
        of = {name: table.query(f"dataset == 'named' and features == '{kind}'") for name, table in tables.items()
              if "features" in table}
        assert of["overlap"]["area"].item() == pytest.approx(found.area, rel=1e-5)
        counts = of["histograms"]
        assert counts["paired"].sum() == 3 * 6 and counts["unpaired"].sum() == 66 - 18  # 12 rows, 4 a class, every pair once
        np.testing.assert_allclose(counts["paired"] / counts["paired"].sum(), found.paired[counts["bin"]])
        row = of["accuracy"].query("method == 'nearest class mean' and shots == 1 and seed == 2")
        assert row["accuracy"].item() == pytest.approx(nearest_mean_accuracy(bank[kind].few_shot(1, 2)), abs=1e-5)
    accuracy, gains = tables["accuracy"], tables["gains"]
    assert set(accuracy.query("dataset == 'named'")["method"]) == {"nearest class mean", *CACHE_MODELS, "zero-shot"}
    assert set(accuracy.query("dataset == 'plain'")["method"]) == {"nearest class mean"}
    assert set(accuracy.query("shots == 4")["seed"]) == {1}  # all images there are: another draw would be the same
    area = tables["overlap"].set_index(["dataset", "features"])["area"]
    assert gains.query("dataset == 'plain'")["overlap_reduction"].iloc[0] == pytest.approx(
        area["plain", "original"] - area["plain", "whitening"], abs=1e-5)
    assert len(tables["probe"]) == 2 * 2 * 2 * 2 and len(tables["pca"]) == 2 * 2 * 3
    assert tables["pca"].query("axes == 8")["variance_kept"].tolist() == pytest.approx([1.0] * 6)


def test_a_broken_off_run_goes_on_and_other_features_start_anew(folder, tmp_path):
    out, lines = tmp_path / "out", []
    (folder / "named.npz").unlink()  # the cache models take long
    make(folder, out, SMALL, report=lines.append)
    before = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    (out / "variance.csv").unlink()
    (out / "overlap.csv").write_text("kept as it is")
    lines.clear()
    make(folder, out, SMALL, report=lines.append)
    assert (out / "overlap.csv").read_text() == "kept as it is"
    assert (out / "variance.csv").read_bytes() == before["variance.csv"]
    assert sum("kept" in line for line in lines) == len(TABLES) - 1
    save_generic(folder, 10)
    make(folder, out, SMALL, report=lines.append)
    assert pd.read_csv(out / "overlap.csv").columns[0] == "dataset"
    assert (out / "variance.csv").read_bytes() != before["variance.csv"]


def test_a_folder_without_generic_images_is_refused(folder, tmp_path, capsys):
    (folder / "generic.npz").unlink()
    with pytest.raises(SystemExit):
        main(["real-clip", "--features-dir", str(folder), "--out", str(tmp_path / "out")])
    assert "holds 2 feature files with test images and 0 without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reading_what_ships():
    for name in TABLES:
        assert len(real_clip.read(name))
    with pytest.raises(ClipnotesError, match="Table 'overlaps' of real CLIP is unknown; there are: accuracy, gains"):
        real_clip.read("overlaps")
    with pytest.raises(ClipnotesError, match="'original' features of 'imagenet' are not among the tables"):
        real_clip.overlap_of("imagenet")
    for _, row in real_clip.read("overlap").iterrows():
        found = real_clip.overlap_of(row["dataset"], row["features"])
        assert np.minimum(found.paired, found.unpaired).sum() == pytest.approx(row["area"], abs=1e-5)
        assert found.interval[0] < found.area < found.interval[1]


def test_shipped_numbers_against_a_fresh_computation(shared):
    folder = shared / "data" / "clip_vitb32"
    generic = [path.stem for path in folder.glob("*.npz") if "test" not in FeatureBank.load(path).splits]
    few = "dataset == 'dtd' and method == 'nearest class mean' and shots == 4 and seed == 2"
    shipped_accuracy = real_clip.read("accuracy").query(few).set_index("features")["accuracy"]
    for kind, bank in corrected_banks(StoredSets(folder, generic), ["dtd"], ["whitening"])["dtd"].items():
        fresh, shipped = overlap(bank.test.unit(), bank.test.y, draws=2), real_clip.overlap_of("dtd", kind)
        assert shipped.area == pytest.approx(fresh.area, abs=2e-3)
        np.testing.assert_allclose(shipped.paired, fresh.paired, atol=2e-3)
        assert shipped_accuracy[kind] == pytest.approx(nearest_mean_accuracy(bank.few_shot(4, 2)), abs=5e-3)


def test_shipped_files_say_from_which_features_they_are():
    folder = real_clip.manifests_dir() / "papers" / "real_clip"
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    assert Settings(**{key: tuple(v) if isinstance(v, list) else v for key, v in made["settings"].items()}) == Settings()
    assert {"caltech101.npz", "oxford_pets.npz", "dtd.npz", "stanford_cars.npz"} < set(made["features"])
    assert all(f"`{name}.csv`" in (folder / "README.md").read_text(encoding="utf-8") for name in TABLES)
