"""What one sitting at a machine with a GPU is for: `python -m hgenv.benchmarks.gpu`, see `__main__`."""
