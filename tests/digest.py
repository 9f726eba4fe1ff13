"""Prints what a few updates give, to the last bit: `python -m tests.digest <environment> [threads of torch]`."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import torch
from torch import Tensor

import hgenv
from hgenv import Network
from hgenv.environments.quadratic import QuadraticEnv
from hgenv.environments.shape_normals import ShapeNormalsLitEnv
from hgenv.optimizers import REGISTRY


def digest(name: str) -> dict[str, str]:
    """What reset, steps, probes, gradients and updates of an optimizer give, hashed one by one."""
    small = {"network": Network(size=16), "unroll_steps": 2, "batch_size": 4, "device": "cpu"}
    env = QuadraticEnv() if name == "Quadratic" else ShapeNormalsLitEnv(**small)
    found: dict[str, Any] = {"reset": env.reset(seed=5)}
    optimizer = REGISTRY["hybrid_gradient"](env.space, seed=3, period=1)
    for _ in range(2):
        optimizer.update(env)
    found["updates"] = [optimizer.recommendation, env.outcome, env.state.tensors]
    assert env.last is not None
    assert env.last.samples is not None
    found["samples"] = list(env.last.samples.tensors)
    found["gradient"] = [env.last.influence(), *env.last.sample_gradient().samples.tensors]
    found["probes"] = env.probe(env.space.random(1)[None])
    found["scores"] = [env.test_metrics(), env.validation_metrics(), dict(env.ledger.counts)]
    found["random"] = env.np_random.bit_generator.state
    return {what: hashlib.sha256(repr(plain(value)).encode()).hexdigest()[:16] for what, value in found.items()}


def plain(value: Any) -> Any:
    """The same with bytes for tensors."""
    if isinstance(value, Tensor):
        return value.contiguous().numpy().tobytes()
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return [plain(value.beta), value.loss] if isinstance(value, hgenv.Outcome) else value


if __name__ == "__main__":
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(digest(sys.argv[1])))
