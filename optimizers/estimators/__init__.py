"""Estimators of dL/dbeta, one a file."""

from .antithetic import Antithetic
from .autosimulate import AutoSimulate
from .centred_ranks import CentredRanks
from .combined import Combined
from .credit import Credit
from .guided import Guided
from .hybrid import Hybrid
from .pathwise import Pathwise
from .reinforce import Reinforce
from .score_influence import ScoreInfluence
from .spsa import SPSA

__all__ = [
    "SPSA",
    "Antithetic",
    "AutoSimulate",
    "CentredRanks",
    "Combined",
    "Credit",
    "Guided",
    "Hybrid",
    "Pathwise",
    "Reinforce",
    "ScoreInfluence",
]
