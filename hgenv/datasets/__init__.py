"""Real data, one set a file, and the built-in stand-in."""
