"""The project's own generators and environments keep the promises that third parties are held to."""

import gymnasium
import pytest

from hgenv import DataGenEnv
from hgenv.datasets import standin_faces
from hgenv.env import Generator
from hgenv.generators.faces import FaceGenerator
from hgenv.generators.quadratic import QuadraticGenerator
from hgenv.generators.shapes import ShapeGenerator
from hgenv.rendering.analytic import AnalyticRenderer
from hgenv.testing import EnvironmentConformance, GeneratorConformance


class TestQuadraticGenerator(GeneratorConformance):
    tolerance = 1e-6

    def make(self) -> Generator:
        return QuadraticGenerator()


@pytest.mark.parametrize("lit", [False, True], scope="class")
class TestShapeGenerator(GeneratorConformance):
    lit = False

    @pytest.fixture(autouse=True)
    def choose(self, lit: bool) -> None:
        self.lit = lit

    def make(self) -> Generator:
        return ShapeGenerator(AnalyticRenderer(32), lit=self.lit)


class TestFaceGenerator(GeneratorConformance):
    def make(self) -> Generator:
        return FaceGenerator(standin_faces.model(), size=32)


class TestFaceDepth(EnvironmentConformance):
    difference = 3e-3
    tolerance = 5e-2

    def make(self) -> DataGenEnv:
        kwargs = {"size": 32, "unroll_steps": 2, "batch_size": 4}
        return gymnasium.make("hgenv/FaceDepth-v0", disable_env_checker=True, **kwargs).unwrapped


class TestQuadratic(EnvironmentConformance):
    tolerance = 1e-6

    def make(self) -> DataGenEnv:
        return gymnasium.make("hgenv/Quadratic-v0", disable_env_checker=True).unwrapped


@pytest.mark.parametrize("name", ["ShapeNormals", "ShapeNormalsLit"], scope="class")
class TestShapeNormals(EnvironmentConformance):
    difference = 1e-2
    tolerance = 5e-2
    check_render = False  # in test_env.py

    @pytest.fixture(autouse=True)
    def choose(self, name: str) -> None:
        self.name = name

    def make(self) -> DataGenEnv:
        kwargs = {"size": 32, "unroll_steps": 2, "batch_size": 4}
        return gymnasium.make(f"hgenv/{self.name}-v0", disable_env_checker=True, **kwargs).unwrapped
