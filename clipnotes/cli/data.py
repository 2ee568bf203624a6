"""The commands that get, check and encode data sets; see cli.py."""

import os
import sys

import click

from clipnotes.cli.once import Command, Group
from clipnotes.cli.places import FILE, FOLDER
from clipnotes.errors import ClipnotesError


@click.group(cls=Group)
def data():
    """The data sets."""


_DATA_ROOT = click.option(
    "--data-root", envvar="CLIPNOTES_DATA", default="data", show_default=True, help="Folder of the data sets.",
    callback=lambda context, option, folder: os.path.expanduser(folder),
)


@data.command(name="list")
@_DATA_ROOT
def data_list(data_root):
    """Every data set with its counts, licence, size and whether it is here."""
    from clipnotes.data import list_datasets, load_manifest
    from clipnotes.downloads import size_in_words

    for name in list_datasets():
        manifest = load_manifest(name)
        splits = ", ".join(f"{split} {count}" for split, count in manifest.counts.items())
        click.echo(f"{name:<24} {manifest.status(data_root):<8} {manifest.n_classes:>4} classes  {splits}")
        click.echo(f"    {manifest.title} ({manifest.licence}); {size_in_words(manifest, data_root)}")


@data.command(name="check")
@click.argument("name")
@_DATA_ROOT
def data_check(name, data_root):
    """Check that data set NAME is whole."""
    from clipnotes.downloads import check_dataset

    _fail(check_dataset(name, data_root))
    click.echo(f"{name} is whole.")


@data.command(name="fetch")
@click.argument("name")
@_DATA_ROOT
def data_fetch(name, data_root):
    """Download data set NAME, or say how to get it; a broken-off download goes on."""
    from clipnotes.downloads.download import DownloadError
    from clipnotes.downloads.fetch import fetch

    try:
        fetch(name, data_root, click.echo)
    except DownloadError as error:
        _fail([error])


@data.command(name="open-images")
@click.option("--images-csv", type=click.Path(dir_okay=False), help="Addresses, with the column Rotation.")
@click.option("--labels-csv", type=click.Path(dir_okay=False), help="Image labels verified by people.")
@click.option("--classes-csv", type=click.Path(dir_okay=False), help="Class descriptions.")
@click.option("--n-classes", type=click.IntRange(min=1), help="Classes to draw.")
@click.option("--per-class", type=click.IntRange(min=1), help="Training images of each.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Of the draw.")
@click.option("--exclude", multiple=True, metavar="DATASET", help="Leave out the class names of this data set; repeatable.")
@click.option("--from", "list_csv", type=click.Path(dir_okay=False),
              help="Draw nothing: fetch the images of this list (open_images.csv, or columns ImageID and DisplayName).")
@click.option("--out", required=True, type=FOLDER, help="Folder to make, such as data/open_images.")
def data_open_images(list_csv, images_csv, out, **draw):
    """Make a generic data set from Open Images: a draw by seed from its official CSV files, or the images of a list."""
    from clipnotes.downloads.download import DownloadError
    from clipnotes.downloads.open_images import build_subset, rebuild_subset

    needed = {"--images-csv": images_csv} | {f"--{name.replace('_', '-')}": draw[name]
                                             for name in ("labels_csv", "classes_csv", "n_classes", "per_class")}
    missing = [option for option, value in needed.items() if value is None]
    if missing and not list_csv:
        raise ClipnotesError(f"{', '.join(missing)} is missing; give all of {', '.join(needed)}, or a list with --from.")
    if list_csv and (extra := [option for option in list(needed)[1:] if option not in missing]):
        raise ClipnotesError(f"{', '.join(extra)} has no meaning with --from, which fetches exactly the list; leave it out.")
    try:
        problems = (rebuild_subset(list_csv, out, images_csv, click.echo) if list_csv
                    else build_subset(images_csv, out=out, report=click.echo, **draw))
    except DownloadError as error:
        problems = [error]
    _fail(problems)


def _fail(problems):
    """Print problems on stderr and leave with exit code 1, if there are any."""
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)


@click.command(cls=Command)
@click.option("--dataset", required=True, metavar="NAME", help="A data set, a manifest's file, or folder:PATH of images.")
@click.option("--model", default="pocket-vit", show_default=True, help="pocket-vit, pocket-rn or a model of open_clip.")
@click.option("--pretrained", help="Weights, a tag or a file [default: the usual ones].")
@click.option("--out", required=True, type=FILE, help="File to write, .npz or .safetensors.")
@_DATA_ROOT
@click.option("--shots", default=0, show_default=True, type=click.IntRange(min=0), help="Training images a class, 0 for all.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1),
              help="Of the draw of the shots, and of the views.")
@click.option("--views", default=1, show_default=True, type=click.IntRange(1, 64),
              help="Random views of every training image, 1 for the plain one.")
@click.option("--batch-size", default=64, show_default=True, type=click.IntRange(1, 65536))
@click.option("--workers", type=click.IntRange(0, 256),
              help="Processes that read images [default: all cores but one beside a GPU, else one].")
@click.option("--device", default="auto", show_default=True, help="A torch device: cpu, cuda, mps.")
def features(dataset, model, pretrained, out, data_root, shots, seed, views, batch_size, workers, device):
    """Encode a data set into FILE: features, labels, class names and text features, for the parameter `features`.

    Features are kept in the cache, too; an encoding that was broken off goes on where it was.
    """
    from clipnotes.backbone import load_clip
    from clipnotes.data import encode_task, load_task
    from clipnotes.data.feature_files import check_file_name

    check_file_name(out)  # before the work
    task = load_task(dataset, shots, seed, data_root)
    bank = encode_task(load_clip(model, pretrained, device), task, batch_size, workers=workers, views=views, view_seed=seed)
    bank.save(out)
    shapes = ", ".join(f"{split} {'x'.join(map(str, part.x.shape))}" for split, part in bank.splits.items())
    click.echo(f"{out}: {shapes}, {bank.n_classes} classes")


@click.command(name="real-clip", cls=Command)
@click.option("--features-dir", required=True, type=click.Path(file_okay=False), metavar="DIR",
              help="Feature files: those with test images are measured, the others are the generic images.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the tables; those that are there stay.")
def real_clip(features_dir, out):
    """Measure stored features of a real CLIP: the tables that the notebooks draw beside the pocket models.

    Overlap and its histograms, cache models, variance, PCA and probes under noise, before and after corrections. Takes about
    twenty minutes of one core for the public ViT-B/32 features.
    """
    from clipnotes.exhibits.real_clip_tables import make

    make(features_dir, out, report=click.echo)
