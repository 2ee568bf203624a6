"""Analysis: what features look like and how well they transfer."""
from clipnotes.analysis.overlap import Overlap, cross_overlap, overlap
from clipnotes.analysis.statistics import mean_ci
from clipnotes.analysis.transfer import linear_probe_accuracy, transfer_table

__all__ = ["Overlap", "cross_overlap", "linear_probe_accuracy", "mean_ci", "overlap", "transfer_table"]
