"""Exported files hold the run's own bits and compute the model's outputs without seqmem."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from commandline import TINY, Completed, only_run
from made_up import run_directory
from seqmem.cli.config.build import build
from seqmem.cli.config.schema import from_mapping
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory

Typed = Callable[..., Completed]
DOCS = Path(__file__).parents[1] / "docs" / "export.md"


def train(typed: Typed, folder: str, *settings: str) -> Path:
    assert typed("train", *TINY, *settings, "quiet=true", f"outputs={folder}").code == 0
    return only_run(Path(folder))


def outputs_of(run: Path, inputs: torch.Tensor) -> torch.Tensor:
    """The model's outputs [T B K], by its definition ``walk``."""
    config = from_mapping(RunDirectory(run).config())
    model = build(config).model.eval()
    model.load_state_dict(load_checkpoint(run / "checkpoint.pt")["model"])
    with torch.no_grad():
        return torch.stack([model.read_out(step.output) for step in model.walk(inputs)])


def example(place: int) -> str:
    """The nth Python example of the documentation."""
    return re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[place]


def test_the_documented_example_computes_what_the_model_does(typed: Typed) -> None:
    run = train(typed, "one", "cell=lstm")
    completed = typed("export", str(run), "--state-dict", "lstm.pt")
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.startswith("lstm.pt: ")
    assert "cell.fused.weight_ih_l0" in completed.out
    assert not list(Path().glob("*.partial"))
    namespace: dict[str, Any] = {}
    exec(example(0), namespace)
    expected = outputs_of(run, namespace["tokens"])
    assert expected.std() > 0.01
    torch.testing.assert_close(namespace["answers"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cell", "kind"), [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_two_layers_go_into_torch(typed: Typed, cell: str, kind: Callable[..., nn.RNNBase]) -> None:
    run = train(typed, "two", f"cell={cell}", "cell.layers=2", "task=adding")
    assert typed("export", str(run), "--state-dict", f"{cell}.npz").code == 0
    with np.load(f"{cell}.npz") as archive:
        weights = {name: torch.from_numpy(archive[name]) for name in archive.files}
    assert not any(value.any() for name, value in weights.items() if "bias_hh" in name)
    namespace: dict[str, Any] = {"weights": weights}
    exec(example(1), namespace)
    layers = kind(weights["cell.cells.0.fused.weight_ih_l0"].shape[1], 4, num_layers=2)
    layers.load_state_dict(namespace["stack"])
    inputs = torch.rand(8, 3, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers = layers(inputs)[0] @ weights["readout.weight"].T + weights["readout.bias"]
    torch.testing.assert_close(answers, outputs_of(run, inputs), rtol=0, atol=1e-6)


def test_every_format_holds_the_same_bits(typed: Typed) -> None:
    run = train(typed, "outputs", "cell=gru", "dtype=float64")
    for name in ("g.pt", "g.npz", "g.safetensors"):
        assert typed("export", "gru", "--state-dict", name).code == 0
    saved = load_checkpoint(run / "checkpoint.pt")["model"]
    bits = {name: value.numpy().tobytes() for name, value in saved.items()}
    state_dict = torch.load("g.pt", weights_only=True)
    assert {name: value.numpy().tobytes() for name, value in state_dict.items()} == bits
    with np.load("g.npz") as arrays:
        assert {name: arrays[name].tobytes() for name in arrays.files} == bits
    content = Path("g.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
    facts = header.pop("__metadata__")
    assert (facts["cell"], facts["seq_len"]) == ("gru", "8")
    assert size % 8 == 0
    assert {name: numbers[slice(*one["data_offsets"])] for name, one in header.items()} == bits
    assert all(one["dtype"] == "F64" and one["shape"] == list(saved[name].shape) for name, one in header.items())


def test_refusals_to_export(typed: Typed) -> None:
    run = train(typed, "outputs", "cell=rnn")
    typed("export", str(run)).refuses("--state-dict FILE, --onnx FILE, or both", code=2, verb="export")
    typed("export", str(run), "--state-dict", "x.bin").refuses("must end with .pt or .npz", code=2, verb="export")
    typed("export", str(run), "--onnx", "x.pt").refuses("must end with .onnx", code=2, verb="export")
    typed("export", str(run), "--state-dict", "no/x.pt").refuses("cannot write to no/x.pt", code=1, verb="export")
    typed("export", "nothing", "--state-dict", "x.pt").refuses("nothing: no run there", code=1, verb="export")
    (run / "result.json").rename("result.json")
    typed("export", str(run), "--state-dict", "x.pt").refuses("is not finished", code=1, verb="export")
    Path("result.json").rename(run / "result.json")
    (run / "checkpoint.pt").write_bytes(b"garbage")
    typed("export", str(run), "--state-dict", "x.pt").refuses("checkpoint.pt cannot be read", code=1, verb="export")
    assert not Path("x.pt").exists()


def test_onnx_names_its_missing_packages(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqmem.cli.verbs import export as exporting

    run = run_directory(tmp_path / "run")
    monkeypatch.setattr(exporting, "ONNX", ("onnx_which_is_not_there",))
    completed = typed("export", str(run), "--onnx", "x.onnx")
    completed.refuses("needs onnx_which_is_not_there: ", code=1, verb="export")
    assert not Path("x.onnx").exists()
