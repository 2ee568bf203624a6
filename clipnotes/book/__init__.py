"""The book: the executed notebooks of a study as one site, by Sphinx and MyST-NB."""
