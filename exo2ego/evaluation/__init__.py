"""The experiments of section 4: sampling and scores."""
