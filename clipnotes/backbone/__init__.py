"""The frozen CLIP: loading, image and text encoding, classifiers from class names, adapters inside the image encoder."""
from clipnotes.backbone.adapters import AdaptedClip, Adapters, attach
from clipnotes.backbone.clip import Clip, load_clip
from clipnotes.backbone.text import classifier, template_features

__all__ = ["AdaptedClip", "Adapters", "Clip", "attach", "classifier", "load_clip", "template_features"]
