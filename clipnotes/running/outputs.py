"""Outputs that read well without a kernel: for pages, and for notebooks that are kept in the repository."""

_WIDGET = "application/vnd.jupyter.widget-view+json"


def readable(outputs: list) -> list:
    """The outputs of a cell without progress bars and warnings (stderr) and without widgets, which need a kernel."""
    return [output for output in outputs
            if not (output.output_type == "stream" and output.name == "stderr") and _WIDGET not in output.get("data", {})]
