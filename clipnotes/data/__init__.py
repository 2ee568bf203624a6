"""Data sets: manifests, tasks (splits and shots), cached features."""
from clipnotes.data.features import FeatureBank, encode_task
from clipnotes.data.manifests import check_dataset, list_datasets, load_manifest
from clipnotes.data.noise import NoisyLabels, corrupt_labels
from clipnotes.data.tasks import Task, few_shot, load_task

__all__ = ["FeatureBank", "NoisyLabels", "Task", "check_dataset", "corrupt_labels", "encode_task", "few_shot", "list_datasets",
           "load_manifest", "load_task"]
