"""Verbs, offline: from a dataset's folders to clips, from clips to the cached latent store."""
