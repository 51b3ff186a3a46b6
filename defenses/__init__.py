"""In-tree defense plugins, one idea per file, installed as robench_defenses."""
