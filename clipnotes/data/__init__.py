"""Data sets: manifests, tasks (splits and shots), cached features."""
from clipnotes.data.bank import FeatureBank, FeatureSplit
from clipnotes.data.features import encode_task
from clipnotes.data.manifests import list_datasets, load_manifest
from clipnotes.data.noise import NoisyLabels, corrupt_labels
from clipnotes.data.shots import read_few_shot, use_few_shot, write_few_shot
from clipnotes.data.tasks import Task, few_shot, load_task

__all__ = ["FeatureBank", "FeatureSplit", "NoisyLabels", "Task", "corrupt_labels", "encode_task", "few_shot", "list_datasets",
           "load_manifest", "load_task", "read_few_shot", "use_few_shot", "write_few_shot"]
