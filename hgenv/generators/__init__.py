"""Generators, and what one needs to write another: random numbers that belong to a sample, and distributions.

What is in this package is listed in `__init__.pyi`, and imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
