from .distributions import component, gaussian_mixture, von_mises, von_mises_mixture
from .faces import FaceGenerator
from .population import PopulationGenerator
from .quadratic import QuadraticGenerator
from .random import hash_integers, normals, uniforms
from .shapes import ShapeGenerator

__all__ = [
    "FaceGenerator",
    "PopulationGenerator",
    "QuadraticGenerator",
    "ShapeGenerator",
    "component",
    "gaussian_mixture",
    "hash_integers",
    "normals",
    "uniforms",
    "von_mises",
    "von_mises_mixture",
]
