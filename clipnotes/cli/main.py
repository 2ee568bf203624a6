"""The command line. Everything heavy is imported inside the commands, so that `clipnotes --help` is quick."""

import atexit
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

import clipnotes
from clipnotes.cli.data import data, features, real_clip
from clipnotes.cli.once import Group
from clipnotes.cli.places import FILE, FOLDER
from clipnotes.errors import ClipnotesError, in_words, shown


def main(arguments=None):
    """Entry point: a ClipnotesError is one line on stderr and exit code 2, as click does for its own.

    So is what the operating system refuses, such as a full disk or a file that nobody may read, with exit code 1.
    """
    try:
        _find_home()
        cli(arguments)
    except ClipnotesError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except (OSError, UnicodeError, RecursionError, MemoryError) as error:
        click.echo(f"Error: {in_words(error)}", err=True)
        sys.exit(1)


def _find_home():
    """Jupyter keeps running kernels' connections below the home folder: give it one for this command where none can be written.

    In a container or a batch job the user may be a number without a home, or with one that is read-only.
    """
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK):
        return
    own = tempfile.mkdtemp(prefix="clipnotes-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ.setdefault("JUPYTER_RUNTIME_DIR", own)
    if os.path.isdir(home):  # what lies in it, such as weights, can still be read
        return
    os.environ["HOME"] = own
    if not os.environ.get("CLIPNOTES_CACHE") and not os.environ.get("XDG_CACHE_HOME"):
        click.echo("You have no home folder, so features are not kept: set CLIPNOTES_CACHE to a folder that you may write.",
                   err=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(clipnotes.__version__)
def cli():
    """An interactive study of two papers on adapting CLIP, run without a browser."""


@cli.command(name="list")
def list_():
    """The notebooks: number, question, what they reproduce, minutes, parameters."""
    from clipnotes.series.notebooks import series

    for notebook in series():
        facts = notebook.facts
        click.echo(f"{notebook.number}  {notebook.question}")
        for label, key in (("reproduces", "reproduces"), ("minutes", "minutes"), ("needs", "needs")):
            click.echo(f"    {label}: {facts.get(key, 'not stated')}")
        for parameter in notebook.parameters:
            declaration = f"{parameter.name}: {parameter.type} = {parameter.default!r}"
            click.echo(f"      {declaration:<40} {parameter.help} {parameter.shown_domain}".rstrip())
        click.echo()


@cli.command()
@click.argument("notebook")
@click.option("-f", "--parameters", "file", metavar="FILE", help="A YAML file of parameters, such as presets/paper_02.yaml.")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter, before those of the file; lists as [a,b].")
@click.option("--out", type=FOLDER, help="Folder of the results [default: runs/NAME].")
@click.option("--resume", is_flag=True, help="Keep a complete run of the same code, parameters and version.")
@click.option("--force", is_flag=True, help="Overwrite files in OUT that no run of clipnotes made.")
def run(notebook, file, pairs, out, resume, force):
    """Run NOTEBOOK (02, or its name) with strict parameters."""
    from clipnotes.running.execute import completed, overrides, run_notebook
    from clipnotes.series.notebooks import find
    from clipnotes.series.parameters import parse, read_values
    from clipnotes.series.run_folder import refuse_foreign

    notebook = find(notebook)
    out = Path(out or f"runs/{notebook.name}")
    values = (read_values(file) if file else {}) | parse(notebook.parameters, _split(pairs))
    parameters = overrides(notebook, values)
    if resume and completed(notebook, parameters, out):
        click.echo(f"Already complete: {out}")
        return
    if not force:
        refuse_foreign(out)
    with _stopped_in_words():
        facts = run_notebook(notebook, parameters, out)
    if facts["status"] == "complete":
        click.echo(f"Complete in {facts['seconds']} s: {out}")
        return
    click.echo(f"{notebook.name} failed: {facts['error']}", err=True)
    click.echo(f"The executed notebook: {out / 'notebook.ipynb'}", err=True)
    sys.exit(1)


@contextmanager
def _stopped_in_words():
    """Ctrl-C ends the command with one line and the exit code that shells know."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Stopped. What is done is kept; go on with --resume.", err=True)
        sys.exit(130)


def _split(pairs):
    """{name: text} of the options -p."""
    texts = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ClipnotesError(f"Option -p is {shown(pair)}, but must be NAME=VALUE, for example -p seed=1.")
        if name in texts:
            raise ClipnotesError(f"Option -p gives {name} twice, as {shown(texts[name])} and {shown(text)}: keep one.")
        texts[name] = text
    return texts


@cli.command()
@click.option("--preset", default="pocket", show_default=True, help="In notebooks/presets: quick, short, pocket, laptop ...")
@click.option("--only", metavar="02,04", help="These notebooks only.")
@click.option("--resume", is_flag=True, help="Keep complete runs of the same code, parameters and version.")
@click.option("--out", default="runs/study", show_default=True, type=FOLDER)
@click.option("--update", is_flag=True, help="Write the outputs back into the notebooks.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Notebooks at a time [default: one a core, at most 3].")
@click.option("--force", is_flag=True, help="Overwrite files in OUT that no study of clipnotes made.")
def study(preset, only, resume, out, update, jobs, force):
    """Run the series in order and write a contents page."""
    from clipnotes.running import study as lab_study

    keys = [key.strip() for key in only.split(",") if key.strip()] if only is not None else []
    if only is not None and not keys:
        raise ClipnotesError(f"Option --only is {only!r}, which names no notebook: give numbers such as 02,04.")
    with _stopped_in_words():
        results = lab_study.study(preset, keys, resume, out, update, jobs or min(3, os.cpu_count() or 1), force)
    click.echo(lab_study.summary(results))
    click.echo(f"Contents: {Path(out) / 'index.html'}")
    if any(facts["status"] != "complete" for facts in results):
        sys.exit(1)


@cli.command()
@click.argument("study", metavar="DIR", type=click.Path(file_okay=False))
@click.option("--out", type=FOLDER, help="Folder of the book [default: DIR/book].")
@click.option("--repository", default="", metavar="URL", help="On GitHub, for buttons [default: this checkout's origin].")
def book(study, out, repository):
    """Build the book of the study in DIR: its executed notebooks as one site with search and a gallery of figures."""
    from clipnotes.book.build import build_book

    click.echo(f"Book: {build_book(study, out, repository)}")


@cli.command(name="copy")
@click.argument("folder", type=FOLDER, metavar="DIR")
def copy_(folder):
    """Copy the series into the new folder DIR, to work in it; it runs with the installed package."""
    from clipnotes.series.exercises import copy_series

    click.echo(f"{len(copy_series(folder))} notebooks: {folder}")


@cli.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
def student(folder):
    """Copy the series into the new folder DIR without outputs and solutions; starter cells check their answers."""
    from clipnotes.series.exercises import copy_series

    click.echo(f"{len(copy_series(folder, students=True))} notebooks without solutions: {folder}")


@cli.command()
@click.argument("folders", nargs=-1, required=True, metavar="DIR...")
@click.option("--out", type=FILE, help="File of the table [default: gathered.csv in the first DIR].")
@click.option("--compact", "brief", is_flag=True, help="Keep only what the exhibits of the papers need.")
def gather(folders, out, brief):
    """Gather all runs in folders (of sweeps, studies, single runs) into one tidy table."""
    from clipnotes.exhibits import gather as lab_gather
    from clipnotes.exhibits.compact import compact

    table = lab_gather.gather(folders)
    damaged = lab_gather.damaged(table)
    table = compact(table) if brief else table
    files = lab_gather.write_gathered(table, out or Path(folders[0]) / "gathered.csv")
    runs = table.drop_duplicates("run")["status"].value_counts()
    for line in damaged:
        click.echo(line, err=True)
    click.echo(f"{', '.join(f'{n} {status}' for status, n in runs.items())}; {table['metric'].notna().sum()} numbers: "
               f"{', '.join(map(str, files))}")


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="DIR...")
@click.option("--like", required=True, help="An exhibit of the papers, such as ptnl:table1 or imo:main.")
@click.option("--format", "format_", type=click.Choice(["markdown", "csv", "latex"]), default="markdown", show_default=True)
@click.option("--out", type=FILE, help="Write the table to this file, too.")
def table(sources, like, format_, out):
    """Print runs (folders, or files of `clipnotes gather`) as a table of the papers, their numbers beside ours."""
    from clipnotes.exhibits import tables
    from clipnotes.exhibits.gaps import gap_lines
    from clipnotes.exhibits.gather import damaged, read_gathered
    from clipnotes.files import atomic_write

    gathered = read_gathered(sources)
    for line in damaged(gathered):
        click.echo(line, err=True)
    text = tables.written(tables.exhibit(gathered, like), format_)
    click.echo(text)
    if out:
        with atomic_write(out) as stream:
            stream.write(text)
    for line in gap_lines(gathered, like):
        click.echo(line, err=True)


@cli.command()
@click.argument("notebook")
@click.option("--grid", required=True, metavar="FILE", help="A YAML file of parameters, or a name of notebooks/grids.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the runs.")
@click.option("--scale", type=click.Choice(["pocket", "paper"]), default="pocket", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="A running Dask scheduler; its workers must see OUT and the data.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes on this machine [default: one a core].")
@click.option("--resume", is_flag=True, help="Run what is missing or failed in OUT.")
@click.option("--rerun-stale", is_flag=True, help="Resume, and run again what other code or another version made.")
@click.option("--retries", type=click.IntRange(0, 100), default=2, show_default=True, help="Further attempts at a failed run.")
@click.option("--dry-run", is_flag=True, help="Only say what would run and how long it would take.")
@click.option("--force", is_flag=True, help="Overwrite files in OUT that no sweep of clipnotes made.")
def sweep(notebook, grid, out, scale, scheduler, workers, resume, rerun_stale, retries, dry_run, force):
    """Run NOTEBOOK over a grid of parameters, many runs at a time."""
    from clipnotes.running import sweep as lab_sweep
    from clipnotes.series.notebooks import find

    notebook = find(notebook)
    if dry_run:
        click.echo(lab_sweep.describe(lab_sweep.plan(notebook, grid, out, scale), workers, rerun_stale))
        return
    with _stopped_in_words():
        failed = lab_sweep.sweep(notebook, grid, out, scale, scheduler, workers, resume, rerun_stale, retries, force,
                                 report=click.echo)
    for label, error in failed.items():
        click.echo(f"failed: {label}: {error}", err=True)
    if failed:
        click.echo(f"{len(failed)} runs failed; their notebooks: {Path(out) / 'runs'}. Try again with --resume.", err=True)
        sys.exit(1)
    click.echo(f"Finished without a failure: {out}")


cli.add_command(data)
cli.add_command(features)
cli.add_command(real_clip)


@cli.group()
def pocket():
    """The small CLIP models that ship with the study."""


@pocket.command()
@click.argument("model", type=click.Choice(["pocket-vit", "pocket-rn"]))
@click.option("--out", type=FOLDER, help="Folder of the weights [default: under runs/].")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps [default: the recipe's].")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--device", default="auto", show_default=True, help="A torch device: cpu, cuda, mps.")
@click.option("--resume/--fresh", default=True, show_default=True, help="Go on from the checkpoint in OUT.")
@click.option("--objective", type=click.Choice(["captions", "labels", "text"]), default="captions", show_default=True,
              help="What is learnt: a CLIP, an image tower from labels, or a text tower for the shipped image tower.")
@click.option("--foreign", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Share of captions among foreign words, as on the web; 0 gives tidy captions.")
@click.option("--workers", default=0, show_default=True, type=click.IntRange(min=0), help="Processes that draw the pictures.")
def pretrain(model, out, steps, seed, device, resume, objective, foreign, workers):
    """Train a pocket CLIP from scratch on drawn pictures and captions."""
    from clipnotes.pocket.pretrain import configure, pretrain, variant_name

    out = out or f"runs/{variant_name(configure(model, steps, seed, objective, foreign))}"
    path = pretrain(model, out, steps=steps, seed=seed, device=device, resume=resume, objective=objective,
                    foreign=foreign, workers=workers)
    click.echo(f"Weights: {path}")


@pocket.command(name="show")
@click.option("--card", type=FILE, help="Write recipe and table as a model card, too.")
def pocket_show(card):
    """Zero-shot and 16-shot test accuracy (%) of the shipped models on every built-in data set."""
    from clipnotes.exhibits.model_card import transfer_tables, write_card

    tables = transfer_tables()
    for model, table in tables.items():
        click.echo(f"{model}\n{table.to_string()}\n")
    if card:
        write_card(card, tables)
        click.echo(f"Model card: {card}")

