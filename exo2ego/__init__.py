"""Nouns of the paper Exo2EgoSyn: geometry, model, training, evaluation."""
