"""The report: one self-contained page on a result, or on two that are compared clip by clip."""
