"""The environments that come with hgenv, one family a file."""
