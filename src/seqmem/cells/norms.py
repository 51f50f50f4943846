"""L2 norms of gradients, over all of float64's range.

Axes: R rows.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def row_norms(rows: Float[Tensor, "R _"]) -> Float[Tensor, " R"]:
    """The L2 norm of each row, also where its squares would underflow or overflow."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    # Squares underflow, and overflow, at the root of the range: scale such rows by their largest entry first.
    least, most = norms.aminmax()
    if not (least > 1e-140 and most < 1e150):
        extreme = ~((norms > 1e-140) & (norms < 1e150))
        chosen = rows[extreme]
        largest = chosen.abs().amax(1, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        norms[extreme] = torch.linalg.vector_norm(chosen / scale, dim=1) * scale[:, 0]
    return norms
