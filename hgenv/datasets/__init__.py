"""Real data, one set a file, and the built-in stand-ins."""

from .by_name import load_heads, load_model, load_photos
from .folder import VARIABLE, DataError

__all__ = ["VARIABLE", "DataError", "load_heads", "load_model", "load_photos"]
