"""The frame: metadata, dependency lists, paths, atomic files, the form of the notebooks."""

import ast
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clipnotes
from clipnotes import paths
from clipnotes.book.sources import copy_files
from clipnotes.files import atomic_write, lock
from clipnotes.series.run_folder import take

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch"}
# the name under which a package is imported, where it is another one
MODULES = {"open_clip_torch": "open_clip", "ipython": "IPython", "myst-nb": "myst_nb", "pillow": "PIL", "pyyaml": "yaml",
           "scikit-learn": "sklearn", "sphinx-book-theme": "sphinx_book_theme"}
BROUGHT_ALONG = {"distributed"}  # parts of a declared package: of dask[distributed]


def declared(extras=("book", "test", "dev")):
    """{canonical name: Requirement} of pyproject.toml, with the extras, without the package itself."""
    lines = PROJECT["dependencies"] + [line for e in extras for line in PROJECT["optional-dependencies"][e]]
    requirements = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    requirements.pop("clipnotes", None)
    return requirements


def test_constraints_pin_exactly_what_pyproject_declares():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert sorted(canonicalize_name(pin.name) for pin in pins) == sorted(declared())
    for pin in pins:
        assert re.fullmatch(r"==[\d.]+", str(pin.specifier)), f"{pin} is no plain pin"
        assert declared()[canonicalize_name(pin.name)].specifier.contains(str(pin.specifier)[2:])


def test_conda_users_get_the_same_set():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    requirements = [Requirement(entry) for entry in entries if isinstance(entry, str) and entry != "pip"]
    found = {canonicalize_name(CONDA_NAMES.get(r.name, r.name)): str(r.specifier) for r in requirements}
    wanted = {name: str(requirement.specifier) for name, requirement in declared().items()}
    assert found == wanted | {"python": PROJECT["requires-python"]}


def test_every_import_of_the_package_is_declared():
    allowed = {MODULES.get(r.name, r.name) for r in declared(extras=("book",)).values()} | BROUGHT_ALONG
    for file in ROOT.glob("clipnotes/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                assert top in allowed or top == "clipnotes" or top in sys.stdlib_module_names, (
                    f"{file}: {name}"
                )


def test_citation_names_the_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == clipnotes.__version__


@pytest.mark.parametrize("module", ["clipnotes", "clipnotes"])
def test_the_command_line_starts_without_heavy_imports(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "papermill", "IPython"} & set(loaded)


def test_make_names_the_python_it_cannot_use(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho Python 3.9.1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "install", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stdout and "Python 3.9.1" in done.stdout


def test_the_wheel_holds_notebooks_manifests_and_style(tmp_path):
    pytest.importorskip("setuptools")
    tree = tmp_path / "tree"
    for name in ("clipnotes", "notebooks", "data_manifests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
    ]
    done = subprocess.run([*map(str, command), str(tree)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("notebooks", "data_manifests"):
        for file in (tree / folder).rglob("*"):
            assert file.is_dir() or f"clipnotes/_assets/{file.relative_to(tree).as_posix()}" in names
    assert "clipnotes/lab/clipnotes.mplstyle" in names
    for file in (tree / "clipnotes/pocket/weights").glob("*"):
        assert f"clipnotes/pocket/weights/{file.name}" in names


def test_paths_in_a_checkout_in_a_wheel_and_by_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("CLIPNOTES_NOTEBOOKS", raising=False)
    assert paths.notebooks_dir() == ROOT / "notebooks" and paths.manifests_dir() == ROOT / "data_manifests"
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "site-packages" / "clipnotes")
    assert paths.notebooks_dir() == tmp_path / "site-packages/clipnotes/_assets/notebooks"
    assert paths.checkout_dir() is None
    monkeypatch.setenv("CLIPNOTES_NOTEBOOKS", str(tmp_path))
    assert paths.notebooks_dir() == tmp_path


def test_atomic_write_replaces_a_file_only_when_whole(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with atomic_write(target) as stream:
        stream.write("whole\n")
    with pytest.raises(RuntimeError), atomic_write(target) as stream:
        stream.write("half")
        stream.flush()
        raise RuntimeError
    assert target.read_text() == "whole\n"
    assert [file.name for file in target.parent.iterdir()] == ["table.csv"]
    with pytest.raises(ValueError, match="'a'"), atomic_write(target, "a"):
        pass


def test_nothing_points_at_a_machine():
    for file in ROOT.glob("clipnotes/**/*.py"):
        assert "../shared" not in file.read_text(encoding="utf-8"), file


NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_the_house_form(path):
    assert path.stat().st_size < 1_000_000
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    headings = [
        line
        for cell in cells
        if cell["cell_type"] == "markdown"
        for line in re.sub(r"```.*?```", "", "".join(cell["source"]), flags=re.S).splitlines()
        if line.startswith("# ")
    ]
    assert len(headings) == 1, "one H1, which is the question"
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert set(notebook["metadata"]["clipnotes"]) >= {"reproduces", "minutes", "needs"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "papermill" not in notebook["metadata"]
    for cell in cells:
        assert not {"papermill", "execution"} & set(cell["metadata"]), "timing metadata: use `make notebooks`"

# --- one process at a time ----------------------------------------------------------------------------------------


def slow_addition(folder):
    """Add one to the number in a file, slowly: two at a time would lose one."""
    path = Path(folder) / "sum"
    with lock(path):
        number = int(path.read_text()) if path.exists() else 0
        time.sleep(0.2)
        path.write_text(str(number + 1))


def test_a_lock_lets_one_process_in_at_a_time(tmp_path):
    with get_context("spawn").Pool(3) as pool:
        pool.map(slow_addition, [str(tmp_path)] * 3)
    assert (tmp_path / "sum").read_text() == "3"


def test_a_process_that_dies_lets_the_next_one_in(tmp_path):
    program = f"from clipnotes.files import lock; import os\nwith lock({str(tmp_path / 'x')!r}): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    slow_addition(tmp_path)


def test_where_no_lock_can_be_written_there_is_no_waiting(tmp_path):
    (tmp_path / "file").touch()
    with lock(tmp_path / "file" / "below"), lock(tmp_path / ("x" * 250)):
        pass


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL], ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """A file system that has no locks, as some network and container ones; what it answers."""
    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", refuse)
    return os.strerror(request.param)


def test_where_the_file_system_has_no_locks_there_is_no_waiting(tmp_path, no_locks):
    for _ in range(2):  # the lock file of a run that died is no lock
        with lock(tmp_path / "x"):
            (tmp_path / "x").touch()
        with pytest.warns(UserWarning, match=rf"out lies on a file system without locks \({no_locks}\), so that nothing keeps"):
            hold_of_a_killed_run = take(tmp_path / "out")
        hold_of_a_killed_run.release()
    assert (tmp_path / "x").exists()


def test_where_modes_cannot_be_changed_files_are_written(tmp_path, monkeypatch):
    """As on a drive of another system; the file has the mode that any new file has."""
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "ordinary").touch()
    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    with atomic_write(tmp_path / "table.csv") as stream:
        stream.write("whole")
    assert (tmp_path / "table.csv").read_text() == "whole"
    assert (tmp_path / "table.csv").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    copy_files(tmp_path, tmp_path.parent / "copy")
    assert sorted(path.name for path in (tmp_path.parent / "copy").iterdir()) == ["ordinary", "table.csv"]


def held(path, begun, seconds):
    with lock(path):
        begun.set()
        time.sleep(seconds)


def test_who_comes_later_waits_and_an_error_lets_go(tmp_path):
    context = get_context("spawn")
    begun = context.Event()
    process = context.Process(target=held, args=(tmp_path / "x", begun, 2.0))
    process.start()
    assert begun.wait(60)
    since = time.monotonic()
    with pytest.raises(ZeroDivisionError), lock(tmp_path / "x"):
        waited = time.monotonic() - since
        1 / 0  # noqa: B018
    process.join()
    assert waited > 0.5
    with lock(tmp_path / "x"):
        pass
