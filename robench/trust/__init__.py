"""Whether a figure can be believed: gradient-masking gates, and stored images checked again."""
