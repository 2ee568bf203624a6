"""The one exception for mistakes that a user can mend."""


class ClipnotesError(ValueError):
    """Bad input, said in one sentence: what was wrong, its value, what is allowed, what to do.

    The command line prints the sentence alone, without a traceback.
    """
