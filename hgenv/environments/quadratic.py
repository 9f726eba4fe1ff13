"""`hgenv/Quadratic-v0`: a tiny problem with known answers, for tests, tutorials and the optimizers' conformance kit."""

from __future__ import annotations

from typing import Any

from ..env import DataGenEnv
from ..generators.quadratic import QuadraticGenerator
from ..learning.quadratic import QuadraticLearner
from ..learning.rules import SGD, Rule
from ..probing import Prober
from ..tasks.quadratic import point_data


class QuadraticEnv(DataGenEnv):
    """Move a cloud of points so that their mean, followed by SGD, ends at a hidden point.

    ## Decision vector (d = 4)

    | index | block | meaning | low | high | unit | initial |
    | --- | --- | --- | --- | --- | --- | --- |
    | 0-2 | position | mean of the points | -1 | 1 | 1 | 0 |
    | 3 | spread | their standard deviation along each axis | 0 | 1 | 1 | 0.5 |

    ## Observation, reward, end of the episode

    As in `DataGenEnv`: 6 numbers; -L with L half the squared distance of the weights to the hidden point; truncated
    after `max_updates` steps. The network is three numbers; K steps of plain SGD pull them to the mean of the points.

    ## Metrics

    `distance`: of the weights to the hidden point (validation) or to one beside it (test).

    ## Closed forms

    dL/dX and dL/dbeta are in `hgenv.learning.quadratic.QuadraticLearner`.

    ## Arguments

    | argument | meaning | default |
    | --- | --- | --- |
    | rule | how the weights are trained | `SGD(0.1)` |
    | unroll_steps, batch_size, max_updates | K, samples of each step, length of the episode | 4, 8, 100 |
    | device, prober, render_mode | see `DataGenEnv` | "cpu", None, None |

    ## Version history

    * v0: initial version.
    """

    # There is nothing to see. No ClassVar: see DataGenEnv.
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        *,
        rule: Rule = SGD(0.1),
        unroll_steps: int = 4,
        batch_size: int = 8,
        max_updates: int = 100,
        device: str = "cpu",
        prober: Prober | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(
            QuadraticGenerator(),
            QuadraticLearner(),
            point_data((0.6, -0.4, 0.5), "quadratic validation"),
            point_data((0.7, -0.5, 0.5), "quadratic test"),
            rule=rule,
            unroll_steps=unroll_steps,
            batch_size=batch_size,
            max_updates=max_updates,
            device=device,
            prober=prober,
            render_mode=render_mode,
        )
