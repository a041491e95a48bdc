"""Bytes: what lies on disk and what it is called."""
