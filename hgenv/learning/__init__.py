"""Networks as functions of their weights, update rules, and the unrolled gradient."""

from .dense import DenseLearner, Network
from .first_order import influence, sample_gradient_without_curvature, virtual_influence
from .learner import Learner, training_loss, validation_loss
from .module import ModuleLearner, with_group_norm
from .newton import newton_influence
from .quadratic import QuadraticLearner
from .rules import SGD, Adam, AdamW, Rule, TrainingState
from .unroll import StepGradient, sample_gradient, train

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "DenseLearner",
    "Learner",
    "ModuleLearner",
    "Network",
    "QuadraticLearner",
    "Rule",
    "StepGradient",
    "TrainingState",
    "influence",
    "newton_influence",
    "sample_gradient",
    "sample_gradient_without_curvature",
    "train",
    "training_loss",
    "validation_loss",
    "virtual_influence",
    "with_group_norm",
]
