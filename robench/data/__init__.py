"""Datasets: their names, where their pixels come from, splits with stable ids and digests."""
