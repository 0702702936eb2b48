"""The report of a training run: what happened, what was promised and what was spent, as one page for a person."""
