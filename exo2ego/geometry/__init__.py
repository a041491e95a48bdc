"""Cameras, lenses and rays: pure maths that knows nothing of the rest."""
