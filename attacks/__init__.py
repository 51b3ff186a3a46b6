"""In-tree attack plugins, one idea per file, installed as robench_attacks."""
