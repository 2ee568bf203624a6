"""Words around computed numbers, right for one as for many."""


def plural(n, noun):
    """Text such as "1 data set" or "6 data sets"."""
    return f"{n} {noun}{'s' * (n != 1)}"


def mean_std(mean, std, digits=1):
    """Text such as "51.4 ± 0.6", or "51.4" where a single value has no standard deviation (NaN)."""
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if std == std else "")


def plus_minus(value, half, unit="points", of="data set", digits=1):
    """Text such as "+1.2 ± 0.3 points": a difference with the half width of its interval, or, where that is NaN since there is
    one data set (draw ...) only, that there is none."""
    number, unit = f"{value:+.{digits}f}", f" {unit}" if unit else ""
    return f"{number} ± {half:.{digits}f}{unit}" if half == half else f"{number}{unit}, one {of}, no interval"
