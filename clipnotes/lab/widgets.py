"""Sliders and menus for those who read a notebook in a browser; headless runs leave the static figures instead."""

import os


def in_browser():
    """Whether a Jupyter server or an editor started this kernel, so that somebody may move a slider."""
    return bool(os.environ.get("JPY_SESSION_NAME") or os.environ.get("VSCODE_PID"))


def explore(function, **controls):
    """Call `function` with the values of widgets, again at every change; headlessly say what is missed.

    controls: as `ipywidgets.interact` takes them, by argument name: (low, high, step), a list of choices, a widget.
    The function draws and shows; it records nothing.
    """
    if not in_browser():
        print("In JupyterLab sliders appear here.")
        return
    from ipywidgets import interact

    interact(function, **controls)
