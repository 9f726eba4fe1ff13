from .accounting import Budget, BudgetError, Ledger
from .datasets.photos import DataError, Photos
from .decision import Block, DecisionError, DecisionSpace, block
from .env import DataGenEnv
from .learning import SGD, Adam, AdamW, Learner, ModuleLearner, Network, TrainingState
from .probing import Batched, Prober, Serial, WorkerError, Workers
from .problem import Data, Generator, Outcome, PartError, RenderError, SampleData, Status
from .registration import register_environments
from .replay import Replay
from .rollout import Problem, Rollout, SampleGradient, Slopes
from .samples import DenseSamples, KeypointSamples, LabelledImages, Samples, SamplesError
from .tasks import Metric, Picture, Task

__version__: str

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Batched",
    "Block",
    "Budget",
    "BudgetError",
    "Data",
    "DataError",
    "DataGenEnv",
    "DecisionError",
    "DecisionSpace",
    "DenseSamples",
    "Generator",
    "KeypointSamples",
    "LabelledImages",
    "Learner",
    "Ledger",
    "Metric",
    "ModuleLearner",
    "Network",
    "Outcome",
    "PartError",
    "Photos",
    "Picture",
    "Prober",
    "Problem",
    "RenderError",
    "Replay",
    "Rollout",
    "SampleData",
    "SampleGradient",
    "Samples",
    "SamplesError",
    "Serial",
    "Slopes",
    "Status",
    "Task",
    "TrainingState",
    "WorkerError",
    "Workers",
    "block",
    "register_environments",
]
