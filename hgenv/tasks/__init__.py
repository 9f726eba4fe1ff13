"""What is learned: losses per sample, metrics with names and units, pictures."""

from .task import Metric, Picture, Task

__all__ = ["Metric", "Picture", "Task"]
