"""Conformance kits: what every generator, learner, environment and optimizer has to do, as tests to inherit.

    from hgenv.testing import GeneratorConformance

    class TestMyGenerator(GeneratorConformance):
        def make(self):
            return MyGenerator()

pytest collects the inherited checks; so does any runner that calls methods named `test_*`. A failure says what to fix.
A check that does not apply raises `unittest.SkipTest`.
"""

from .environment import EnvironmentConformance
from .generator import GeneratorConformance
from .learner import LearnerConformance
from .optimizer import OptimizerConformance

__all__ = ["EnvironmentConformance", "GeneratorConformance", "LearnerConformance", "OptimizerConformance"]
