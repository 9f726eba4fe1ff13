"""Optimizers of decision vectors, one a file."""

from .base import GradientOptimizer, Optimizer
from .basic_random_search import BasicRandomSearch
from .evolution import Evolution
from .fixed import Fixed
from .hybrid_gradient import HybridGradient
from .random_search import RandomSearch

REGISTRY: dict[str, type[Optimizer]] = {
    "hybrid_gradient": HybridGradient,
    "basic_random_search": BasicRandomSearch,
    "evolution": Evolution,
    "random_search": RandomSearch,
    "fixed": Fixed,
}

__all__ = [
    "REGISTRY",
    "BasicRandomSearch",
    "Evolution",
    "Fixed",
    "GradientOptimizer",
    "HybridGradient",
    "Optimizer",
    "RandomSearch",
]
