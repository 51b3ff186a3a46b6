"""Rows as tables and curves, for terminals, files and papers."""
