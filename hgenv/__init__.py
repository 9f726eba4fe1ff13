"""hgenv: environments whose action tunes a generator of synthetic training data for a network.

`import hgenv` registers `hgenv/ShapeNormals-v0`, `hgenv/ShapeNormalsLit-v0`, `hgenv/ShapeNormalsStudio-v0`,
`hgenv/ShapePopulation-v0`, `hgenv/FaceDepth-v0`, `hgenv/FaceDepthLit-v0` and `hgenv/Quadratic-v0` with Gymnasium. What
is in this package is listed in `__init__.pyi`, and imported when it is first asked for: the import alone does not load
torch.
"""

import lazy_loader

from .registration import register_environments

__version__ = "0.2.0.dev0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_environments()
