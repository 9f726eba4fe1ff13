"""`hgenv/ShapePopulation-v0`: the shapes one by one, as in "Shape from Shading through Shape Evolution" (CVPR 2018)."""

from __future__ import annotations

from ..generators.population import PopulationGenerator
from ..problem import Generator
from ..rendering.csg.analytic import AnalyticRenderer
from .shape_normals import ShapeNormalsEnv


class ShapePopulationEnv(ShapeNormalsEnv):
    """Tune a population of CSG trees so that a network sees surface normals in photos of real objects.

    ## Decision vector (d = 1632)

    {table}

    16 trees of up to 8 primitives, member by member and slot by slot; `hgenv.generators.population` says how the
    numbers are read. At first each member is one primitive: a sphere, a cylinder, a cube or a cone. A sample shows a
    member that its seed picks, in a random pose. Lengths are relative: every object is fitted into the frame. Light,
    texture and exposure are those of `ShapeNormals-v0`; with the generator's `lit`, beta holds the render block, too.

    """

    @staticmethod
    def default_generator(size: int) -> Generator:
        """See `ShapeNormalsEnv`."""
        return PopulationGenerator(AnalyticRenderer(size))


if ShapePopulationEnv.__doc__ and ShapeNormalsEnv.__doc__:  # python -OO has none
    table = PopulationGenerator().space.table().replace("\n", "\n    ")
    both = ShapeNormalsEnv.__doc__[ShapeNormalsEnv.__doc__.index("## Observation") :]
    ShapePopulationEnv.__doc__ = ShapePopulationEnv.__doc__.replace("{table}", table) + both.replace(
        "`ShapeGenerator` at that size", "`PopulationGenerator` at that size"
    )
