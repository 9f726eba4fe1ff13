"""Probes in antithetic pairs: what estimators that difference L along random directions share."""

from __future__ import annotations

import torch
from torch import Tensor

from hgenv import DataGenEnv


def probe_pairs(env: DataGenEnv, center: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Probe center + delta_j and center - delta_j, all from the same weights and sample seeds.

    A failed probe takes its pair out.

    Args:
        env: The environment.
        center: (d,) normalized.
        delta: (J, d) in fractions of each component's range.

    Returns:
        (K, 2) losses ahead and behind of the K pairs that worked, and (K, d) what lay between the two ends: 2 delta,
        less what the projection onto the valid set cut off.
    """
    space, count = env.space, len(delta)
    ahead, behind = (space.project(space.denormalize(center + sign * delta)) for sign in (1.0, -1.0))
    outcomes = env.probe(torch.cat([ahead, behind]))
    pairs = list(zip(outcomes[:count], outcomes[count:], strict=True))
    kept = torch.tensor([plus.ok and minus.ok for plus, minus in pairs])
    losses = torch.tensor([(p.loss, m.loss) for p, m in pairs if p.ok and m.ok], dtype=torch.float64).reshape(-1, 2)
    return losses, (space.normalize(ahead) - space.normalize(behind))[kept]
