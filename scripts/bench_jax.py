"""The recurrences as a jitted ``lax.scan`` in JAX, and training steps: a subprocess of scripts/bench kernels and of
scripts/bench training, if JAX is installed.

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


def training_step(cell: str, rate: float = 3e-3, most: float = 1.0) -> Any:
    """A jitted update of embedding, cell and readout: cross-entropy at the last word, clipping, Adam.

    It maps (parameters, means, squares, step, tokens [T B], answers [B]) to the new first four and the loss.
    """
    step, carries = STEPS[cell]

    def loss(parameters: dict[str, Any], tokens: Any, answers: Any) -> Any:
        u = parameters["u"]
        zeros = jnp.zeros((tokens.shape[1], u.shape[1]), u.dtype)
        # W x of each word of the vocabulary, looked up: fewer products than W x of each timestep.
        table = parameters["vectors"] @ parameters["w"].T + parameters["bias"]
        (h, *_), _ = lax.scan(lambda carried, at: step(table[at], u, carried), (zeros,) * carries, tokens)
        logits = h @ parameters["readout"].T + parameters["readout_bias"]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), answers[:, None], 1).mean()

    def update(parameters: Any, means: Any, squares: Any, count: Any, tokens: Any, answers: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(parameters, tokens, answers)
        norm = jnp.sqrt(sum(jnp.sum(gradient**2) for gradient in gradients.values()))
        scale, count = jnp.minimum(1.0, most / (norm + 1e-6)), count + 1
        new: tuple[dict[str, Any], ...] = {}, {}, {}
        for name, parameter in parameters.items():
            gradient = gradients[name] * scale
            mean = 0.9 * means[name] + 0.1 * gradient
            square = 0.999 * squares[name] + 0.001 * gradient**2
            change = (mean / (1 - 0.9**count)) / (jnp.sqrt(square / (1 - 0.999**count)) + 1e-8)
            for to, array in zip(new, (parameter - rate * change, mean, square), strict=True):
                to[name] = array
        return *new, count, value

    return jax.jit(update, donate_argnums=(0, 1, 2, 3))


def train(cell: str, arrays: dict[str, np.ndarray], steps: int) -> dict[str, float]:
    """Seconds of ``steps`` updates, batches in turn, after the ones that compile; and the last loss."""
    batches = [
        (jnp.asarray(tokens), jnp.asarray(answers))
        for tokens, answers in zip(arrays["tokens"], arrays["answers"], strict=True)
    ]
    parameters = {name: jnp.asarray(array) for name, array in arrays.items() if name not in ("tokens", "answers")}
    means, squares = ({name: jnp.zeros_like(array) for name, array in parameters.items()} for _ in range(2))
    state: Any = parameters, means, squares, jnp.float32(0)
    update, value = training_step(cell), jnp.float32(0)
    cpu = wall = 0.0
    for index in range(-2, steps):
        if index == 0:
            jax.block_until_ready(state)
            cpu, wall = time.process_time(), time.perf_counter()
        *state, value = update(*state, *batches[index % len(batches)])
    jax.block_until_ready((state, value))
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": float(value)}


def main() -> None:
    def send(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    tiny = jax.jit(lambda x: x * 0.5)(jnp.float32(2e-38))
    send({"version": jax.__version__, "flushes_denormals": bool(tiny == 0)})
    run: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "train" in request:
            with np.load(request["arrays"]) as stored:
                send(train(request["train"], {name: stored[name] for name in stored.files}, request["steps"]))
        elif "cell" in request:
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
