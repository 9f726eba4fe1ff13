"""Hydra configs of `hgenv run`."""
