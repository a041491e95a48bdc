"""Numbers that the project promises, each measured beside its own bar in one run."""
