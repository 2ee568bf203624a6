"""The frozen CLIP: loading, image and text encoding, classifiers from class names."""
from clipnotes.backbone.clip import Clip, load_clip
from clipnotes.backbone.text import classifier, template_features

__all__ = ["Clip", "classifier", "load_clip", "template_features"]
