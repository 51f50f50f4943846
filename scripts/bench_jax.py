"""The recurrences as jitted ``lax.scan`` in JAX, for scripts/bench kernels, which starts this where JAX is installed.

A conversation in lines of JSON: a configuration comes in and what it computed goes out; then numbers of steps come in
and the seconds they took go out. It needs jax and numpy alone, so that JAX may live in an environment of its own.

Axes: T time, B batch, D input features, H hidden, G gates.
"""
# pyright: reportMissingImports=false
# JAX is no dependency of seqmem, not even of its development.

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
    """A function of nothing: one forward and backward pass, compiled, with every gradient."""
    step, carries = STEPS[cell]

    def outputs(vectors: Any, w: Any, u: Any, bias: Any, tokens: Any) -> Any:
        xs = vectors if tokens is None else vectors[tokens]
        zeros = jnp.zeros((xs.shape[1], u.shape[1]), xs.dtype)
        # The whole sequence's input product stands before the scan, as torch and seqmem have it.
        return lax.scan(lambda carried, pre: step(pre, u, carried), (zeros,) * carries, xs @ w.T + bias)[1]

    def both(given: list[Any], random: Any, tokens: Any) -> Any:
        found, back = jax.vjp(lambda *given: outputs(*given, tokens), *given)
        return found, back(random)

    given = [jnp.asarray(arrays[name]) for name in ("inputs", "weight_input", "weight_hidden", "bias")]
    random = jnp.asarray(arrays["random"])
    tokens = jnp.asarray(arrays["tokens"]) if "tokens" in arrays else None
    ready = jax.jit(both).lower(given, random, tokens).compile()
    return lambda: jax.block_until_ready(ready(given, random, tokens))


def main() -> None:
    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)

    tiny = jax.jit(lambda x: x * 0.5)(jnp.float32(2e-38))
    say({"version": jax.__version__, "flushes_denormals": bool(tiny == 0)})
    run: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "cell" in asked:
            run = None  # the former arrays go before the new ones come
            with np.load(asked["arrays"]) as stored:
                arrays = {name: stored[name] for name in stored.files}
            run = compiled(asked["cell"], arrays)
            outputs, gradients = run()
            value = float((np.asarray(outputs) * arrays["random"]).sum())
            say({"value": value, "norms": [float(jnp.linalg.norm(gradient)) for gradient in gradients]})
        else:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(asked["steps"]):
                run()
            say({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
