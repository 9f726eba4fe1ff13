"""Hydra configs of `benchmarks.run`."""
