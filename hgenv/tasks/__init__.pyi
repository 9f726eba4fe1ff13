from .classification import ClassificationTask, SegmentationTask
from .dense import DenseTask
from .depth import DepthTask
from .keypoints import KeypointTask
from .normals import NormalsTask
from .quadratic import QuadraticTask
from .regression import RegressionTask
from .task import Metric, Picture, Task

__all__ = [
    "ClassificationTask",
    "DenseTask",
    "DepthTask",
    "KeypointTask",
    "Metric",
    "NormalsTask",
    "Picture",
    "QuadraticTask",
    "RegressionTask",
    "SegmentationTask",
    "Task",
]
