"""``seqmem export``: a finished run's model in files for other programs. docs/export.md describes the files.

Axes: B batch, K outputs.
"""

import importlib
import importlib.util
import json
import logging
import re
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runs.directory import RunDirectory
from ...runs.files import CHECKPOINT, RunError, write_atomically, written_atomically
from ..config.choose import finished_result, one_run
from ..config.commands import RUN, examples, install
from ..config.compose import configuration
from ..config.errors import Parser
from ..config.schema import Kernel
from ..config.trust import add_option

if TYPE_CHECKING:
    from torch import Tensor

    from ...cells import State
    from ...models.base import Model

ONNX = ("onnx", "onnxscript", "onnxruntime")
"""The packages that the extra of that name installs."""

TOLERANCE = 1e-5
"""The largest allowed difference between the outputs of an exported model and the original over a whole sequence,
relative to the largest output (or to 1). float32 rounds by 1e-7."""


def main(args: Sequence[str]) -> int:
    parser = Parser(
        "export",
        description="Write what a finished run has learned into a file that needs no seqmem: its weights as a state "
        "dict (.pt for torch, .npz for numpy, .safetensors), or one timestep of the model as ONNX.",
        epilog="example:\n"
        + examples((f"export {RUN} --state-dict lstm.pt", ""))
        + "\n\nThe layout of the files, and how torch.nn.LSTM loads them, is in docs/export.md.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, or a part of its name that no other has")
    parser.add_argument("--state-dict", metavar="FILE", help=f"the weights: {', '.join(WRITERS)}")
    parser.add_argument(
        "--onnx", metavar="FILE", help="one timestep, (input, states) to (output, next states): .onnx; needs "
        "the packages of the extra onnx",
    )  # fmt: skip
    add_option(parser)
    options = parser.parse_args(args)
    if options.state_dict is None and options.onnx is None:
        parser.error("what is to be exported? --state-dict FILE, --onnx FILE, or both")
    weights, step = (Path(given) if given is not None else None for given in (options.state_dict, options.onnx))
    if weights is not None and weights.suffix not in WRITERS:
        parser.error(f"--state-dict {weights}: must end with {' or '.join(WRITERS)}")
    if step is not None and step.suffix != ".onnx":
        parser.error(f"--onnx {step}: must end with .onnx")
    run = one_run(options.run, "export")
    finished_result(run)
    if step is not None:
        _refuse_without_onnx()
    if weights is not None:
        print(f"{weights}: {export_state_dict(run, weights)}")
    if step is not None:
        print(f"{step}: {export_onnx(run, step, trusted=options.trust)}")
    return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror or error}") from error


def _weights(run: RunDirectory) -> "dict[str, Tensor]":
    from ...record.recorder import load_checkpoint

    path = run.file(CHECKPOINT)
    weights = load_checkpoint(path).get("model")
    if not isinstance(weights, dict) or not weights:
        raise RunError(f"{path} holds no weights")
    return {str(name): value.contiguous() for name, value in weights.items()}


def facts(run: RunDirectory) -> dict[str, str]:
    """The origin of a file, as text: the metadata of .safetensors and .onnx."""
    result, config = run.result() or {}, run.config()
    names = ("task", "cell", "seq_len", "seed", "hidden_size", "layers", "score", "metric")
    versions = {f"version_{name}": str(value) for name, value in (result.get("versions") or {}).items()}
    of_result = {name: str(result[name]) for name in names if name in result}
    return {"producer": "seqmem", **of_result, **versions, "config": json.dumps(config, sort_keys=True)}


# The state dict


def export_state_dict(run: RunDirectory, path: Path) -> str:
    """Write the weights.

    Returns:
        A line that describes the file.

    Raises:
        RunError: the run's checkpoint cannot be read, or ``path`` cannot be written.
    """
    weights = _weights(run)
    with _writing(path):
        WRITERS[path.suffix](path, weights, facts(run))
    count = sum(value.numel() for value in weights.values())
    return f"{count:,} numbers in {len(weights)} tensors: {', '.join(weights)}"


def _write_pt(path: Path, weights: "Mapping[str, Tensor]", _: Mapping[str, str]) -> None:
    import torch

    with written_atomically(path) as file:
        torch.save(dict(weights), file)


def _write_npz(path: Path, weights: "Mapping[str, Tensor]", _: Mapping[str, str]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {name: value.numpy() for name, value in weights.items()}
    with written_atomically(path) as file:
        np.savez(file, **arrays)


def _write_safetensors(path: Path, weights: "Mapping[str, Tensor]", facts: Mapping[str, str]) -> None:
    """Write a header length (8 bytes), a JSON header padded with spaces to a multiple of 8 bytes, and the numbers:
    https://github.com/huggingface/safetensors#format"""
    kinds = {"float32": "F32", "float64": "F64", "int64": "I64", "bool": "BOOL"}
    header: dict[str, Any] = {"__metadata__": dict(facts)}
    content = bytearray()
    for name, value in weights.items():
        array = value.numpy()
        start, content = len(content), content + array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        kind = kinds.get(str(array.dtype))
        if kind is None:
            raise RunError(f"{name} is of {array.dtype}, which is not written as .safetensors here: use .pt or .npz")
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, len(content)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, struct.pack("<Q", len(text)) + text + bytes(content))


WRITERS: dict[str, "Callable[[Path, Mapping[str, Tensor], Mapping[str, str]], None]"] = {
    ".pt": _write_pt,
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
}
"""File extension -> function that writes the weights."""


# ONNX


def _refuse_without_onnx() -> None:
    missing = [name for name in ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"--onnx needs {', '.join(missing)}: {install('onnx')}; --state-dict needs nothing")


def export_onnx(run: RunDirectory, path: Path, *, trusted: bool = False) -> str:
    """Write one timestep of the model, with embedding and readout, after comparing it with the model in onnxruntime.

    Returns:
        A line that describes the file.

    Raises:
        RunError: the model cannot be exported, or the exported one computes other outputs over a whole sequence.
        ConfigError: the run's configuration cannot be built on this machine, or the classes it names are not trusted.
    """
    import torch

    from ..config.build import build

    config = configuration(run, trusted=trusted)
    config.device, config.kernel, config.threads = "cpu", Kernel.step, 1
    experiment = build(config)
    model, checkpoint = experiment.model.eval(), run.file(CHECKPOINT)
    try:
        model.load_state_dict(_weights(run))
    except RuntimeError as error:
        raise RunError(f"{checkpoint} does not fit the run's configuration: {' '.join(str(error).split())}") from error
    model.requires_grad_(False)
    length, rng = config.seq_len, torch.Generator().manual_seed(0)
    inputs = experiment.task.held_out().sample(3, length, rng).to("cpu", getattr(torch, config.dtype)).inputs
    with torch.no_grad():
        _refuse_growing([model.initial_state(3), *(step.state for step in model.walk(inputs))])
        start = {name: value.clone() for name, value in model.initial_state(1).items()}
        content = _onnx(model, inputs, list(start), facts(run) | {"initial_state": _initial(start)})
        apart = _apart(content, model, inputs)
    if not apart <= TOLERANCE:
        raise RunError(
            f"{path} was not written: over {length} timesteps its outputs are {apart:.2g} away from the model's: "
            "--state-dict exports the weights alone"
        )
    with _writing(path):
        write_atomically(path, content)
    return (
        f"one timestep, (input, {', '.join(start)}) to (output, {', '.join(f'next {name}' for name in start)}); over "
        f"{length} timesteps onnxruntime is at most {apart:.1g} away from the model"
    )


def _refuse_growing(states: "Sequence[State]") -> None:
    """Raise RunError unless every state has the same names and one tensor of the same shape for each."""
    shapes = [{name: getattr(leaf, "shape", None) for name, leaf in state.items()} for state in states]
    if None in shapes[0].values() or any(each != shapes[0] for each in shapes):
        raise RunError(
            "the state of this model changes its shape along the sequence, and a step in ONNX has states of fixed "
            "shapes: --state-dict exports the weights alone"
        )


def _initial(start: "Mapping[str, Tensor]") -> str:
    """The initial state of one sequence: ``zeros``, or JSON with name -> values."""
    if not any(bool(value.any()) for value in start.values()):
        return "zeros"
    return json.dumps({name: value[0].tolist() for name, value in start.items()})


def _onnx(model: "Model", inputs: "Tensor", names: list[str], facts: Mapping[str, str]) -> bytes:
    import torch
    from torch import nn

    class Step(nn.Module):
        """(input [B ...], states [B ...]) -> (output [B K], new states)"""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
            step = next(iter(self.model.walk(x[None], dict(zip(names, states, strict=True)))))
            return (self.model.read_out(step.output), *(step.state[name] for name in names))

    batch = torch.export.Dim("batch")
    state = model.initial_state(inputs.shape[1])
    given = (
        inputs[0],
        *(state[name].clone() for name in names),
    )  # copies: torch would see a shared tensor as one input
    try:
        with _quiet():
            made = torch.onnx.export(
                Step().eval(),
                given,
                dynamo=True,
                verbose=False,
                input_names=["input", *names],
                output_names=["output", *(f"next {name}" for name in names)],
                dynamic_shapes={"x": {0: batch}, "states": tuple({0: batch} for _ in names)},
            )
    except Exception as error:  # a user's own cell may cause any error in torch
        raise RunError(
            f"torch cannot export this cell's step as ONNX ({_reason(error)}): --state-dict exports the weights alone"
        ) from error
    assert made is not None  # it returns None only if it writes a file itself
    proto = made.model_proto
    for name, value in facts.items():
        proto.metadata_props.add(key=name, value=value)
    importlib.import_module("onnx").checker.check_model(proto)
    return proto.SerializeToString()


def _reason(error: BaseException) -> str:
    """The error that began it, in a line: torch puts others around it, with advice in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {re.sub(_COLOUR, '', first)[:160]}"


_COLOUR = r"\x1b\[[0-9;]*m"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.onnx: it logs missing libraries and unused names, which only its developers need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _apart(content: bytes, model: "Model", inputs: "Tensor") -> float:
    """The largest relative difference between onnxruntime's outputs and the model's, as defined at ``TOLERANCE``."""
    import numpy as np

    run: Any = importlib.import_module("onnxruntime")
    options = run.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = run.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it lacks some operators, most of them in float64; its errors have no class in common
        raise RunError(
            f"onnxruntime cannot run this model's step ({_reason(error)}): --state-dict exports the weights alone"
        ) from error
    start = model.initial_state(inputs.shape[1])
    state: dict[str, np.ndarray] = {name: value.numpy() for name, value in start.items()}
    outputs = []
    for x in inputs.numpy():
        output, *new = session.run(None, {"input": x, **state})
        outputs.append(output)
        state = dict(zip(state, new, strict=True))
    expected = model(inputs)[0].numpy()
    return float(np.abs(np.stack(outputs) - expected).max()) / max(1.0, float(np.abs(expected).max()))
