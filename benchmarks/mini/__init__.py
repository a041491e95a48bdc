"""How the miniature weights were made: `python -m benchmarks.mini`."""
