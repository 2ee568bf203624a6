"""Manifests: one YAML file a data set, saying what it is, where it comes from and what must be there."""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from clipnotes.errors import ClipnotesError
from clipnotes.paths import manifests_dir

SPLITS = ("train", "val", "test")
REQUIRED = {"name": str, "title": str, "task": str, "licence": str, "classes": list, "templates": list,
            "counts": dict, "source": dict}
OPTIONAL = {"homepage": str, "citation": str, "obtain": str, "notes": str}
SOURCES = {  # kind -> fields it needs beside `kind`
    "pocket": (),                        # drawn by clipnotes.pocket.datasets
    "sklearn-digits": (),                # scikit-learn's handwritten digits
    "split-file": ("images", "file"),    # images under DATA_ROOT/images, listed in a CoOp split file DATA_ROOT/file
}


@dataclass(frozen=True)
class Manifest:
    """One data set: `classes` in label order, `counts` of images a split, `source` (see SOURCES), `path` of the YAML."""
    name: str
    title: str
    task: str
    licence: str
    classes: list
    templates: list
    counts: dict
    source: dict
    path: Path
    homepage: str = ""
    citation: str = ""
    obtain: str = ""
    notes: str = ""

    @property
    def splits(self):
        """Images a split, {"train": n, "val": n, "test": n}."""
        return self.counts

    @property
    def built_in(self):
        """Whether the images come with the package, with nothing to download."""
        return self.source["kind"] != "split-file"

    @property
    def fingerprint(self):
        """Hash of the manifest's content."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def status(self, data_root):
        """"built in", "here" or "missing" under the data root; says nothing of completeness, see `check_dataset`."""
        if self.built_in:
            return "built in"
        needed = [Path(data_root) / self.source[field] for field in ("images", "file")]
        return "here" if all(path.exists() for path in needed) else "missing"


def list_datasets():
    """Names of all data sets with a manifest, sorted."""
    return sorted(path.stem for path in manifests_dir().glob("*.yaml"))


def load_manifest(name):
    """The manifest of a data set by name, or by the path of a YAML file of your own.

    Raises ClipnotesError for an unknown name (with those that exist) and for a manifest that breaks the rules.
    """
    path = Path(name) if str(name).endswith(".yaml") else manifests_dir() / f"{name}.yaml"
    if not path.is_file():
        raise ClipnotesError(f"unknown data set {str(name)!r}; choose one of {', '.join(list_datasets())}, "
                             "or give the path of a manifest (.yaml)")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ClipnotesError(f"manifest {path.name} is not valid YAML: {error}") from error
    check_fields(content, path)
    return Manifest(**content, path=path)


def check_fields(content, path):
    """Hold a manifest's content to the schema; ClipnotesError names the file, the field and the rule."""
    def fail(problem):
        raise ClipnotesError(f"manifest {path.name}: {problem}")

    if not isinstance(content, dict):
        fail(f"must be a mapping of fields, not {type(content).__name__}")
    for field in content:
        if field not in REQUIRED | OPTIONAL:
            fail(f"unknown field {field!r}; fields are {', '.join(REQUIRED | OPTIONAL)}")
    for field in REQUIRED:
        if not content.get(field):
            fail(f"field {field!r} is missing or empty")
    for field, kind in (REQUIRED | OPTIONAL).items():
        if field in content and not isinstance(content[field], kind):
            fail(f"field {field!r} is {content[field]!r}, but must be a {kind.__name__}")
    classes, counts, source = content["classes"], content["counts"], content["source"]
    if not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(classes):
        fail("class names must be different strings (quote names such as \"yes\" or \"1\")")
    if set(counts) != set(SPLITS) or not all(isinstance(n, int) and n >= 0 for n in counts.values()):
        fail(f"counts are {counts}, but must give whole numbers for {', '.join(SPLITS)}")
    if not all(isinstance(template, str) and "{}" in template for template in content["templates"]):
        fail("every template needs a {} for the class name")
    if str(source.get("kind")) not in SOURCES:
        fail(f"source kind {source.get('kind')!r} is unknown; kinds are {', '.join(SOURCES)}")
    for field in SOURCES[source["kind"]]:
        if field not in source:
            fail(f"source kind {source['kind']!r} needs the field {field!r}")


def read_split_file(manifest, data_root):
    """{split: [(relative path, label, class name), ...]} from a CoOp split file; ClipnotesError where it is missing or bad."""
    path = Path(data_root) / manifest.source["file"]
    if not path.is_file():
        raise ClipnotesError(f"split file {path} of data set {manifest.name} is missing; "
                             f"{manifest.obtain or 'put it there, or set data_root to where the data lie'}")
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        splits = {split: [(str(p), int(label), str(c)) for p, label, c in splits[split]] for split in SPLITS}
    except (ValueError, KeyError, TypeError) as error:
        raise ClipnotesError(f"split file {path} is not a CoOp split ({error!r}); it must hold lists "
                             "train, val and test of [path, label, class name]") from error
    for split, rows in splits.items():
        for name, label, _ in rows:
            if not 0 <= label < len(manifest.classes):
                raise ClipnotesError(f"label {label} of {name} ({split}) in {path} is out of range; {manifest.name} "
                                     f"has {len(manifest.classes)} classes, labels 0 to {len(manifest.classes) - 1}")
    return splits


def check_dataset(name, data_root="data"):
    """Problems of a data set on this machine, one sentence each; an empty list means that it is complete.

    Counts of images and classes are held against the manifest and every image file is opened.
    """
    from clipnotes.backbone.clip import open_image
    from clipnotes.data.tasks import load_task

    manifest = load_manifest(name)
    try:
        task = load_task(name, data_root=data_root)
    except ClipnotesError as error:
        return [str(error)]
    problems = []
    for split in SPLITS:
        part = getattr(task, split)
        missing = set(range(len(manifest.classes))) - set(part.labels.tolist())
        if len(part) and missing:
            some = ", ".join(manifest.classes[c] for c in sorted(missing)[:5])
            problems.append(f"{split}: {len(missing)} classes without an image ({some})")
        for image in part.images:
            try:
                open_image(image)
            except ClipnotesError as error:
                problems.append(f"{split}: {error}")
    return problems
