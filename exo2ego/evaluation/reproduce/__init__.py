"""The runs that a table of the paper needs: listed, and done in order, each by our own commands."""
