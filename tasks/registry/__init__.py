"""The versions of a registered model: what `register` writes and promotion decides."""
