"""A paper's table as data, and how it is reproduced."""
