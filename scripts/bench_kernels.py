"""Speed of the native kernels. Run it with scripts/bench kernels [--quick].

One step is the forward and the backward pass of one layer in float32, over tokens with learned embeddings of 32
numbers: from a fixed gradient of the outputs to the gradients of all weights and embeddings. --dense reads vectors of
32 real numbers instead, with their gradient. Compared, in turns, on pinned cores, with denormals flushed for all:

    native      the cell with kernel=native
    nn          torch.nn's layer with default settings
    loop        a Python loop over the cell's step that retains the gradient of every hidden state
    floor       only the matrix products that every implementation needs, by torch's BLAS
    jax         a jitted lax.scan, if JAX is installed

A turn is as many steps as take 20 ms; every figure is a median of at least 5 turns (3 for loop and jax, if they are
slow). On one thread CPU time counts, because other processes do not lengthen it; on two threads wall time counts.

Axes: T time, B batch, D input features, H hidden, G gates.
"""

import argparse
import gc
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "outputs" / ".bench"  # the input of scripts/bench report
INPUT_SIZE = 32
VOCABULARY = 121  # words of task=pronoun
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TURN = 0.02  # least seconds of a turn
LONG = 10_000  # timesteps of the sequence in the memory check

# Largest ratios of seconds: (geometric mean over the grid, worst of the grid or None).
LIMITS: dict[str, dict[str, tuple[float, float | None]]] = {
    "native/nn, 1 thread": {"rnn": (0.39, 0.75), "lstm": (0.66, 0.95), "gru": (0.36, 0.65)},
    "native/nn, 2 threads": {"rnn": (0.28, None), "lstm": (0.58, None), "gru": (0.28, None)},
    "native/floor, 1 thread": {"rnn": (1.40, None), "lstm": (1.40, None), "gru": (1.40, None)},
    "native/jax, 1 thread": {"rnn": (1.0, 1.0), "lstm": (1.0, 1.0), "gru": (1.0, 1.0)},
    "2 threads/1 thread, batch 128": {"rnn": (1 / 1.5, None), "lstm": (1 / 1.5, None), "gru": (1 / 1.5, None)},
}
QUICK_SLACK = 1.25  # factor on the limits for --quick, which measures only part of the grid, briefly
MEMORY_LIMIT = 4.0  # GB of a process with a sequence of LONG timesteps


@dataclass(frozen=True, order=True)
class Configuration:
    cell: str
    seq_len: int
    batch_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.cell:<4} T={self.seq_len:<5} B={self.batch_size:<4} H={self.hidden_size:<4}"


FULL = [
    Configuration(cell, t, b, h) for cell in GATES for t in (50, 200, 1000) for b in (32, 128) for h in (64, 128, 256)
]
QUICK = [
    Configuration(cell, t, b, h) for cell in GATES for t in (50, 200) for b, h in ((32, 64), (32, 256), (128, 128))
]
BIG = Configuration("lstm", 1000, 128, 256)

Timing = dict[str, float]
"""``wall`` and ``cpu``: median seconds of a step; ``turns``: their number; ``spread``: (q3 - q1)/median of CPU time."""


@dataclass(frozen=True)
class Measured:
    configuration: Configuration
    threads: int
    sides: dict[str, Timing]

    def ratio(self, above: str, below: str) -> float | None:
        """Ratio of two sides' seconds; None if one was not measured."""
        if above not in self.sides or below not in self.sides:
            return None
        clock = "cpu" if self.threads == 1 else "wall"
        return self.sides[above][clock] / self.sides[below][clock]


class NoKernels(RuntimeError):
    """The native kernels are not built here; the message says why."""


class Disagreement(RuntimeError):
    """Two sides compute different numbers."""


# The sides. Import torch inside: its threads run on the cores that the process is pinned to at import.


def native_kernels() -> None:
    """Check that there are native kernels.

    Raises:
        NoKernels: there are none.
    """
    from seqmem.kernels import loading

    library = loading.load()
    if isinstance(library, loading.Unavailable):
        raise NoKernels(f"no native kernels: {library.reason}")


class Problem:
    """One configuration: its inputs, its weights, and the sides that compute it.

    A side is a method that does one step and returns (outputs, gradients of inputs, W, U, bias).
    """

    def __init__(self, configuration: Configuration, *, dense: bool) -> None:
        import torch

        from seqmem.cells import CELLS

        self.configuration = configuration
        cell, t, b, h = configuration.cell, configuration.seq_len, configuration.batch_size, configuration.hidden_size
        torch.manual_seed(0)
        options: dict[str, Any] = {} if cell == "rnn" else {"seq_len": t}
        self.cell: Any = CELLS[cell](INPUT_SIZE, h, **options)
        self.tokens = None if dense else torch.randint(VOCABULARY, (t, b))
        vectors = (t, b, INPUT_SIZE) if dense else (VOCABULARY, INPUT_SIZE)
        self.inputs = torch.randn(*vectors, requires_grad=True)
        self.random = torch.randn(t, b, h)
        kind: Any = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
        self.layer = kind(INPUT_SIZE, h)
        with torch.no_grad():
            self.layer.weight_ih_l0.copy_(self.cell.weight_input)
            self.layer.weight_hh_l0.copy_(self.cell.weight_hidden)
            self.layer.bias_ih_l0.copy_(self.cell.bias)
            self.layer.bias_hh_l0.zero_()

    def _step(self, outputs: Callable[[], Any], weights: list[Any]) -> tuple[Any, list[Any]]:
        """Forward and backward, with a fixed gradient of the outputs: the loss is not part of the layer."""
        result = outputs()
        result.backward(self.random)
        return result.detach(), self._gradients(weights)

    def _gradients(self, weights: list[Any]) -> list[Any]:
        gradients = []
        for tensor in (self.inputs, *weights):
            gradients.append(tensor.grad)
            tensor.grad = None
        return gradients[:4]

    def native(self, threads: int) -> tuple[Any, list[Any]]:
        if not hasattr(self.cell, "kernel"):  # setting it would silently measure torch's kernel
            raise NoKernels("no native kernels: the cells have no attribute kernel")
        self.cell.kernel, self.cell.threads = "native", threads
        weights = [self.cell.weight_input, self.cell.weight_hidden, self.cell.bias]
        return self._step(self._native, weights)

    def _native(self) -> Any:
        if self.tokens is None:
            return self.cell(self.inputs)[0]
        return self.cell.forward_tokens(self.tokens, self.inputs)[0]

    def _vectors(self) -> Any:
        import torch.nn.functional as F

        return self.inputs if self.tokens is None else F.embedding(self.tokens, self.inputs)

    def nn(self) -> tuple[Any, list[Any]]:
        layer = self.layer
        weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
        return self._step(lambda: layer(self._vectors())[0], weights)

    def loop(self) -> tuple[Any, list[Any]]:
        import torch

        def outputs() -> Any:
            state, sequence = self.cell.initial_state(self.configuration.batch_size), []
            for x in self._vectors().unbind(0):
                output, state = self.cell.step(x, state)
                output.retain_grad()
                sequence.append(output)
            return torch.stack(sequence)

        return self._step(outputs, [self.cell.weight_input, self.cell.weight_hidden, self.cell.bias])

    def numbers(self, step: tuple[Any, list[Any]]) -> tuple[float, list[float]]:
        """Fingerprint of a step: (sum of outputs * their gradient, norms of the gradients)."""
        outputs, gradients = step
        return float((outputs * self.random).sum()), [float(gradient.norm()) for gradient in gradients]

    def arrays(self) -> dict[str, Any]:
        """Inputs and weights for another framework."""
        cell = self.cell
        tensors = {"inputs": self.inputs, "random": self.random, "bias": cell.bias}
        tensors |= {"weight_input": cell.weight_input, "weight_hidden": cell.weight_hidden}
        if self.tokens is not None:
            tensors["tokens"] = self.tokens
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


class Products:
    """The matrix products of a step, into preallocated buffers.

    ``X W``, its two gradients, and dU are products over the whole sequence (for tokens: over the vocabulary); ``h U``
    and the gradient through it need one product for each timestep. Weights have the layout that is fastest.
    """

    def __init__(self, configuration: Configuration, *, dense: bool) -> None:
        import torch

        t, b, h = configuration.seq_len, configuration.batch_size, configuration.hidden_size
        gates = GATES[configuration.cell] * h
        rows = t * b if dense else VOCABULARY
        self.inputs, self.w, self.w_back = (
            torch.randn(rows, INPUT_SIZE),
            torch.randn(INPUT_SIZE, gates),
            torch.randn(gates, INPUT_SIZE),
        )
        self.hidden = torch.randn(t, b, h)
        self.u, self.u_back = torch.randn(h, gates), torch.randn(gates, h)
        self.gates = torch.randn(t, b, gates)
        self.out_gates, self.out_hidden = torch.empty(t, b, gates), torch.empty(t, b, h)
        self.rows, self.out_rows = torch.randn(rows, gates), torch.empty(rows, gates)
        self.out_inputs = torch.empty_like(self.inputs)
        self.out_w, self.out_u = torch.empty(gates, INPUT_SIZE), torch.empty(gates, h)
        self.one = torch.ones(1, 1)

    def step(self) -> None:
        import torch

        mm, u, u_back = torch.mm, self.u, self.u_back
        mm(self.inputs, self.w, out=self.out_rows)
        for hidden, gates in self.forward_slices:
            mm(hidden, u, out=gates)
        for gates, hidden in self.backward_slices:
            mm(gates, u_back, out=hidden)
        gates = self.gates.flatten(0, 1)
        mm(self.rows, self.w_back, out=self.out_inputs)
        mm(self.rows.T, self.inputs, out=self.out_w)
        mm(gates.T, self.hidden.flatten(0, 1), out=self.out_u)

    def prepare(self) -> None:
        """Create the views of all timesteps in advance; in a compiled loop they would cost nothing."""
        self.forward_slices = list(zip(self.hidden.unbind(0), self.out_gates.unbind(0), strict=True))
        self.backward_slices = list(zip(self.gates.unbind(0), self.out_hidden.unbind(0), strict=True))[::-1]

    def calls(self) -> None:
        """The same number of calls on 1 x 1 matrices: the overhead of Python and the dispatcher in ``step``."""
        import torch

        mm, one, out = torch.mm, self.one, self.one.clone()
        for _ in self.forward_slices:
            mm(one, one, out=out)
        for _ in self.backward_slices:
            mm(one, one, out=out)
        for _ in range(4):
            mm(one, one, out=out)


class Jax:
    """scripts/bench_jax.py in a subprocess on the same core; it is idle while other sides run."""

    def __init__(self, python: str, folder: Path) -> None:
        environment = {
            **os.environ,
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
            "JAX_PLATFORMS": "cpu",
        }
        self._process = subprocess.Popen(
            [python, str(ROOT / "scripts" / "bench_jax.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = folder
        self.about = self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process with JAX ended; its output stands above")
        return json.loads(line)

    def _request(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._receive()

    def load(self, problem: Problem) -> tuple[float, list[float]]:
        """Compile ``problem``; returns its ``Problem.numbers``."""
        import numpy as np

        path = self._folder / "arrays.npz"
        np.savez(path, **problem.arrays())
        answer = self._request({"cell": problem.configuration.cell, "arrays": str(path)})
        return answer["value"], answer["norms"]

    def train(self, cell: str, arrays: "dict[str, Any]", steps: int) -> dict[str, float]:
        """``train`` of scripts/bench_jax.py."""
        import numpy as np

        path = self._folder / "training.npz"
        np.savez(path, **arrays)
        return self._request({"train": cell, "arrays": str(path), "steps": steps})

    def run(self, steps: int) -> tuple[float, float]:
        answer = self._request({"steps": steps})
        return answer["wall"], answer["cpu"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def find_jax(python: str | None) -> str | None:
    """A Python with JAX: ``python``, or this one; None if neither."""
    import importlib.util

    if python is not None:
        return python
    return sys.executable if importlib.util.find_spec("jax") is not None else None


# Turns

Turn = Callable[[int], tuple[float, float]]
"""A function from a number of steps to their (wall, CPU) seconds."""


def turn(step: Callable[[], Any]) -> Turn:
    def timed(steps: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(steps):
            step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu

    return timed


def with_threads(threads: int, timed: Turn) -> Turn:
    def inner(steps: int) -> tuple[float, float]:
        import torch

        torch.set_num_threads(threads)
        return timed(steps)

    return inner


def products_turn(products: Products) -> Turn:
    """The products' seconds without the overhead of their calls."""
    together, calls = turn(products.step), turn(products.calls)

    def timed(steps: int) -> tuple[float, float]:
        (wall, cpu), (wall_calls, cpu_calls) = together(steps), calls(steps)
        return wall - wall_calls, cpu - cpu_calls

    return timed


def own_floor(configuration: Configuration) -> Turn | None:
    """The native library's own products, if it has ``functions.floor(cell, T, B, D, H, threads)``."""
    try:
        from seqmem.kernels import functions
    except ImportError:
        return None
    floor = getattr(functions, "floor", None)
    if floor is None:
        return None
    c = configuration
    return turn(lambda: floor(c.cell, c.seq_len, c.batch_size, INPUT_SIZE, c.hidden_size, 1))


def take_turns(turns: dict[str, Turn], budget: float) -> dict[str, Timing]:
    """Time all sides in rounds, for ``budget`` seconds but at least 5 rounds (3 for loop and jax).

    Every side is warmed up already. So the first round, of one step each, counts for sides whose turn is one step.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    steps, cost = {}, {}
    for name, timed in turns.items():
        wall, cpu = timed(1)
        steps[name] = max(1, min(50, int(TURN / max(wall, 1e-6))))
        cost[name] = wall * steps[name]
        if steps[name] == 1:
            seconds[name].append((wall, cpu))
    slow = {name for name in turns if name in ("loop", "jax")}
    rounds = max(5, min(15, int(budget / sum(cost[name] for name in turns if name not in slow))))
    counts = {name: max(3, min(rounds, int(budget / cost[name]))) if name in slow else rounds for name in turns}
    for _ in range(rounds):
        for name, timed in turns.items():
            if len(seconds[name]) < counts[name]:
                wall, cpu = timed(steps[name])
                seconds[name].append((wall / steps[name], cpu / steps[name]))
    return {name: _timing(pairs) for name, pairs in seconds.items()}


def _timing(seconds: list[tuple[float, float]]) -> Timing:
    wall, cpu = ([pair[i] for pair in seconds] for i in (0, 1))
    low, _, high = statistics.quantiles(cpu, n=4)
    middle = statistics.median(cpu)
    return {
        "wall": statistics.median(wall),
        "cpu": middle,
        "turns": len(seconds),
        "spread": (high - low) / middle if middle else 0.0,
    }


def agree(what: str, numbers: tuple[float, list[float]], reference: tuple[float, list[float]]) -> None:
    """Compare outputs and gradient norms, with a tolerance for float32 on long sequences.

    Raises:
        Disagreement: they differ.
    """
    for name, a, b in zip(
        ("outputs", "inputs", "W", "U", "bias"), (numbers[0], *numbers[1]), (reference[0], *reference[1]), strict=True
    ):
        scale = abs(b) if name != "outputs" else max(abs(b), 1.0)
        if not abs(a - b) <= 2e-3 * scale:
            raise Disagreement(f"{what}: {name} is {a:.6g}, and {b:.6g} by torch.nn")


def one_thread(
    configuration: Configuration, jax: Jax | None, budget: float, *, native: bool, loop: bool, dense: bool
) -> Measured:
    problem, products = Problem(configuration, dense=dense), Products(configuration, dense=dense)
    products.prepare()
    reference = problem.numbers(problem.nn())
    turns: dict[str, Turn] = {"nn": turn(problem.nn)}
    if native:
        agree(f"{configuration} native", problem.numbers(problem.native(1)), reference)
        turns = {"native": turn(lambda: problem.native(1)), **turns}
    if loop:
        agree(f"{configuration} loop", problem.numbers(problem.loop()), reference)
        turns["loop"] = turn(problem.loop)
    products.step()
    turns["products (torch)"] = products_turn(products)
    if native and (own := own_floor(configuration)) is not None:
        turns["products (native)"] = own
        own(1)
    if jax is not None:
        agree(f"{configuration} jax", jax.load(problem), reference)
        turns["jax"] = jax.run
    timings = take_turns(turns, budget)
    floors = [timings[name] for name in timings if name.startswith("products")]
    timings["floor"] = min(floors, key=lambda timing: timing["cpu"])
    return Measured(configuration, 1, timings)


def two_threads(configuration: Configuration, budget: float, *, side: str, dense: bool) -> Measured:
    """``side``: ``native``, which also times ``native, 1 thread``, or ``nn``; each side needs its own process.

    torch's idle threads spin on the cores that the native kernels would use; with native kernels seqmem gives torch one
    thread.
    """
    problem = Problem(configuration, dense=dense)
    turns: dict[str, Turn] = {}
    if side == "native":
        turns["native"] = turn(lambda: problem.native(2))
        turns["native, 1 thread"] = turn(lambda: problem.native(1))
        agree(
            f"{configuration} native, 2 threads", problem.numbers(problem.native(2)), problem.numbers(problem.native(1))
        )
    else:
        turns["nn"] = turn(problem.nn)
        problem.nn()
    return Measured(configuration, 2, take_turns(turns, budget))


# A process for each number of threads: a thread's affinity is fixed when it starts.


def usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(threads: int, *, of: Sequence[int] | None = None) -> None:
    """Restrict this process and its children to ``threads`` cores (of these), if the system supports it."""
    if hasattr(os, "sched_setaffinity"):
        cores = usable_cores() if of is None else of
        os.sched_setaffinity(0, set(cores[-threads:]))  # not the first core, which the system uses most


def worker(given: dict[str, Any]) -> None:
    """Measure the given configurations; print a line of JSON for each."""
    threads = given["threads"]
    pin(threads)
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(1 if given.get("two") == "native" else threads)
    if given["native"]:
        native_kernels()
    with tempfile.TemporaryDirectory() as folder:
        jax = Jax(given["jax"], Path(folder)) if given["jax"] and threads == 1 else None
        if jax is not None:
            print(json.dumps({"jax": jax.about}), flush=True)
        for values in given["configurations"]:
            configuration = Configuration(*values)
            gc.collect()
            if threads == 1:
                loop = given["loop"]
                measured = one_thread(
                    configuration, jax, given["budget"], native=given["native"], loop=loop, dense=given["dense"]
                )
            else:
                sys.stdin.readline()  # wait for this process's turn
                side, dense = given["two"], given["dense"]
                measured = two_threads(configuration, given["budget"], side=side, dense=dense)
            print(json.dumps(asdict(measured)), flush=True)
        if jax is not None:
            jax.close()


def one_step(given: dict[str, Any]) -> None:
    """One step of one side in this process; print the peak memory in GB, and the peak before the step."""
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    problem = Problem(Configuration(*given["configuration"]), dense=given["dense"])
    before = _peak()
    {"native": lambda: problem.native(1), "nn": problem.nn, "loop": problem.loop}[given["side"]]()
    print(json.dumps({"peak": _peak(), "before": before}), flush=True)


def _peak() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def child(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    threads = str(given.get("threads", 1))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, str(Path(__file__)), "--child", json.dumps(given)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode != 0:
        raise RuntimeError("the measuring process ended with an error; its output stands above")


def measure(
    configurations: Iterable[Configuration],
    threads: int,
    *,
    native: bool,
    loop: bool,
    jax: str | None,
    budget: float,
    dense: bool,
) -> tuple[list[Measured], dict[str, Any] | None]:
    """(measurements, facts about JAX or None)"""
    values = [[c.cell, c.seq_len, c.batch_size, c.hidden_size] for c in configurations]
    given = {"configurations": values, "threads": threads, "native": native, "loop": loop, "jax": jax, "budget": budget}
    given["dense"] = dense
    result, about = [], None
    for message in child(given):
        if "jax" in message:
            about = message["jax"]
            continue
        measured = Measured(Configuration(**message["configuration"]), message["threads"], message["sides"])
        result.append(measured)
        print(f"  {line(measured)}", flush=True)
    return result, about


def measure_two(configurations: list[Configuration], *, native: bool, budget: float, dense: bool) -> list[Measured]:
    """Two processes, one for each side, which alternate by configuration."""
    values = [[c.cell, c.seq_len, c.batch_size, c.hidden_size] for c in configurations]
    given = {"configurations": values, "threads": 2, "loop": False, "jax": None, "budget": budget, "dense": dense}
    workers = []
    for side in ("native", "nn") if native else ("nn",):
        threads = "1" if side == "native" else "2"
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        arguments = json.dumps({**given, "two": side, "native": side == "native"})
        command = [sys.executable, str(Path(__file__)), "--child", arguments]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        workers.append(subprocess.Popen(command, env=environment, **pipes))
    result = []
    for configuration in configurations:
        sides: dict[str, Timing] = {}
        for process in workers:
            process.stdin.write("\n")
            process.stdin.flush()
            message = process.stdout.readline()
            if not message:
                raise RuntimeError("a measuring process ended with an error; its output stands above")
            sides |= json.loads(message)["sides"]
        result.append(Measured(configuration, 2, sides))
        print(f"  {line(result[-1])}", flush=True)
    for process in workers:
        process.stdin.close()
        process.wait(timeout=60)
    return result


def memory(cells: Iterable[str], *, native: bool, dense: bool) -> list[dict[str, Any]]:
    """Memory of a process with one step, in GB, by cell and side."""
    result = []
    sides = ("native", "nn", "loop") if native else ("nn", "loop")
    cases = [(replace(BIG, cell=cell), side) for cell in cells for side in sides]
    cases += [(Configuration("lstm", LONG, 32, 128), side) for side in sides if side != "loop"]
    for configuration, side in cases:
        c = configuration
        (peaks,) = child(
            {"configuration": [c.cell, c.seq_len, c.batch_size, c.hidden_size], "side": side, "dense": dense}
        )
        result.append({"configuration": asdict(c), "side": side, **peaks})
        print(f"  {c} {side:<7} {peaks['peak']:5.2f} GB, {peaks['before']:.2f} of it before the step", flush=True)
    return result


# Summaries


def line(measured: Measured) -> str:
    clock = "cpu" if measured.threads == 1 else "wall"
    shown = [name for name in measured.sides if not name.startswith("products")]
    times = "  ".join(f"{name} {1000 * measured.sides[name][clock]:.2f}" for name in shown)
    return f"{measured.configuration}  {times} ms"


def geometric(ratios: Iterable[float]) -> float:
    return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios))


@dataclass(frozen=True)
class Summary:
    """A ratio of one cell over many configurations."""

    what: str
    cell: str
    mean: float
    worst: float
    where: Configuration
    limit: float | None = None
    limit_worst: float | None = None

    def within(self, slack: float = 1.0) -> bool:
        held = self.limit is None or self.mean <= self.limit * slack
        return held and (self.limit_worst is None or self.worst <= self.limit_worst * slack)


def summaries(measurements: list[Measured]) -> list[Summary]:
    """A summary for each ratio and cell with measurements."""
    kinds: list[tuple[str, Callable[[Measured], float | None]]] = [
        ("native/nn, 1 thread", lambda m: m.ratio("native", "nn") if m.threads == 1 else None),
        ("native/floor, 1 thread", lambda m: m.ratio("native", "floor") if m.threads == 1 else None),
        ("native/jax, 1 thread", lambda m: m.ratio("native", "jax") if m.threads == 1 else None),
        ("native/loop, 1 thread", lambda m: m.ratio("native", "loop") if m.threads == 1 else None),
        ("nn/floor, 1 thread", lambda m: m.ratio("nn", "floor") if m.threads == 1 else None),
        ("native/nn, 2 threads", lambda m: m.ratio("native", "nn") if m.threads == 2 else None),
        (
            "2 threads/1 thread, batch 128",
            lambda m: m.ratio("native", "native, 1 thread") if m.configuration.batch_size == 128 else None,
        ),
    ]
    result = []
    for what, ratio_of in kinds:
        for cell in GATES:
            own = [m for m in measurements if m.configuration.cell == cell]
            ratios = {m.configuration: r for m in own if (r := ratio_of(m)) is not None}
            if not ratios:
                continue
            where = max(ratios, key=lambda configuration: ratios[configuration])
            limit, limit_worst = LIMITS.get(what, {}).get(cell, (None, None))
            result.append(Summary(what, cell, geometric(ratios.values()), ratios[where], where, limit, limit_worst))
    return result


def verdict(summary: Summary, slack: float = 1.0) -> str:
    """One line: the geometric mean, the worst ratio, and ok or OVER."""
    limits = [
        f"{name} {value * slack:.2f}"
        for name, value in (("mean", summary.limit), ("worst", summary.limit_worst))
        if value is not None
    ]
    held = "" if not limits else "ok" if summary.within(slack) else "OVER"
    limit = f"  (limit: {', '.join(limits)})" if limits else ""
    where = " ".join(str(summary.where).split()[1:])
    mean, worst = f"{summary.mean:6.3f}", f"{summary.worst:6.3f}"
    return f"  {held:<4}  {summary.cell:<4} {summary.what:<30} {mean}, worst {worst} at {where}{limit}"


def machine() -> dict[str, Any]:
    """Facts about this machine."""
    import platform

    import torch

    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level = ((index / name).read_text().strip() for name in ("type", "level"))
        if kind != "Instruction":
            caches.append(f"L{level} {(index / 'size').read_text().strip()}")
    from seqmem.kernels import loading

    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "caches": ", ".join(caches),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "kernels": loading.describe(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load before": round(os.getloadavg()[0], 2),
    }


def two_threads_again(dense: bool, budget: float) -> int:
    """Repeat only the part with two threads, which needs two quiet cores; all the rest takes a quarter of an hour."""
    path = RESULTS / ("kernels-dense.json" if dense else "kernels.json")
    stored = json.loads(path.read_text())
    measurements = measure_two(FULL, native=True, budget=budget, dense=dense)
    stored["measured"] = [m for m in stored["measured"] if m["threads"] == 1] + [asdict(m) for m in measurements]
    path.write_text(json.dumps(stored, indent=1) + "\n")
    print(*(verdict(summary) for summary in summaries(measurements)), sep="\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench kernels", description="how fast the native kernels are")
    parser.add_argument("--quick", action="store_true", help="a part of the grid, in a minute; limits are wider")
    parser.add_argument("--jax", metavar="PYTHON", help="a Python that has JAX, if this one has not")
    parser.add_argument("--budget", type=float, default=0.6, help="seconds a configuration (default 0.6)")
    parser.add_argument("--dense", action="store_true", help="real numbers for inputs, not tokens")
    parser.add_argument("--two-threads", action="store_true", help="that part alone, once more, into the last results")
    parser.add_argument("--only", metavar="CELL", choices=tuple(GATES), help="one cell alone")
    parser.add_argument("--without-native", action="store_true", help="the others alone, where no kernels are built")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        given = json.loads(options.child)
        (one_step if "side" in given else worker)(given)
        return 0
    native = not options.without_native
    if options.two_threads:
        return two_threads_again(options.dense, options.budget)
    if native:
        try:
            native_kernels()
        except NoKernels as error:
            print(f"scripts/bench kernels: {error}", file=sys.stderr)
            return 2
    start = time.perf_counter()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), "\n")
    if about["load before"] > 0.5:
        print("something else is running here: figures for two threads will be far too high\n")
    grid = [c for c in (QUICK if options.quick else FULL) if options.only in (None, c.cell)]
    jax = None if options.quick else find_jax(options.jax)
    print("one thread, CPU time of a step", flush=True)
    measurements, about_jax = measure(
        grid, 1, native=native, loop=not options.quick, jax=jax, budget=options.budget, dense=options.dense
    )
    if about_jax is not None:
        about["jax"] = about_jax["version"]
    memories: list[dict[str, Any]] = []
    if not options.quick:
        if len(usable_cores()) > 1 and not options.dense:
            print("\ntwo threads, wall time of a step", flush=True)
            measurements += measure_two(grid, native=native, budget=options.budget, dense=options.dense)
        print("\nmemory of a process with one step", flush=True)
        memories = memory([cell for cell in GATES if options.only in (None, cell)], native=native, dense=options.dense)
    slack = QUICK_SLACK if options.quick else 1.0
    ratios = summaries(measurements)
    print()
    for summary in ratios:
        print(verdict(summary, slack))
    held = [summary.within(slack) for summary in ratios]
    for case in memories:
        if case["configuration"]["seq_len"] == LONG and case["side"] == "native":
            held.append(case["peak"] <= MEMORY_LIMIT)
            mark = "ok  " if held[-1] else "OVER"
            print(f"  {mark}  lstm of {LONG:,} timesteps: {case['peak']:.2f} GB  (limit {MEMORY_LIMIT:g})")
    if jax is None and not options.quick:
        print("        JAX is not installed here: --jax PYTHON names a Python that has it")
    print(f"\n{'all' if all(held) else 'NOT all'} within their limits; {time.perf_counter() - start:.0f} s")
    if not options.quick and options.only is None and native:
        RESULTS.mkdir(parents=True, exist_ok=True)
        stored = {"machine": about, "measured": [asdict(m) for m in measurements], "memory": memories}
        name = "kernels-dense.json" if options.dense else "kernels.json"
        (RESULTS / name).write_text(json.dumps(stored, indent=1) + "\n")
        print("scripts/bench report writes docs/performance.md from these figures")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
