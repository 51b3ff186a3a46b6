"""Detectors: features, the score made of them, fitting on validation images, and what they find."""
