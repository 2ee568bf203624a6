"""Analysis: what features look like, how well they transfer, what wrong labels do."""
from clipnotes.analysis.confusion import Confusion, averaged_confusion, confusion
from clipnotes.analysis.gradients import gradient_ratio
from clipnotes.analysis.overlap import Overlap, cross_overlap, overlap
from clipnotes.analysis.robustness import noisy_accuracies, noisy_shots
from clipnotes.analysis.statistics import mean_ci, sides
from clipnotes.analysis.transfer import linear_probe_accuracy, transfer_table

__all__ = ["Confusion", "Overlap", "averaged_confusion", "confusion", "cross_overlap", "gradient_ratio",
           "linear_probe_accuracy", "mean_ci", "noisy_accuracies", "noisy_shots", "overlap", "sides", "transfer_table"]
