"""The model card repeats the training records and the table it is given."""

import json

import pandas as pd

from clipnotes.exhibits import model_card as card
from clipnotes.pocket import model


def test_card_says_what_the_records_say(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    record = {"recipe": {"model": "pocket-vit", "steps": 7, "batch": 3}, "pairs": 21, "minutes": 12.3, "machine": "an abacus",
              "torch": "9.9", "logit_scale": [1.5, 2.5], "loss": [[7, 1.25]]}
    (tmp_path / "pocket-vit.json").write_text(json.dumps(record))
    (tmp_path / "pocket-vit.safetensors").write_bytes(bytes(2_500_000))
    table = pd.DataFrame({"zero-shot": [61.5]}, index=pd.Index(["digits"], name="data set"))
    (tmp_path / "pocket-vit-classifier.json").write_text(json.dumps(record))
    (tmp_path / "pocket-vit-classifier.safetensors").write_bytes(b"weights")
    card.write_card(tmp_path / "README.md", {"pocket-vit": table})
    text = (tmp_path / "README.md").read_text()
    assert "steps 7, batch 3" in text and "21 pairs in 12 minutes" in text and "2.5 MB" in text
    assert "machine: an abacus" in text and "Logit scale 1.5 as trained, 2.5 as fitted" in text
    assert "## pocket-vit-classifier" in text and (tmp_path / "pocket-vit-classifier.safetensors").read_bytes() == b"weights"
    assert "| data set | zero-shot |\n| --- | --- |\n| digits | 61.5 |" in text


def test_the_committed_card_belongs_to_the_committed_weights():
    text = (model.WEIGHTS / "README.md").read_text(encoding="utf-8")
    for name, what in (("pocket-vit", "pairs"), ("pocket-rn", "pairs"), ("pocket-vit-tidy", "pairs"),
                       ("pocket-vit-classifier", "pictures")):
        record = json.loads((model.WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
        assert f"{record['pairs']:,} {what} in {record['minutes']:.0f} minutes" in text
    assert sum(path.stat().st_size for path in model.WEIGHTS.iterdir()) < 20e6
