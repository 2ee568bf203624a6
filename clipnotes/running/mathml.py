"""Formulas as MathML, which browsers draw by themselves; MathJax would be a download."""


def mathml(latex: str, display: str = "inline") -> str:
    """Return LaTeX as a <math> element; display: "inline" or "block"."""
    from latex2mathml.converter import convert

    return convert(in_known_words(latex.strip()), display=display)


def in_known_words(latex: str) -> str:
    """LaTeX in the words that latex2mathml knows: aligned columns by the name of split alone, and no arg."""
    return latex.replace("{aligned}", "{split}").replace(r"\arg\max", r"\operatorname{arg} \max")
