"""Runs, comparisons and reports; see `hgenv run`, `hgenv compare` and `hgenv report`."""
