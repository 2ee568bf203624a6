"""clipnotes: an interactive study of two papers on adapting CLIP. Nothing heavy is imported here."""

__version__ = "0.1.0"
