"""Methods: each takes features, learns, and yields logits; corrections yield better features."""
from clipnotes.methods.caches import TipAdapter, TipX
from clipnotes.methods.caches_ape import APE
from clipnotes.methods.caches_search import Grid
from clipnotes.methods.caches_tuned import TipAdapterF
from clipnotes.methods.corrections import Centring, FeatureAdapter, PCAProjection, Whitening, WithinClassWhitening
from clipnotes.methods.encoder_tuning import ImageEncoderFineTuning, TextEncoderTuning
from clipnotes.methods.losses import gce_loss
from clipnotes.methods.noisy_means import NoisyMeans, estimate_noise
from clipnotes.methods.probes import LinearProbe, LogisticProbe
from clipnotes.methods.prompts import PromptTuning
from clipnotes.methods.pseudo import ensemble_logits, select_pseudo_labels
from clipnotes.methods.robust_probes import RobustProbe
from clipnotes.methods.sgd import SGDConfig
from clipnotes.methods.strong_probes import EarlyStoppedProbe, LPPlusPlus
from clipnotes.methods.zero_shot import ZeroShot

__all__ = ["APE", "Centring", "EarlyStoppedProbe", "FeatureAdapter", "Grid", "ImageEncoderFineTuning", "LPPlusPlus",
           "LinearProbe", "LogisticProbe", "NoisyMeans", "PCAProjection", "PromptTuning", "RobustProbe", "SGDConfig",
           "TextEncoderTuning", "TipAdapter", "TipAdapterF", "TipX", "Whitening", "WithinClassWhitening", "ZeroShot",
           "ensemble_logits", "estimate_noise", "gce_loss", "select_pseudo_labels"]
