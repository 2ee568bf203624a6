"""Manifests: one YAML file a data set, saying what it is, where it comes from and what must be there.

What it is: name (the file's), title, task (one line), licence, homepage, citation, notes, and
  classes     names in label order; or {count, attribute: "module:object.names"}, with `synsets`, a list of timm's, for parts
              of ImageNet; or, where the data set's own files say them, {count, source: words, repair: see `sources.REPAIRS`}
  templates   sentences with a {} for the class name; more_templates: {name: a list of such} of other code
  counts      images a split, held against what is loaded
What must be there, all paths relative to DATA_ROOT:
  source      kind: see `clipnotes.data.sources.SOURCES`, with the fields that the kind needs;
              images: folder that image paths are relative to, or a list of which the first that is there and has the
              folders named in `holds` is taken;
              file: CoOp's split file, used where it is there; split: the rule that stands in for it, see `splits.py`;
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
import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from clipnotes.data.sources import BUILT_IN, REPAIRS, SOURCES, image_folder
from clipnotes.errors import ClipnotesError
from clipnotes.folder_names import full_name, is_folder
from clipnotes.paths import manifests_dir

SPLITS = ("train", "val", "test")
REQUIRED = {"name": str, "title": str, "task": str, "licence": str, "classes": (list, dict), "templates": list,
            "counts": dict, "source": dict}
OPTIONAL = {"homepage": str, "citation": str, "obtain": str, "notes": str, "noisy_labels": dict, "torchvision": dict,
            "archives": list, "manual": str, "more_templates": dict}
ATTRIBUTES = ("open_clip:IMAGENET_CLASSNAMES", "torchvision.datasets:Flowers102.classes")
SYNSETS = tuple(f"imagenet{part}_synsets.txt" for part in ("", "_a", "_r"))
ARCHIVE = {"url", "file", "folder", "size", "md5", "sha256"}


@dataclass(frozen=True)
class Manifest:
    """One data set, field by field as in its YAML (see the module), and the `path` of that file."""
    name: str
    title: str
    task: str
    licence: str
    classes: list | dict
    templates: list
    counts: dict
    source: dict
    path: Path
    homepage: str = ""
    citation: str = ""
    obtain: str = ""
    notes: str = ""
    noisy_labels: dict = field(default_factory=dict)
    torchvision: dict = field(default_factory=dict)
    archives: list = field(default_factory=list)
    manual: str = ""
    more_templates: dict = field(default_factory=dict)

    @property
    def splits(self):
        """Images a split, {"train": n, "val": n, "test": n}; "any" where it is up to whoever builds the set."""
        return self.counts

    @property
    def n_classes(self):
        return self.classes["count"] if isinstance(self.classes, dict) else len(self.classes)

    def classnames(self):
        """Class names in label order, or None where only the data set's own files say them: there, ask its task."""
        if isinstance(self.classes, list):
            return list(self.classes)
        if "attribute" not in self.classes:
            return None
        module, _, attribute = self.classes["attribute"].partition(":")
        names = importlib.import_module(module)
        for part in attribute.split("."):
            names = getattr(names, part)
        wnids = self.synsets()
        if wnids:
            order = {wnid: row for row, wnid in enumerate(read_synsets("imagenet_synsets.txt"))}
            names = [names[order[wnid]] for wnid in wnids]
        return self.repaired(names)

    def repaired(self, names):
        """Class names from elsewhere as they belong in a prompt: with the manifest's repair, without underscores."""
        repair = REPAIRS[self.classes["repair"]] if "repair" in self.classes else str
        return [repair(name).replace("_", " ") for name in names]

    def synsets(self):
        """WordNet ids of the classes in label order where the manifest names a list of timm's, else None."""
        if isinstance(self.classes, dict) and "synsets" in self.classes:
            return read_synsets(self.classes["synsets"])
        return None

    @property
    def built_in(self):
        """Whether the images come with the package, with nothing to download."""
        return self.source["kind"] in BUILT_IN

    @property
    def download_size(self):
        """Bytes that `clipnotes data fetch` would download, as far as they are known."""
        return sum(part.get("size", 0) for part in [self.torchvision, *self.archives])

    @property
    def fingerprint(self):
        """Hash of the manifest's content; a folder of images has none beside its images."""
        return hashlib.sha256(b"" if self.path.is_dir() else self.path.read_bytes()).hexdigest()[:16]

    def status(self, data_root):
        """"built in", "here" or "missing" under the data root; says nothing of completeness, see `check_dataset`."""
        if self.built_in:
            return "built in"
        here = image_folder(self, data_root) is not None
        if self.source["kind"] == "split-file":
            here = here and (Path(data_root) / self.source["file"]).is_file()
        return "here" if here else "missing"


def read_synsets(name):
    """The WordNet ids that timm ships as `name`, one a line: lists of ImageNet's classes and of parts of them."""
    return pkgutil.get_data("timm.data", f"_info/{name}").decode().split()


def list_datasets():
    """Names of all data sets with a manifest, sorted."""
    return sorted(path.stem for path in manifests_dir().glob("*.yaml"))


def load_manifest(name):
    """The manifest of a data set by name, by the path of a YAML file of your own, or made of `folder:PATH`, a folder of images.

    Raises ClipnotesError for an unknown name (with those that exist) and for a manifest or a folder that breaks the rules.
    """
    name = full_name(str(name))
    if is_folder(name):
        from clipnotes.data.folders import read_folder

        return read_folder(name)
    path = Path(name) if str(name).endswith(".yaml") else manifests_dir() / f"{name}.yaml"
    if not path.is_file():
        raise ClipnotesError(f"unknown data set {name!r}; choose one of {', '.join(list_datasets())}, "
                             "or give the path of a manifest (.yaml) or folder:PATH of images")
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
    for key in content:
        if key not in REQUIRED | OPTIONAL:
            fail(f"unknown field {key!r}; fields are {', '.join(REQUIRED | OPTIONAL)}")
    for key in REQUIRED:
        if not content.get(key):
            fail(f"field {key!r} is missing or empty")
    for key, kinds in (REQUIRED | OPTIONAL).items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if key in content and not isinstance(content[key], kinds):
            fail(f"field {key!r} is {content[key]!r}, but must be a {' or '.join(kind.__name__ for kind in kinds)}")
    check_classes(content["classes"], fail)
    counts, source = content["counts"], content["source"]
    check_counts(counts, "counts", fail)
    for templates in [content["templates"], *content.get("more_templates", {}).values()]:
        if not all(isinstance(template, str) and "{}" in template for template in templates):
            fail("every template needs a {} for the class name")
    if str(source.get("kind")) not in SOURCES:
        fail(f"source kind {source.get('kind')!r} is unknown; kinds are {', '.join(SOURCES)}")
    for key in SOURCES[source["kind"]].fields:
        if key not in source:
            fail(f"source kind {source['kind']!r} needs the field {key!r}")
    if "counts" in source:
        check_counts(source["counts"], "source counts", fail)
    for archive in content.get("archives", []):
        check_archive(archive, fail)
    if "torchvision" in content and not {"class", "root"} <= set(content["torchvision"]):
        fail(f"torchvision is {content['torchvision']}, but needs a class and a root")


def check_classes(classes, fail):
    if isinstance(classes, list):
        if not all(isinstance(name, str) for name in classes) or len(set(classes)) != len(classes):
            fail("class names must be different strings (quote names such as \"yes\" or \"1\")")
        return
    counted = isinstance(classes.get("count"), int) or classes.get("count") == "any"
    if not counted or not {"attribute", "source"} & set(classes):
        fail(f"classes are {classes}, but must be a list of names, or give a count and an attribute or a source of the names")
    for key, allowed in (("attribute", ATTRIBUTES), ("synsets", SYNSETS), ("repair", tuple(REPAIRS))):
        if key in classes and classes[key] not in allowed:
            fail(f"{key} of classes {classes[key]!r} is unknown; choose one of {', '.join(allowed)}")


def check_counts(counts, field, fail):
    if set(counts) != set(SPLITS) or not all(n == "any" or isinstance(n, int) and n >= 0 for n in counts.values()):
        fail(f"{field} are {counts}, but must give whole numbers for {', '.join(SPLITS)}")


def check_archive(archive, fail):
    if not isinstance(archive, dict) or not {"url", "file"} <= set(archive) <= ARCHIVE:
        fail(f"archive {archive} must give url and file, and may give {', '.join(sorted(ARCHIVE - {'url', 'file'}))}")
    for key in ("file", "folder"):
        path = PurePosixPath(archive.get(key, ""))
        if path.is_absolute() or ".." in path.parts:
            fail(f"archive {key} {str(path)!r} lies outside the data root; give a path relative to it")
