"""Optimizers of decision vectors: compositions of an estimator and a rule, and a few that are neither.

A composition is made by naming its parts; what is not named has the tuned value that stands here:

    hybrid_gradient(space, seed=0, rule=RMSprop(0.01, momentum=0.9))
    GradientOptimizer(space, Antithetic(num_directions=8), Adam(0.02), seed=0, period=4)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .base import Estimator, GradientOptimizer, Optimizer, Proposal, UnsuitableError
from .estimators import Antithetic, Combined, Credit, Hybrid, Pathwise, ScoreInfluence
from .evolution import Evolution
from .fixed import Fixed
from .random_search import RandomSearch
from .rules import SGD, Adam, RMSprop, Rule
from .shape_evolution import ShapeEvolution
from .shrinkage import Shrinkage

# The paper's experiments, made cheaper and steadier.
hybrid_gradient = partial(
    GradientOptimizer,
    estimator=Hybrid(),
    rule=RMSprop(0.005, momentum=0.9),
    period=2,
    shrinkage=Shrinkage(),
)
# As the paper has it: equations 10 to 12, appendix A.2; what it does not state is tuned.
hybrid_gradient_paper = partial(
    GradientOptimizer,
    estimator=Hybrid(
        directions="gaussian",
        num_directions=16,
        shared=True,
        last_steps=None,
        curvature=True,
        pathwise=False,
        clip_samples=False,
    ),
    rule=RMSprop(0.02, decay_updates=30),
    bounds="clip",
)
credit_gradient = partial(
    GradientOptimizer,
    estimator=Credit(),
    rule=RMSprop(0.01, momentum=0.9, decay_updates=30),
    period=2,
    shrinkage=Shrinkage(),
)
score_influence = partial(
    GradientOptimizer,
    estimator=ScoreInfluence(),
    rule=RMSprop(0.01, momentum=0.9, decay_updates=30),
    period=2,
    shrinkage=Shrinkage(),
)
# Derivatives where the generator has them, score influence elsewhere.
combined = partial(
    GradientOptimizer,
    estimator=Combined(),
    rule=RMSprop(0.01, momentum=0.9, decay_updates=30),
    period=2,
    shrinkage=Shrinkage(),
)
basic_random_search = partial(
    GradientOptimizer,
    estimator=Antithetic(),
    rule=RMSprop(0.015, decay_updates=30),
    period=4,
)
# Algorithms 1 and 2 (V1-t) of Mania, Guy and Recht, at every update.
basic_random_search_paper = partial(GradientOptimizer, estimator=Antithetic(num_directions=4), rule=SGD(0.1))
augmented_random_search = partial(
    GradientOptimizer, estimator=Antithetic(num_directions=4, normalize=True, best=2), rule=SGD(0.01)
)


class _Registry(dict[str, Callable[..., Optimizer]]):
    """Optimizers by name; a name that is not there is answered with those that are."""

    def __missing__(self, name: str) -> Callable[..., Optimizer]:
        raise KeyError(f"there is no optimizer {name!r}; there are {', '.join(self)}")


# Those that work on any decision space; ShapeEvolution is for one kind alone.
REGISTRY = _Registry(
    {
        "hybrid_gradient": hybrid_gradient,
        "hybrid_gradient_paper": hybrid_gradient_paper,
        "credit_gradient": credit_gradient,
        "score_influence": score_influence,
        "combined": combined,
        "basic_random_search": basic_random_search,
        "basic_random_search_paper": basic_random_search_paper,
        "augmented_random_search": augmented_random_search,
        "evolution": Evolution,
        "random_search": RandomSearch,
        "fixed": Fixed,
    }
)

__all__ = [
    "REGISTRY",
    "SGD",
    "Adam",
    "Antithetic",
    "Combined",
    "Credit",
    "Estimator",
    "Evolution",
    "Fixed",
    "GradientOptimizer",
    "Hybrid",
    "Optimizer",
    "Pathwise",
    "Proposal",
    "RMSprop",
    "RandomSearch",
    "Rule",
    "ScoreInfluence",
    "ShapeEvolution",
    "Shrinkage",
    "UnsuitableError",
    "augmented_random_search",
    "basic_random_search",
    "basic_random_search_paper",
    "combined",
    "credit_gradient",
    "hybrid_gradient",
    "hybrid_gradient_paper",
    "score_influence",
]
