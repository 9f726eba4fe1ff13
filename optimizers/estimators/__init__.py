"""Estimators of dL/dbeta, one a file."""

from .antithetic import Antithetic
from .credit import Credit
from .hybrid import Hybrid

__all__ = ["Antithetic", "Credit", "Hybrid"]
