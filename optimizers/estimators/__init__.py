"""Estimators of dL/dbeta, one a file."""

from .antithetic import Antithetic
from .autosimulate import AutoSimulate
from .combined import Combined
from .credit import Credit
from .hybrid import Hybrid
from .pathwise import Pathwise
from .score_influence import ScoreInfluence

__all__ = ["Antithetic", "AutoSimulate", "Combined", "Credit", "Hybrid", "Pathwise", "ScoreInfluence"]
