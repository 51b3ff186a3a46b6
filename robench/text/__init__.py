"""What others have written, where it is shown: escaped for every format, and the ways to the terminal."""
