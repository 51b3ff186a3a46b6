"""Everything that a runs folder holds as one page for a browser, which needs no network and no server."""
