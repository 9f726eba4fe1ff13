"""Optimizers of decision vectors, one a file."""

from .base import GradientOptimizer, Optimizer
from .basic_random_search import BasicRandomSearch
from .credit_gradient import CreditGradient
from .evolution import Evolution
from .fixed import Fixed
from .hybrid_gradient import HybridGradient
from .random_search import RandomSearch

REGISTRY: dict[str, type[Optimizer]] = {
    "hybrid_gradient": HybridGradient,
    "credit_gradient": CreditGradient,
    "basic_random_search": BasicRandomSearch,
    "evolution": Evolution,
    "random_search": RandomSearch,
    "fixed": Fixed,
}

__all__ = [
    "REGISTRY",
    "BasicRandomSearch",
    "CreditGradient",
    "Evolution",
    "Fixed",
    "GradientOptimizer",
    "HybridGradient",
    "Optimizer",
    "RandomSearch",
]
