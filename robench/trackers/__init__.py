"""Trackers of experiments, which take the figures, settings and table of a finished evaluate."""
