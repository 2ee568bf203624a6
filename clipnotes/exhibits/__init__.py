"""From many runs to the papers' tables and figures, and the papers' own numbers beside them."""
