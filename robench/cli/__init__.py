"""The command line: one file per command; each parses, builds a request, calls the harness and prints."""
