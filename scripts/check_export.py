"""Exported files, read by the libraries they are for: scripts/check_export says more."""

import importlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seqmem
from seqmem.cells.base import steps
from seqmem.cli.config.build import build
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.verbs.export import export_onnx, export_state_dict
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory, RunError

TINY = ("steps=40", "batch_size=8", "trace.every=0", "evaluate.sequences=16", "device=cpu", "quiet=true")
RUNS = {
    "rnn": ("cell=rnn", "seq_len=50"),
    "lstm": ("cell=lstm", "seq_len=50"),
    "gru": ("cell=gru", "seq_len=50"),
    "gru, as published": ("cell=gru", "cell.form=cho", "seq_len=50"),
    "lstm, two layers, real numbers": ("cell=lstm", "cell.layers=2", "task=adding", "seq_len=50"),
    "gru, one-hot": ("cell=gru", "embed_size=0", "seq_len=50"),
    "rnn in float64": ("cell=rnn", "dtype=float64", "seq_len=50"),
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


def apart(run: RunDirectory, path: Path, sequences: int) -> float:
    """The largest difference of outputs and final states, over whole sequences, from ``Cell.step``."""
    runtime: Any = importlib.import_module("onnxruntime")
    config = from_mapping(run.config())
    model = build(config).model.eval()
    model.load_state_dict(load_checkpoint(run.file("checkpoint.pt"))["model"])
    task = build(config).task
    batch = task.sample(sequences, config.seq_len, torch.Generator().manual_seed(5))
    inputs = batch.to("cpu", getattr(torch, config.dtype)).inputs
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    if said["cell"] != run.result()["cell"] or json.loads(said["config"]) != run.config():  # pyright: ignore[reportOptionalSubscript]
        raise RunError(f"its metadata are {said}")
    first = said["initial_state"]
    names = [given.name for given in session.get_inputs()[1:]]
    kind = np.float64 if config.dtype == "float64" else np.float32
    state = {given.name: np.zeros((sequences, given.shape[1]), kind) for given in session.get_inputs()[1:]}
    if first != "zeros":
        state = {name: np.tile(np.array(values, kind), (sequences, 1)) for name, values in json.loads(first).items()}
    outputs = []
    for x in inputs.numpy():
        output, *new = session.run(None, {"input": x, **state})
        outputs.append(output)
        state = dict(zip(names, new, strict=True))
    with torch.no_grad():
        wanted, state_after = [], {}
        for output, new in steps(model.cell, model.embed(inputs), model.cell.initial_state(sequences)):
            wanted.append(model.readout(output).numpy())
            state_after = new
    found = [np.abs(np.stack(outputs) - np.stack(wanted)).max()]
    found += [np.abs(state[name] - value.numpy()).max() for name, value in state_after.items()]
    return float(max(found))


def check(settings: tuple[str, ...], folder: Path) -> str:
    run = seqmem.train(*TINY, *settings, outputs=folder / "outputs")
    path = folder / "step.onnx"
    export_onnx(run, path)
    found = max(apart(run, path, sequences) for sequences in (1, 7))
    if not found <= TOLERANCE:
        raise RunError(f"{found:.2g} apart")
    weights = load_checkpoint(run.file("checkpoint.pt"))["model"]
    export_state_dict(run, folder / "weights.safetensors")
    read = importlib.import_module("safetensors.torch").load_file(folder / "weights.safetensors")
    if {name: x.numpy().tobytes() for name, x in read.items()} != {k: x.numpy().tobytes() for k, x in weights.items()}:
        raise RunError("the .safetensors file has other weights")
    return f"at most {found:.1g} from the model's outputs and states over 50 timesteps; .safetensors the same bits"


def documented(folder: Path) -> str:
    """The example in docs/export.md, typed as it stands there."""
    docs = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
    run = seqmem.train(*TINY, *RUNS["lstm"], outputs=folder / "outputs")
    export_onnx(run, folder / "lstm.onnx")
    code = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)[-1].replace(
        '"lstm.onnx"', repr(str(folder / "lstm.onnx"))
    )
    found: dict[str, Any] = {}
    exec(code, found)
    model = build(from_mapping(run.config())).model.eval()
    model.load_state_dict(load_checkpoint(run.file("checkpoint.pt"))["model"])
    with torch.no_grad():
        wanted = model(torch.tensor([3, 1, 4, 1, 5])[:, None])[0][-1].numpy()
    off = float(np.abs(found["output"] - wanted).max())
    if not off <= TOLERANCE:
        raise RunError(f"{off:.2g} apart")
    return f"{off:.1g} from the model"


def main() -> int:
    torch.set_num_threads(1)
    bad = []
    with tempfile.TemporaryDirectory(prefix="seqmem-export-") as name:
        folder = Path(name)
        (folder / "exportedcells.py").write_text(OWN)
        sys.path.insert(0, name)
        checks = {what: (lambda given=given: check(given, folder)) for what, given in RUNS.items()}
        for what, claim in {**checks, "the example in docs/export.md": lambda: documented(folder)}.items():
            try:
                print(f"{what}: ok, {claim()}", flush=True)
            except (RunError, ValueError) as error:
                print(f"{what}: FAILED: {error}", flush=True)
                bad.append(what)
    print(f"{len(bad)} failed: {', '.join(bad)}" if bad else "all can be exported")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
