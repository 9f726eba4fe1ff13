"""The paper's probabilistic shape grammar (section 5.1, appendix A.2), sampled for a whole batch at once.

    S => E;  E => C(E, T(E)) | P;  C => union | subtract
    P => sphere | cube | truncated_cone | tetrahedron
    T => attach * rand_translate * rand_rotate * rand_scale

The derivation tree is laid out in a complete binary tree of the configured depth, in heap order; every node owns a
fixed block of random numbers, used or not, so that beta never shifts a draw. What the paper leaves open is defined so:

- **Depth.** A node at the deepest level is always a primitive; depth 3 allows 8 primitives.
- **Sizes.** Lengths are log-normal: exp(mean + deviation * z). Only their ratios count: objects are fitted into
  the view.
- **attach** moves the origin of the right operand onto the surface of the left operand's first primitive (its leftmost
  leaf, which stands untransformed in the operand's own coordinates): to the point where a ray from that primitive's
  centre in a uniformly random direction leaves it. Then rand_translate displaces it, rand_rotate turns it uniformly,
  rand_scale scales its axes by log-normal factors.
- **Root.** The finished object is turned by a uniformly random rotation.
- **Fitting into the view.** The exact screen rectangle of all primitives that add to the solid (subtracted ones do
  not count) is centred, and its longer side is scaled to `FIT` of the frame; depth is centred alike.
"""

from __future__ import annotations

from torch import Tensor

from ...device import compiled_kernels_serve
from . import reference
from .layout import NUMBERS_PER_NODE, Shape, numbers_needed, shape_blocks
from .reference import union_of_parts
from .scores import log_prob_score

__all__ = [
    "NUMBERS_PER_NODE",
    "Shape",
    "log_prob_score",
    "numbers_needed",
    "shape_blocks",
    "shapes",
    "union_of_parts",
]


def shapes(beta: dict[str, Tensor], uniform: Tensor, depth: int) -> Shape:
    """B objects fitted into the view: compiled on a CPU, in torch elsewhere.

    Args:
        beta: Blocks of `shape_blocks` by name, each (B, size), as `DecisionSpace.split` gives them.
        uniform: (B, `numbers_needed(depth)`) in (0, 1), on the same device.
        depth: Levels below the root.
    """
    if not compiled_kernels_serve(uniform):
        return reference.shapes(beta, uniform, depth)
    from . import compiled  # late: loading or compiling the kernels takes a moment

    return compiled.shapes(beta, uniform, depth)
