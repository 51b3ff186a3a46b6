"""Where tasks run: in this process, or on the workers of a Ray cluster. Nothing here knows of attacks."""
