"""Where notebooks and manifests lie: beside the package in a checkout, inside it in an installed wheel."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def checkout_dir() -> Path | None:
    """Return the root of the checkout this package runs from, or None when it is installed."""
    root = _PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def notebooks_dir() -> Path:
    """Return the folder of the numbered series; the variable CLIPNOTES_NOTEBOOKS names another one."""
    return Path(os.environ.get("CLIPNOTES_NOTEBOOKS") or _asset("notebooks"))


def data_root(given: str = "data") -> str:
    """The folder of the data sets: as given, or where that is the usual one, the one that the variable CLIPNOTES_DATA names."""
    named = os.environ.get("CLIPNOTES_DATA")
    return os.path.abspath(os.path.expanduser(named)) if named and given == "data" else given


def manifests_dir() -> Path:
    """Return the folder with one YAML file a data set and papers/*.csv."""
    return _asset("data_manifests")


def _asset(name):
    return (checkout_dir() or _PACKAGE / "_assets") / name
