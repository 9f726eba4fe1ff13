"""The environments' ids."""

from __future__ import annotations

import gymnasium

ENVIRONMENTS = {
    "hgenv/ShapeNormals-v0": "hgenv.environments.shape_normals:ShapeNormalsEnv",
    "hgenv/ShapeNormalsLit-v0": "hgenv.environments.shape_normals:ShapeNormalsLitEnv",
    "hgenv/ShapePopulation-v0": "hgenv.environments.shape_population:ShapePopulationEnv",
    "hgenv/ShapeNormalsStudio-v0": "hgenv.environments.shape_normals:ShapeNormalsStudioEnv",
    "hgenv/FaceDepth-v0": "hgenv.environments.face_depth:FaceDepthEnv",
    "hgenv/FaceDepthLit-v0": "hgenv.environments.face_depth:FaceDepthLitEnv",
    "hgenv/Quadratic-v0": "hgenv.environments.quadratic:QuadraticEnv",
}


def register_environments() -> None:
    """Make all ids known to `gymnasium.make`; twice is harmless."""
    for name, entry_point in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point=entry_point)
