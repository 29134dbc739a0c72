"""Random draws that belong to a member: inside `with own_randomness(key)` torch draws from (key, number of the call) alone.

Torch's generators give numbers in the order in which they are asked, so in a stack a member's would depend on who its neighbours
are. Here every draw of torch is replaced, by a function mode, with the hash of counter.py. A member that is trained alone and the
same member in slot 137 of 256 drop the same units, eager and compiled.

Laws:
1. A draw depends on the key, on how many draws there were before it in this step, and on the element's place, and on nothing
   else. Each call of dropout in training mode is one draw whatever its `p`, so that a member with p = 0 counts as others do.
2. Nothing draws from a global generator in silence. What is not replaced raises OwnRandomnessError: known names at the call;
   under vmap whatever else is random, by randomness="error"; and at the end of the block whatever moved a generator all the same.
3. In evaluation mode, and with p = 0, dropout gives its very input back.
4. A generator= of the user's own, an out= and a vmap of the user's own around a draw raise: the first would be shared by all
   members, the last would draw the same for all its samples.
5. Inside of torch.utils.checkpoint, which computes once more in the backward pass, torch itself draws, so that both draws are one: from
   its own generators, and in a stack that raises.

mode.py         the block, and the table of what is replaced
draws.py        torch.rand and its kin, and tensors that are filled in place
samples.py      Bernoulli, multinomial, Gamma, Dirichlet: what torch.distributions draws with
dropout.py      dropout, rrelu, gumbel_softmax
composites.py   attention and recurrent layers
This file adds what draws and is not replaced, and is the one to import from.

Measured on one CPU core: dropout of (128, 4096) float32 takes half of F.dropout's time, 2.0 ms; a block under vmap 0.13 ms, a small
draw in it 0.22 ms; each other call of torch 1 us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F, init

from . import composites, draws, dropout, forms, samples  # noqa: F401  (each notes in REPLACED what it stands for)
from .mode import REPLACED, OwnRandomnessError, key_of, own_randomness

__all__ = ["REPLACED", "OwnRandomnessError", "key_of", "own_randomness"]

_REFUSED = (
    "binomial poisson native_dropout rrelu_with_noise rrelu_with_noise_ svd_lowrank pca_lowrank lobpcg fractional_max_pool2d "
    "fractional_max_pool2d_with_indices fractional_max_pool3d fractional_max_pool3d_with_indices uniform_ normal_ trunc_normal_ "
    "xavier_uniform_ xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ sparse_ _fused_dropout _cudnn_rnn miopen_rnn"
)
"""What is known to draw and is not replaced (law 2)."""


def _refuse(names: str) -> Iterator[tuple[Any, Callable[..., Any]]]:
    for name in names.split():
        for place in (torch, Tensor, F, init):
            if hasattr(place, name):

                def refused(own: own_randomness, *_: Any, called: str = name, **__: Any) -> Any:
                    raise OwnRandomnessError(called, "draws from a global generator")

                yield getattr(place, name), refused


REPLACED.update({func: refused for func, refused in _refuse(_REFUSED) if func not in REPLACED})
