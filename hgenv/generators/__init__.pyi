from .black_box import BlackBox
from .distributions import cardioid, component, gaussian_mixture, von_mises, von_mises_mixture
from .faces import FaceGenerator
from .faces_lit import LitFaceGenerator
from .population import PopulationGenerator
from .quadratic import QuadraticGenerator
from .random import hash_integers, normals, uniforms
from .ray_actors import RayActors
from .shapes import ShapeGenerator
from .studio import StudioGenerator

__all__ = [
    "BlackBox",
    "FaceGenerator",
    "LitFaceGenerator",
    "PopulationGenerator",
    "QuadraticGenerator",
    "RayActors",
    "ShapeGenerator",
    "StudioGenerator",
    "cardioid",
    "component",
    "gaussian_mixture",
    "hash_integers",
    "normals",
    "uniforms",
    "von_mises",
    "von_mises_mixture",
]
