"""What a result depends on beside its parameters: versions, commit, random seeds."""

import os
import platform
import random
import subprocess
from importlib.metadata import PackageNotFoundError, version

import clipnotes
from clipnotes.paths import checkout_dir

# Whose numbers end up in results.
LIBRARIES = ["torch", "torchvision", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "seaborn"]


def versions() -> dict[str, str]:
    """Return {name: version} of Python, clipnotes and the packages whose numbers end up in results."""
    found = {"python": platform.python_version(), "clipnotes": clipnotes.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_commit() -> str:
    """Return the commit of the checkout, with "-dirty" when files differ from it; "" outside one."""
    return git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")


def git(*words: str) -> str:
    """What the command git says of the checkout; "" outside one, and where git knows no answer."""
    root = checkout_dir()
    if root is None:
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet
        return ""
    return done.stdout.strip()


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch, and on a GPU ask torch for deterministic kernels; those of the CPU are.

    Where torch has no deterministic kernel it warns instead of failing, since a slightly different last digit
    is better than no result.
    """
    import numpy as np
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when CUDA starts
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():  # importing what this needs takes two seconds
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
