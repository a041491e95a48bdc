"""A simulated world, written as a folder of Ego-Exo4D's own shape."""
