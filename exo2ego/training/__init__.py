"""The training of section 3.5: one loop, stages as data."""
