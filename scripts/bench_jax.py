"""The recurrences as a jitted ``lax.scan`` in JAX: a subprocess of scripts/bench kernels, if JAX is installed.

It speaks JSON, a line for each message: it answers a configuration with results, and a number of steps with the seconds
they take. It needs only jax and numpy, so that JAX can have its own environment.

Axes: T time, B batch, D input features, H hidden, G gates.
"""
# pyright: reportMissingImports=false
# JAX is not a dependency of seqmem, not even for development.

import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def rnn(pre: Any, u: Any, carried: Any) -> Any:
    (h,) = carried
    new = jnp.tanh(pre + h @ u.T)
    return (new,), new


def lstm(pre: Any, u: Any, carried: Any) -> Any:
    h, c = carried
    i, f, g, o = jnp.split(pre + h @ u.T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(pre: Any, u: Any, carried: Any) -> Any:
    (h,) = carried
    x_r, x_z, x_n = jnp.split(pre, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(h @ u.T, 3, axis=-1)
    z = jax.nn.sigmoid(x_z + h_z)
    new = (1 - z) * jnp.tanh(x_n + jax.nn.sigmoid(x_r + h_r) * h_n) + z * h
    return (new,), new


STEPS = {"rnn": (rnn, 1), "lstm": (lstm, 2), "gru": (gru, 1)}


def compiled(cell: str, arrays: dict[str, np.ndarray]) -> Any:
    """A function without arguments: one compiled forward and backward pass with all gradients."""
    step, carries = STEPS[cell]

    def outputs(vectors: Any, w: Any, u: Any, bias: Any, tokens: Any) -> Any:
        xs = vectors if tokens is None else vectors[tokens]
        zeros = jnp.zeros((xs.shape[1], u.shape[1]), xs.dtype)
        # The input product of the whole sequence comes before the scan, as in torch and seqmem.
        return lax.scan(lambda carried, pre: step(pre, u, carried), (zeros,) * carries, xs @ w.T + bias)[1]

    def both(arguments: list[Any], random: Any, tokens: Any) -> Any:
        primal, backward = jax.vjp(lambda *arguments: outputs(*arguments, tokens), *arguments)
        return primal, backward(random)

    arguments = [jnp.asarray(arrays[name]) for name in ("inputs", "weight_input", "weight_hidden", "bias")]
    random = jnp.asarray(arrays["random"])
    tokens = jnp.asarray(arrays["tokens"]) if "tokens" in arrays else None
    function = jax.jit(both).lower(arguments, random, tokens).compile()
    return lambda: jax.block_until_ready(function(arguments, random, tokens))


def main() -> None:
    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    tiny = jax.jit(lambda x: x * 0.5)(jnp.float32(2e-38))
    send({"version": jax.__version__, "flushes_denormals": bool(tiny == 0)})
    run: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "cell" in request:
            run = None  # free the old arrays first
            with np.load(request["arrays"]) as stored:
                arrays = {name: stored[name] for name in stored.files}
            run = compiled(request["cell"], arrays)
            outputs, gradients = run()
            value = float((np.asarray(outputs) * arrays["random"]).sum())
            send({"value": value, "norms": [float(jnp.linalg.norm(gradient)) for gradient in gradients]})
        else:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(request["steps"]):
                run()
            send({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
