"""Manifests: one YAML file a data set, saying what it is, where it comes from and what must be there.

What it is: name (the file's), title, task (one line), licence, homepage, citation, notes, and
  classes     names in label order; or {count, attribute: "module:object.names"}, with `synsets`, a list of timm's, for parts
              of ImageNet; or, where the data set's own files say them, {count, source: words, repair: of `class_names`}
  templates   sentences with a {} for the class name
  counts      images a split, held against what is loaded
What must be there, all paths relative to DATA_ROOT:
  source      kind: see `sources.SOURCES`, with the fields that the kind needs;
              images: folder that image paths are relative to, or a list of which the first that is there and has the
              folders named in `holds` is taken;
              file: CoOp's split file, used where it is there; split: the rule that stands in for it, see `split_rules.py`;
              words: which split that is, where the rule does not say it
  noisy_labels    {file, entries: names in the file} of labels by people, see `corrupt_labels(kind="human")`
How to get it: obtain (words), and for `clipnotes data fetch` any of
  torchvision     {class: NAME in torchvision.datasets, args: {...}, root: folder, size: bytes to download}
  archives        a list of {url, file, folder, size, md5 or sha256}: `url` is kept as `file`; with `folder` it is an archive
                  and unpacked there, without it a plain file; size (bytes) and checksum only where they are known
  manual          words: the steps that only a person can take
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipnotes.data.class_names import REPAIRS, read_attribute, read_synsets
from clipnotes.data.folders import folder_manifest
from clipnotes.data.manifest_schema import check_manifest
from clipnotes.errors import ClipnotesError
from clipnotes.folder_names import folder_of, full_name, is_folder
from clipnotes.paths import manifests_dir
from clipnotes.yaml_files import read_yaml

BUILT_IN = ("pocket", "sklearn-digits")


@dataclass(frozen=True)
class Manifest:
    """One data set, field by field as in its YAML (see the module), and the `path` of that file."""
    name: str
    title: str
    task: str
    licence: str
    classes: list[str] | dict[str, Any]
    templates: list[str]
    counts: dict[str, Any]  # images a split, {"train": n, ...}; "any" where it is up to whoever builds the set
    source: dict[str, Any]
    path: Path
    homepage: str = ""
    citation: str = ""
    obtain: str = ""
    notes: str = ""
    noisy_labels: dict[str, Any] = field(default_factory=dict)
    torchvision: dict[str, Any] = field(default_factory=dict)
    archives: list[dict[str, Any]] = field(default_factory=list)
    manual: str = ""

    @property
    def kind(self) -> str:
        """Of its source: a key of `sources.SOURCES`."""
        return self.source["kind"]

    @property
    def n_classes(self) -> int | str:
        """How many classes there are, or "any" where only the data set's own files say it."""
        return self.classes["count"] if isinstance(self.classes, dict) else len(self.classes)

    def classnames(self) -> list[str] | None:
        """Class names in label order, or None where only the data set's own files say them: there, ask its task."""
        if isinstance(self.classes, list):
            return list(self.classes)
        if "attribute" not in self.classes:
            return None
        names, wnids = read_attribute(self.classes["attribute"]), self.synsets()
        if wnids:
            order = {wnid: row for row, wnid in enumerate(read_synsets("imagenet_synsets.txt"))}
            names = [names[order[wnid]] for wnid in wnids]
        return self.repaired(names)

    def repaired(self, names: list[str]) -> list[str]:
        """Class names from elsewhere as they belong in a prompt: with the manifest's repair, without underscores."""
        repair = REPAIRS[self.classes["repair"]] if "repair" in self.classes else str
        return [repair(name).replace("_", " ") for name in names]

    def synsets(self) -> list[str] | None:
        """WordNet ids of the classes in label order where the manifest names a list of timm's, else None."""
        if isinstance(self.classes, dict) and "synsets" in self.classes:
            return read_synsets(self.classes["synsets"])
        return None

    @property
    def built_in(self) -> bool:
        """Whether the images come with the package, with nothing to download."""
        return self.kind in BUILT_IN

    @property
    def remedy(self) -> str:
        """What to do where something of the data set is missing, as a sentence ends, without the full stop."""
        return (self.obtain or "put it there, or set data_root to where the data lie").rstrip(".")

    @property
    def download_size(self) -> int:
        """Bytes that `clipnotes data fetch` would download, as far as they are known."""
        return sum(part.get("size", 0) for part in [self.torchvision, *self.archives])

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest's content; a folder of images has none beside its images."""
        return hashlib.sha256(b"" if self.path.is_dir() else self.path.read_bytes()).hexdigest()[:16]

    # --- what lies under a data root ---

    def status(self, data_root: str | Path) -> str:
        """"built in", "here" or "missing" under the data root; says nothing of completeness, see `check_dataset`."""
        if self.built_in:
            return "built in"
        here = self.image_folder(data_root) is not None and (self.kind != "split-file" or self.has_split_file(data_root))
        return "here" if here else "missing"

    def folders(self, field: str, data_root: str | Path) -> list[Path]:
        """The folders that may be meant by a field of the source, which names one or several."""
        return [Path(data_root) / folder for folder in as_list(self.source[field])]

    def image_folder(self, data_root: str | Path) -> Path | None:
        """The folder that image paths are relative to, or None: the first with the folders that the source `holds`."""
        holds = as_list(self.source.get("holds", "."))
        folders = self.folders("images", data_root)
        return next((folder for folder in folders if all((folder / name).is_dir() for name in holds)), None)

    def list_folder(self, file: str, data_root: str | Path) -> Path:
        """The first of the manifest's folders of lists that holds a file, else the first of all."""
        folders = self.folders("lists", data_root)
        return next((path for path in folders if (path / file).is_file()), folders[0])

    def has_split_file(self, data_root: str | Path) -> bool:
        """Whether the published split file lies beside the data."""
        return "file" in self.source and (Path(data_root) / self.source["file"]).is_file()

    def takes_split_file(self, data_root: str | Path) -> bool:
        """Whether a published split file makes the splits: where it lies beside the data, or where nothing else could."""
        return self.kind == "split-file" or self.has_split_file(data_root)

    def expected_counts(self, data_root: str | Path) -> dict[str, Any]:
        """Images that each split must have: a split file has other counts than the rule that stands in for it."""
        return self.counts if self.takes_split_file(data_root) else self.source.get("counts", self.counts)


def as_list(value: Any) -> list:
    return [value] if isinstance(value, str) else value


def list_datasets() -> list[str]:
    """Names of all data sets with a manifest, sorted."""
    return sorted(path.stem for path in manifests_dir().glob("*.yaml"))


def load_manifest(name: str | Path) -> Manifest:
    """The manifest of a data set by name, by the path of a YAML file of your own, or made of `folder:PATH`, a folder of images.

    Raises ClipnotesError for an unknown name (with those that exist) and for a manifest or a folder that breaks the rules.
    """
    if is_folder(name := full_name(name)):
        return Manifest(**folder_manifest(folder_of(name)))
    path = Path(name) if str(name).endswith(".yaml") else manifests_dir() / f"{name}.yaml"
    if not path.is_file():
        raise ClipnotesError(f"Unknown data set {str(name)!r}; choose one of {', '.join(list_datasets())}, "
                             "or give the path of a manifest (.yaml) or folder:PATH of images.")
    content = read_yaml(path, f"Manifest {path.name}")
    check_manifest(content, f"Manifest {path.name}")
    return Manifest(**content, path=path)
