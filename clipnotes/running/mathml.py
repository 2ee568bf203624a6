"""Formulas as MathML, which browsers draw by themselves; MathJax would be a download."""


def mathml(latex: str, display: str = "inline") -> str:
    """Return LaTeX as a <math> element; display: "inline" or "block"."""
    from latex2mathml.converter import convert

    # what it draws as aligned columns it knows by the name of split alone
    return convert(latex.strip().replace("{aligned}", "{split}"), display=display)
