"""Checks of exported files with the libraries that read them; see scripts/check_export."""

import importlib
import importlib.util
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seqmem
from seqmem.cells import CELLS, Slots
from seqmem.cli.config.build import build
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.verbs.export import export_onnx, export_state_dict
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError

TINY = ("steps=40", "batch_size=8", "trace.every=0", "evaluate.sequences=16", "device=cpu", "quiet=true")
RUNS = {
    **{name: (f"cell={name}", "seq_len=50") for name in CELLS},
    "gru, as published": ("cell=gru", "cell.form=cho", "seq_len=50"),
    "lstm, two layers, real numbers": ("cell=lstm", "cell.layers=2", "task=adding", "seq_len=50"),
    "gru, one-hot": ("cell=gru", "embed_size=0", "seq_len=50"),
    "rnn in float64": ("cell=rnn", "dtype=float64", "seq_len=50"),
    "an encoder and a decoder": ("model=encoder_decoder", "task=reverse", "seq_len=50"),
    "lstm, wrapped": ("cell=lstm", "cell.wrap=layer_norm+residual+dropout:0.1", "seq_len=50"),
    "a cell of one's own": ("cell=custom", "cell.target=exportedcells.Leaky", "seq_len=50"),
}
OWN = """\
import torch
from torch import nn
from seqmem.cells import Cell

class Leaky(Cell):
    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner = nn.Linear(input_size, hidden_size)
    def initial_state(self, batch_size):
        return {"h": self.inner.weight.new_full((batch_size, self.output_size), 0.25)}
    def step(self, x, state):
        h = 0.9 * state["h"] + torch.tanh(self.inner(x))
        return h, {"h": h}
"""
TOLERANCE = 1e-5
DOCUMENT = (Path(__file__).parents[1] / "docs" / "export.md").read_text()


def apart(run: RunDirectory, path: Path, sequences: int) -> tuple[float, float]:
    """(the largest difference from ``Cell.step`` in outputs and final states over whole sequences, relative to the
    largest number of each or to 1; the same of ``Cell.step`` from itself in float64: its own rounding)."""
    runtime: Any = importlib.import_module("onnxruntime")
    config = from_mapping(run.config())
    model = build(config).model.eval()
    model.load_state_dict(load_checkpoint(run.file("checkpoint.pt"))["model"])
    task = build(config).task
    batch = task.sample(sequences, config.seq_len, torch.Generator().manual_seed(5))
    inputs = batch.to("cpu", getattr(torch, config.dtype)).inputs
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata["cell"] != run.result()["cell"] or json.loads(metadata["config"]) != run.config():  # pyright: ignore[reportOptionalSubscript]
        raise RunError(f"its metadata are {metadata}")
    initial = metadata["initial_state"]
    names = [port.name for port in session.get_inputs()[1:]]
    kind = np.float64 if config.dtype == "float64" else np.float32
    state = {port.name: np.zeros((sequences, *port.shape[1:]), kind) for port in session.get_inputs()[1:]}
    if initial != "zeros":
        start = {name: np.array(values, kind) for name, values in json.loads(initial).items()}
        state = {name: np.repeat(values[None], sequences, 0) for name, values in start.items()}
    outputs = []
    for x in inputs.numpy():
        output, *new = session.run(None, {"input": x, **state})
        outputs.append(output)
        state = dict(zip(names, new, strict=True))
    walked, exact = walk(model, inputs), walk(model.double(), inputs.double() if inputs.is_floating_point() else inputs)
    return farthest({"": np.stack(outputs), **state}, walked), farthest(walked, exact)


def walk(model: Any, inputs: torch.Tensor) -> dict[str, np.ndarray]:
    """All outputs, by the name "", and the final states, step by step."""
    outputs, state = [], {}
    with torch.no_grad():
        for step in model.walk(inputs):
            outputs.append(model.read_out(step.output).numpy())
            state = {name: value.numpy().copy() for name, value in step.state.items()}
    return {"": np.stack(outputs), **state}


def farthest(some: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> float:
    pairs = [(some[name], others[name]) for name in others]
    return max(float(np.abs(one - other).max() / max(1, np.abs(other).max())) for one, other in pairs)


def grows(run: RunDirectory) -> bool:
    """The state of its model has another shape after a timestep: a step in ONNX has none such."""
    experiment = build(from_mapping(run.config()))
    inputs = experiment.task.sample(1, run.config()["seq_len"], torch.Generator()).inputs
    steps = [experiment.model.initial_state(1), *(step.state for step in experiment.model.walk(inputs))]
    names = {tuple(state) for state in steps}
    return len(names) > 1 or any(isinstance(leaf, Slots) for state in steps for leaf in state.values())


def exported(run: RunDirectory, folder: Path) -> str:
    """A step in ONNX, or the refusal of one that there cannot be: docs/export.md names each cell without one."""
    path, growing = folder / "step.onnx", grows(run)
    try:
        export_onnx(run, path)
    except RunError as error:
        named = f"`{run.config()['cell']['name']}`" in DOCUMENT.partition("have no such file:")[2].partition("\n\n")[0]
        if growing and "changes its shape along the sequence" in str(error):
            return "its state grows, so no step in ONNX"
        if named and "torch cannot export this cell's step" in str(error):
            return "no step in ONNX, as docs/export.md says"
        raise
    if growing:
        raise RunError("its state grows, and a step of it was exported")
    differences = [apart(run, path, sequences) for sequences in (1, 7)]
    difference = max(one for one, _ in differences)
    # A state that turns adds up the rounding of its angle, the same one at each of 50 timesteps: another cosine is as
    # far from this one as this one from the exact value, or some times as far.
    if not all(one <= max(TOLERANCE, 8 * rounding) for one, rounding in differences):
        raise RunError(f"{difference:.2g} apart, and rounding alone is {max(own for _, own in differences):.2g}")
    return f"at most {difference:.1g} from the model's outputs and states over 50 timesteps"


def check(settings: tuple[str, ...], folder: Path) -> str:
    run = seqmem.train(*TINY, *settings, outputs=folder / "outputs")
    told = exported(run, folder)
    weights = load_checkpoint(run.file("checkpoint.pt"))["model"]
    export_state_dict(run, folder / "weights.safetensors")
    read = importlib.import_module("safetensors.torch").load_file(folder / "weights.safetensors")
    if {name: x.numpy().tobytes() for name, x in read.items()} != {k: x.numpy().tobytes() for k, x in weights.items()}:
        raise RunError("the .safetensors file has other weights")
    return f"{told}; .safetensors the same bits"


def check_documented(folder: Path) -> str:
    """Run the example in docs/export.md literally."""
    run = seqmem.train(*TINY, *RUNS["lstm"], outputs=folder / "outputs")
    export_onnx(run, folder / "lstm.onnx")
    code = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[-1].replace(
        '"lstm.onnx"', repr(str(folder / "lstm.onnx"))
    )
    names: dict[str, Any] = {}
    exec(code, names)
    model = build(from_mapping(run.config())).model.eval()
    model.load_state_dict(load_checkpoint(run.file("checkpoint.pt"))["model"])
    with torch.no_grad():
        expected = model(torch.tensor([3, 1, 4, 1, 5])[:, None])[0][-1].numpy()
    difference = float(np.abs(names["output"] - expected).max())
    if not difference <= TOLERANCE:
        raise RunError(f"{difference:.2g} apart")
    return f"{difference:.1g} from the model"


def main() -> int:
    torch.set_num_threads(1)
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-export-") as name:
        folder = Path(name)
        (folder / "exportedcells.py").write_text(OWN)
        sys.path.insert(0, name)
        wanted = {what: settings for what, settings in RUNS.items() if what in sys.argv[1:] or not sys.argv[1:]}
        checks = {what: (lambda settings=settings: check(settings, folder)) for what, settings in wanted.items()}
        if importlib.util.find_spec("torchrecurrent") is None:  # an extra
            checks.pop("torchrecurrent", None)
        for what, claim in {**checks, "the example in docs/export.md": lambda: check_documented(folder)}.items():
            try:
                print(f"{what}: ok, {claim()}", flush=True)
            except (RunError, ValueError) as error:
                print(f"{what}: FAILED: {error}", flush=True)
                bad.append(what)
    print(f"{len(bad)} failed: {', '.join(bad)}" if bad else "all can be exported")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
