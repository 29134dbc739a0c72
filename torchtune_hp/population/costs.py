"""What an update of a member costs a CPU, beside what a step of a stack costs it whatever lies in it.

Measured on one of two cores with Adam, MLPs 9-w-w'-1 with dropout, batches of 8 and 64, stacks of 4 and 16: a step took some 2.7 ms and
in addition, for each member, what `OF_PARAMETER`, `OF_PRODUCT` and `OF_UNIT` say in shares of that. Other machines scale both alike, more
or less: only shares are used.

Laws:
1. It follows from the member alone: its layers, at given widths, and its batch size.
2. It is None where there are layers of which that does not follow: what a convolution costs, images decide.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

OF_PARAMETER, OF_PRODUCT, OF_UNIT = 3.5e-6, 1e-7, 3.7e-6
"""For each parameter: its update, and that of the optimizer's state; for each parameter and sample; for each unit of a layer and sample."""

_SMALL = (nn.LayerNorm, nn.BatchNorm1d)


def cost(model: nn.Module, sizes: Mapping[tuple[str, str], int], batch: int) -> float | None:
    """Of an update in shares of a step. `sizes`: (path, attribute) -> a width in the place of the model's own."""
    found = 0.0
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            takes, gives = (sizes.get((path, name), getattr(module, name)) for name in ("in_features", "out_features"))
            parameters = (takes + 1) * gives
            found += parameters * (OF_PARAMETER + batch * OF_PRODUCT) + gives * batch * OF_UNIT
        elif isinstance(module, nn.Embedding):
            wide = sizes.get((path, "embedding_dim"), module.embedding_dim)
            found += module.num_embeddings * wide * OF_PARAMETER + batch * wide * OF_UNIT
        elif module._parameters and not isinstance(module, _SMALL):
            return None
    return found
