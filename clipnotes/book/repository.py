"""Where the notebooks of a book can be opened to work in them: its buttons for Binder, Colab and the repository."""

import re

from clipnotes.errors import ClipnotesError, shown
from clipnotes.lab.provenance import git

GITHUB = re.compile(r"(?:https://github\.com/|git@github\.com:|ssh://git@github\.com/)([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


def buttons(address: str = "") -> dict:
    """Options of sphinx-book-theme for the repository at `address`; none where it is unknown.

    Without an address it is that of the remote `origin` of this checkout, so that a fork has buttons of its own. Both services
    open notebooks of GitHub alone. Raises ClipnotesError for an address that is not there.
    """
    found = GITHUB.fullmatch(address or git("remote", "get-url", "origin"))
    if found is None:
        if address:
            raise ClipnotesError(f"Option --repository is {shown(address)}, but must be an address on GitHub, such as "
                                 "https://github.com/NAME/clipnotes.")
        return {}
    return {
        "repository_url": f"https://github.com/{found[1]}/{found[2]}",
        "repository_branch": git("branch", "--show-current") or "main",
        "path_to_docs": "notebooks",
        "use_repository_button": True,
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com",
                           "notebook_interface": "jupyterlab"},
    }
