"""Running notebooks without a person: one, the whole series, or a grid of parameters."""
