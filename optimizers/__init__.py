"""Optimizers of decision vectors: compositions of an estimator and a rule, and a few that are neither.

A composition is made by naming its parts; what is not named has the tuned value that stands here:

    hybrid_gradient(space, seed=0, rule=RMSprop(0.01, momentum=0.9))
    GradientOptimizer(space, Antithetic(num_directions=8), Adam(0.02), seed=0, period=4)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .ask_tell import AskTell, AskTellError
from .base import Estimator, GradientOptimizer, Optimizer, Proposal, UnsuitableError
from .cmaes_lra import CMAESLRA
from .estimators import (
    SPSA,
    Antithetic,
    AutoSimulate,
    CentredRanks,
    Combined,
    Credit,
    Guided,
    Hybrid,
    Pathwise,
    Reinforce,
    ScoreInfluence,
)
from .evolution import Evolution
from .fixed import Fixed
from .optuna_search import OptunaSearch
from .particles import NoiseReuseES, ParticleES, PersistentES
from .random_search import QuasiRandomSearch, RandomSearch
from .rules import SGD, Adam, PowerSGD, RMSprop, Rule
from .shape_evolution import ShapeEvolution
from .shrinkage import Shrinkage
from .snes import SNES

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
# The published rival: its gradient descent, with the steps of RMSprop, since lengths of gradients differ by thousands.
autosimulate = partial(
    GradientOptimizer,
    estimator=AutoSimulate(),
    rule=RMSprop(0.01, decay_updates=30),
    period=2,
)
# Derivatives where the generator has them, score influence elsewhere, and that only where it stands out of its noise.
combined = partial(
    GradientOptimizer,
    estimator=Combined(),
    rule=RMSprop(0.01, momentum=0.9, decay_updates=30),
    period=2,
    shrinkage=Shrinkage(memory=0.9, threshold=2.0),
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
# What Learning to Simulate and Meta-Sim do.
reinforce = partial(
    GradientOptimizer,
    estimator=Reinforce(),
    rule=RMSprop(0.015, decay_updates=30),
    period=4,
)
spsa = partial(GradientOptimizer, estimator=SPSA(), rule=PowerSGD(0.1, decay_updates=20), period=2)
openai_es = partial(GradientOptimizer, estimator=CentredRanks(), rule=Adam(0.02), period=4)
guided_es = partial(
    GradientOptimizer,
    estimator=Guided(),
    rule=RMSprop(0.015, decay_updates=30),
    period=4,
)
# Nevergrad's, one by one; `evolution` takes any by name.
diagonal_cma = partial(Evolution, name="DiagonalCMA")
de = partial(Evolution, name="TwoPointsDE")
one_plus_one = partial(Evolution, name="OnePlusOne")
pso = partial(Evolution, name="RealSpacePSO")  # PSO itself starts with half of its swarm at the bounds
tbpsa = partial(Evolution, name="TBPSA")


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
        "autosimulate": autosimulate,
        "basic_random_search": basic_random_search,
        "basic_random_search_paper": basic_random_search_paper,
        "augmented_random_search": augmented_random_search,
        "reinforce": reinforce,
        "spsa": spsa,
        "openai_es": openai_es,
        "guided_es": guided_es,
        "noise_reuse_es": NoiseReuseES,
        "persistent_es": PersistentES,
        "snes": SNES,
        "evolution": Evolution,
        "diagonal_cma": diagonal_cma,
        "cmaes_lra": CMAESLRA,
        "tbpsa": tbpsa,
        "one_plus_one": one_plus_one,
        "de": de,
        "pso": pso,
        "optuna": OptunaSearch,
        "random_search": RandomSearch,
        "quasi_random_search": QuasiRandomSearch,
        "fixed": Fixed,
    }
)

__all__ = [
    "CMAESLRA",
    "REGISTRY",
    "SGD",
    "SNES",
    "SPSA",
    "Adam",
    "Antithetic",
    "AskTell",
    "AskTellError",
    "AutoSimulate",
    "CentredRanks",
    "Combined",
    "Credit",
    "Estimator",
    "Evolution",
    "Fixed",
    "GradientOptimizer",
    "Guided",
    "Hybrid",
    "NoiseReuseES",
    "Optimizer",
    "OptunaSearch",
    "ParticleES",
    "Pathwise",
    "PersistentES",
    "PowerSGD",
    "Proposal",
    "QuasiRandomSearch",
    "RMSprop",
    "RandomSearch",
    "Reinforce",
    "Rule",
    "ScoreInfluence",
    "ShapeEvolution",
    "Shrinkage",
    "UnsuitableError",
    "augmented_random_search",
    "autosimulate",
    "basic_random_search",
    "basic_random_search_paper",
    "combined",
    "credit_gradient",
    "de",
    "diagonal_cma",
    "guided_es",
    "hybrid_gradient",
    "hybrid_gradient_paper",
    "one_plus_one",
    "openai_es",
    "pso",
    "reinforce",
    "score_influence",
    "spsa",
    "tbpsa",
]
