"""The lab: what a notebook itself calls, from `start` on. The names below are imported on first use."""

from importlib import import_module

_HOMES = {
    "start": "run",
    "Run": "run",
    "exercise": "exercises",
    "check": "display",
    "PALETTE": "figures",
    "use_style": "figures",
}
__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module 'clipnotes.lab' has no attribute {name!r}")
    return getattr(import_module(f"clipnotes.lab.{_HOMES[name]}"), name)


def __dir__():
    return sorted(__all__)
