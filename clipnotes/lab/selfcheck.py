"""The self-check line after a derivation: is our result the reference's?"""

import numpy as np


def check(name, ours, reference, tolerance=1e-5):
    """Print whether `ours` equals `reference` exactly, closely, and the largest difference; return if close.

    Both are numbers, arrays or tensors of one shape; close: |difference| <= tolerance * (1 + |reference|).
    Nothing is raised: another shape or a NaN prints as a difference and returns False.
    """
    ours, reference = (np.asarray(_plain(value), dtype=float) for value in (ours, reference))
    if ours.shape != reference.shape:
        print(f"{name:<32} shapes differ: {ours.shape} and {reference.shape}")
        return False
    exact = bool(np.array_equal(ours, reference))
    close = bool(np.allclose(ours, reference, rtol=tolerance, atol=tolerance))
    largest = np.abs(ours - reference).max(initial=0.0)
    print(f"{name:<32} exact: {_word(exact)}  close: {_word(close)}  max difference: {largest:.1e}")
    return close


def _plain(value):
    return value.detach().cpu().numpy() if hasattr(value, "detach") else value


def _word(truth):
    return "yes" if truth else "no "
