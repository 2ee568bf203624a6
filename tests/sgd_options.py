"""Constructor arguments of trained methods for tests, in short."""

from clipnotes.methods.recipes import settings


def sgd_options(**options):
    """The options with those that are fields of `SGDConfig` gathered in `sgd`, the rest of it as in the paper."""
    return settings("Linear Probe", **options)
