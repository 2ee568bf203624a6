"""Methods: each takes features, learns, and yields logits; corrections yield better features."""
from clipnotes.methods.caches import APE, TipAdapter, TipX
from clipnotes.methods.caches_search import Grid
from clipnotes.methods.caches_tuned import TipAdapterF
from clipnotes.methods.corrections import Centring, FeatureAdapter, PCAProjection, Whitening, WithinClassWhitening
from clipnotes.methods.zero_shot import ZeroShot

__all__ = ["APE", "Centring", "FeatureAdapter", "Grid", "PCAProjection", "TipAdapter", "TipAdapterF", "TipX",
           "Whitening", "WithinClassWhitening", "ZeroShot"]
