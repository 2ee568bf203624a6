"""Getting data sets: downloads, archives, checks, and subsets of Open Images."""
from clipnotes.downloads.check import check_dataset, size_in_words

__all__ = ["check_dataset", "size_in_words"]
