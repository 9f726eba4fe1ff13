from .dense import DenseTask
from .depth import DepthTask
from .normals import NormalsTask
from .quadratic import QuadraticTask
from .task import Metric, Picture, Task

__all__ = ["DenseTask", "DepthTask", "Metric", "NormalsTask", "Picture", "QuadraticTask", "Task"]
