"""Training a defense, and what becomes of it in the store."""
