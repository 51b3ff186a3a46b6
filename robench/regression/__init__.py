"""A baseline of kept outcomes, and models of today checked against it."""
