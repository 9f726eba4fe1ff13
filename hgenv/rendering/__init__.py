"""Rendering, in families: solids made of primitives (`csg`), deformed meshes (`surfaces`), and their light (`shading`).

Each family has a protocol, a reference in torch, the same compiled for a CPU, and oracles that share nothing with them.
What is in this package is listed in `__init__.pyi`, and imported when it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
