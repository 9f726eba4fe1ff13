"""Runs, comparisons and reports; see `benchmarks.run`, `benchmarks.compare` and `benchmarks.report`."""
