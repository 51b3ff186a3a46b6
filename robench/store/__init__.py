"""The runs folder: files that are whole or absent, identities, models, evaluations, claims."""
