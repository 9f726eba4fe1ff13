"""What one sitting at a machine with a GPU is for: `python -m benchmarks.gpu`, see `__main__`."""
