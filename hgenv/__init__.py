"""hgenv: environments whose action tunes a generator of synthetic training data for a network.

`import hgenv` registers `hgenv/ShapeNormals-v0`, `hgenv/ShapeNormalsLit-v0`, `hgenv/FaceDepth-v0` and
`hgenv/Quadratic-v0` with Gymnasium.
"""

from .accounting import Budget, BudgetError, Ledger
from .batch import Batch
from .datasets.photos import DataError, Photos
from .decision import Block, DecisionError, DecisionSpace, block
from .env import DataGenEnv, Generator, Outcome, Status
from .learning.unroll import SGD, Learner, TrainingState, credits, sample_gradient, train
from .registration import register_environments
from .rendering import RenderError
from .workers import WorkerError

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Batch",
    "Block",
    "Budget",
    "BudgetError",
    "DataError",
    "DataGenEnv",
    "DecisionError",
    "DecisionSpace",
    "Generator",
    "Learner",
    "Ledger",
    "Outcome",
    "Photos",
    "RenderError",
    "Status",
    "TrainingState",
    "WorkerError",
    "block",
    "credits",
    "register_environments",
    "sample_gradient",
    "train",
]

register_environments()
