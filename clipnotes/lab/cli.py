"""The command line. Everything heavy is imported inside the commands, so that `clipnotes --help` is quick."""

import os
import sys
from pathlib import Path

import click

import clipnotes
from clipnotes.errors import ClipnotesError


def main(arguments=None):
    """Entry point: a ClipnotesError is one line on stderr and exit code 2, as click does for its own."""
    try:
        cli(arguments)
    except ClipnotesError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(clipnotes.__version__)
def cli():
    """An interactive study of two papers on adapting CLIP, run without a browser."""


@cli.command(name="list")
def list_():
    """The notebooks: number, question, what they reproduce, minutes, parameters."""
    from clipnotes.lab.series import series

    for notebook in series():
        facts = notebook.facts
        click.echo(f"{notebook.number}  {notebook.question}")
        for label, key in (("reproduces", "reproduces"), ("minutes", "minutes"), ("needs", "needs")):
            click.echo(f"    {label}: {facts.get(key, 'not stated')}")
        for parameter in notebook.parameters:
            domain = f" [{parameter.domain}]" if parameter.domain else ""
            declaration = f"{parameter.name}: {parameter.type} = {parameter.default!r}"
            click.echo(f"      {declaration:<40} {parameter.help}{domain}")
        click.echo()


@cli.command()
@click.argument("notebook")
@click.option("-p", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; lists as [a,b].")
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the results [default: runs/NAME].")
@click.option("--resume", is_flag=True, help="Keep a complete run of the same code, parameters and version.")
def run(notebook, pairs, out, resume):
    """Run NOTEBOOK (02, or its name) with strict parameters."""
    from clipnotes.lab.execute import completed, overrides, run_notebook
    from clipnotes.lab.parameters import parse
    from clipnotes.lab.series import find

    notebook = find(notebook)
    out = Path(out or f"runs/{notebook.name}")
    parameters = overrides(notebook, parse(notebook.parameters, _split(pairs)))
    if resume and completed(notebook, parameters, out):
        click.echo(f"Already complete: {out}")
        return
    facts = run_notebook(notebook, parameters, out)
    if facts["status"] == "complete":
        click.echo(f"Complete in {facts['seconds']} s: {out}")
        return
    click.echo(f"{notebook.name} failed: {facts['error']}", err=True)
    click.echo(f"The executed notebook: {out / 'notebook.ipynb'}", err=True)
    sys.exit(1)


def _split(pairs):
    for pair in pairs:
        if "=" not in pair:
            raise ClipnotesError(f"Option -p is {pair!r}, but must be NAME=VALUE, for example -p seed=1.")
    return dict(pair.split("=", 1) for pair in pairs)


@cli.command()
@click.option("--preset", default="pocket", show_default=True, help="One of notebooks/presets: quick, pocket, laptop, paper.")
@click.option("--only", default="", metavar="02,04", help="These notebooks only.")
@click.option("--resume", is_flag=True, help="Keep complete runs of the same code, parameters and version.")
@click.option("--out", default="runs/study", show_default=True, type=click.Path(file_okay=False))
@click.option("--update", is_flag=True, help="Write the outputs back into the notebooks.")
@click.option("--jobs", type=click.IntRange(min=1), help="Notebooks at a time [default: 3, or 1 on a single core].")
def study(preset, only, resume, out, update, jobs):
    """Run the series in order and write a contents page."""
    from clipnotes.lab import study as lab_study

    keys = [key.strip() for key in only.split(",") if key.strip()]
    results = lab_study.study(preset, keys, resume, out, update, jobs or (3 if (os.cpu_count() or 1) > 1 else 1))
    click.echo(lab_study.summary(results))
    click.echo(f"Contents: {Path(out) / 'index.html'}")
    if any(facts["status"] != "complete" for facts in results):
        sys.exit(1)


@cli.group()
def data():
    """The data sets."""


_DATA_ROOT = click.option(
    "--data-root", envvar="CLIPNOTES_DATA", default="data", show_default=True, help="Folder of the data sets."
)


@data.command(name="list")
@_DATA_ROOT
def data_list(data_root):
    """Every data set with its counts, licence and whether it is here."""
    from clipnotes.data import list_datasets, load_manifest

    for name in list_datasets():
        manifest = load_manifest(name)
        splits = ", ".join(f"{split} {count}" for split, count in manifest.splits.items())
        click.echo(f"{name:<24} {manifest.status(data_root):<8} {len(manifest.classes):>4} classes  {splits}")
        click.echo(f"    {manifest.title} ({manifest.licence})")


@data.command(name="check")
@click.argument("name")
@_DATA_ROOT
def data_check(name, data_root):
    """Check that data set NAME is whole."""
    from clipnotes.data import check_dataset

    problems = check_dataset(name, data_root)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo(f"{name} is whole.")


@cli.group()
def pocket():
    """The small CLIP models that ship with the study."""


@pocket.command()
@click.argument("model", type=click.Choice(["pocket-vit", "pocket-rn"]))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the weights [default: under runs/].")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps [default: the recipe's].")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="A torch device: cpu, cuda, mps.")
@click.option("--resume/--fresh", default=True, show_default=True, help="Go on from the checkpoint in OUT.")
@click.option("--objective", type=click.Choice(["captions", "labels"]), default="captions", show_default=True,
              help="What is learnt from; with labels, an image tower alone.")
def pretrain(model, out, steps, seed, device, resume, objective):
    """Train a pocket CLIP from scratch on drawn pictures and captions."""
    from clipnotes.pocket.pretrain import pretrain

    name = model if objective == "captions" else f"{model}-classifier"
    path = pretrain(model, out or f"runs/{name}", steps=steps, seed=seed, device=device, resume=resume, objective=objective)
    click.echo(f"Weights: {path}")


@pocket.command(name="show")
@click.option("--card", type=click.Path(dir_okay=False), help="Write recipe and table as a model card, too.")
def pocket_show(card):
    """Zero-shot and 16-shot test accuracy (%) of the shipped models on every built-in data set."""
    from clipnotes.lab.card import transfer_tables, write_card

    tables = transfer_tables()
    for model, table in tables.items():
        click.echo(f"{model}\n{table.to_string()}\n")
    if card:
        write_card(card, tables)
        click.echo(f"Model card: {card}")


if __name__ == "__main__":
    main()
