"""The case of fused_training.py that is JAX: the same MLP and Adam under jit(vmap). Imports jax where it is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fused_training_models import Task
from torch import Tensor


def jax_case(task: Task) -> Callable[[], Tensor]:
    """Adam with weight decay in the gradient, as torch's; bias corrections without cancellation in float32."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != ("gpu" if task.device.type == "cuda" else "cpu"):
        raise RuntimeError(f"JAX runs on {jax.default_backend()}")
    jax.config.update("jax_default_matmul_precision", "float32")
    models, optimizers, clips = task.members()
    states = [list(model.parameters()) for model in models]
    params = [jnp.asarray(np.stack([own[k].detach().cpu().numpy() for own in states])) for k in range(len(states[0]))]
    groups = [optimizer.param_groups[0] for optimizer in optimizers]
    columns = {
        "lr": [group["lr"] for group in groups], "decay": [group["weight_decay"] for group in groups], "clip": clips,
        **{f"fresh{k}": [1 - group["betas"][k] for group in groups] for k in (0, 1)},
        **{f"log{k}": [math.log(group["betas"][k]) for group in groups] for k in (0, 1)},
    }  # fmt: skip
    own = {name: jnp.asarray(np.array(column, dtype=np.float32)) for name, column in columns.items()}
    x, y = (jnp.asarray(part.cpu().numpy()) for part in task.batch)
    classes = task.work.classes

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        for k in range(0, len(params), 2):
            x = (jax.nn.relu(x) if k else x) @ params[k].T + params[k + 1]
        if not classes:
            return jnp.mean((x - y) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

    def member(params: Any, first: Any, second: Any, own: Any, t: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, x, y)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in gradients))
        scale = jnp.minimum(1.0, own["clip"] / (norm + 1e-6))
        gradients = [g * scale + own["decay"] * p for g, p in zip(gradients, params)]
        first = [m + own["fresh0"] * (g - m) for m, g in zip(first, gradients)]
        second = [v + own["fresh1"] * (g * g - v) for v, g in zip(second, gradients)]
        size, root = own["lr"] / -jnp.expm1(t * own["log0"]), jnp.sqrt(-jnp.expm1(t * own["log1"]))
        return [p - size * m / (jnp.sqrt(v) / root + 1e-8) for p, m, v in zip(params, first, second)], first, second, loss

    stepped = jax.jit(jax.vmap(member, in_axes=(0, 0, 0, 0, None, None, None)), donate_argnums=(0, 1, 2))
    state: list[Any] = [params, [jnp.zeros_like(p) for p in params], [jnp.zeros_like(p) for p in params]]
    t = 0

    def update() -> Tensor:
        nonlocal t
        t += 1
        *state[:], losses = jax.block_until_ready(stepped(*state, own, np.float32(t), x, y))
        return torch.from_numpy(np.array(losses))

    return update
