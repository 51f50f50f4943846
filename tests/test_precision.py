"""Precision and compilation of an update."""

import json
import os
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from commandline import TINY, Completed, only_run, runs_below
from seqmem.cells import GRU, LSTM, RNN, State
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.launch.one_run import execute
from seqmem.models.base import loss_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS, adam
from seqmem.randomness import ambient, generator
from seqmem.tasks import Pronoun, Text
from seqmem.training import compiler
from seqmem.training.compiler import CACHE as COMPILER_CACHE
from seqmem.training.compiler import compiling, quotable_paths, unsplit
from seqmem.training.loop import train
from seqmem.training.plan import CannotCompile, Plan, Result, check_precision
from seqmem.training.update import update
from small_models import MAKERS, Noisy, fresh, weights


def test_an_lstm_is_computed_by_its_steps_where_the_processor_has_no_half_precision(monkeypatch: pytest.MonkeyPatch):
    cells = LSTM(3, 4, forget_bias=1.0), GRU(3, 4, forget_bias=1.0)
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert [cell.choice(torch.zeros(2, 1, 3)) for cell in cells] == ["torch" if supported else "step", "torch"]
    cells[0].use("torch")
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"^kernel=torch: .* kernel=auto$"),
    ):
        cells[0](torch.zeros(2, 1, 3))


def test_bf16_trains_in_half_precision_and_keeps_the_weights_in_float32():
    """Measured at the step, on the CPU's autocast: bf16 enters the readout, float32 comes out of the optimizer."""
    seen: list[torch.dtype] = []

    class Watching(torch.nn.Linear):
        def forward(self, outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            predicted = super().forward(outputs)
            seen.append(predicted.dtype)
            return predicted

    ends: dict[str, list[Tensor]] = {}
    results: dict[str, Result] = {}
    for precision in ("float32", "bf16"):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(Text(chunks=2), lambda d: Noisy(d, 12), embed_size=8)
            model.readout = Watching(12, Text().targets.size)
        seen.clear()
        plan = Plan(12, steps=20, batch_size=16, evaluate_sequences=50, trace_every=20, precision=precision, tbptt=5)
        results[precision] = train(model, Text(chunks=2), adam(trainable(model)), plan)
        ends[precision] = weights(model)
        assert seen.count(torch.bfloat16) == (60 if precision == "bf16" else 0)  # three segments an update
        assert torch.float32 in seen  # evaluation
        assert all(values.dtype == torch.float32 and values.isfinite().all() for values in ends[precision])
    assert not all(torch.equal(a, b) for a, b in zip(ends["float32"], ends["bf16"], strict=True))
    assert results["bf16"].loss == pytest.approx(results["float32"].loss, rel=0.02)


@pytest.mark.parametrize("cell", MAKERS)
def test_every_cell_trains_in_bf16_whole_in_segments_and_computed_again(cell: str):
    task = Text(chunks=2)
    actual = []
    usual = Plan(11, steps=3, batch_size=5, evaluate_sequences=5, trace_every=0, precision="bf16")
    for plan in (usual, replace(usual, tbptt=5), replace(usual, checkpoint_every_t=4)):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5)
        actual.append(train(model, task, adam(trainable(model)), plan).loss)
    assert actual == pytest.approx([actual[0]] * 3, rel=0.02)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_an_update_in_bf16_is_one_under_autocast(cell: str):
    task, gradients = Pronoun(), {}
    batch = task.sample(4, 40, generator(0, "t"))
    for precision in ("by hand", "bf16", "float32"):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5)
        parameters = trainable(model)
        if precision == "by hand":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                predicted, _ = model(batch.inputs)
            loss_per_sequence(task, predicted.float(), batch).mean().backward()
        else:
            optimizer = OPTIMIZERS["sgd"](parameters, lr=1e-3)
            update(model, task, optimizer, parameters, batch, None, None, precision=precision)
        gradients[precision] = [parameter.grad for parameter in parameters]
    torch.testing.assert_close(gradients["bf16"], gradients["by hand"], rtol=1e-6, atol=1e-7)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(gradients["bf16"], gradients["float32"], rtol=1e-4, atol=1e-5)


def test_tf32_is_on_during_an_update_alone_and_for_cuda_alone():
    def switches() -> tuple[bool, bool]:
        return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32

    seen: list[tuple[bool, bool]] = []

    class Watching(RNN):
        def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            seen.append(switches())
            return super().forward(xs, state)

    before = switches()
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: Watching(d, 6), embed_size=5)
    parameters = trainable(model)
    batch = Pronoun().sample(4, 9, generator(0, "t"))
    for precision in ("float32", "tf32"):
        update(
            model, Pronoun(), OPTIMIZERS["sgd"](parameters, lr=1e-3), parameters, batch, None, None, precision=precision
        )
    assert seen == [before, (True, True)]
    assert switches() == before


def test_precisions_that_cannot_be_are_refused():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    for precision in ("bf16", "tf32"):
        with pytest.raises(ValueError, match=f"precision={precision}: goes with dtype=float32; with dtype=float64 use"):
            check_precision(precision, cpu, torch.float64)
    with pytest.raises(ValueError, match=r"precision=bf16: torch has no autocast on device=meta"):
        check_precision("bf16", meta, torch.float32)
    check_precision("bf16", cpu, torch.float32)
    check_precision("float32", meta, torch.float64)


def test_on_the_command_line_they_are_part_of_a_run_and_refused_in_its_words(
    tmp_path: Path, typed: Callable[..., Completed]
):
    """One of each kind is typed; for the others Hydra would compose the same settings again."""
    command = ("train", *TINY, "quiet=true", "precision=bf16")
    assert typed(*command) == Completed(0, "", "")
    written = json.loads((only_run(tmp_path) / "config.json").read_text())
    assert {"tbptt", "precision", "compile", "train"} <= set(written)
    settings = {**written, "precision": "float32"}
    changes: list[dict[str, Any]] = [{}, {"tbptt": 3}, {"train": {"checkpoint_every_t": 3}}]
    for change in changes:
        execute(from_mapping({**settings, **change}), overrides=[], console=Console())
    assert len(runs_below(tmp_path)) == 1 + len(changes)
    for setting, message in {
        "tbptt=0": "tbptt=0: must be at least 1 timestep, or null for the whole sequence",
        "precision=half": "precision=half: 'half' is not one of float32, bf16, tf32",
    }.items():
        refused = typed(*command, "seed=1", setting)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err
        assert refused.err.count("\n") == 1
    refusals: list[tuple[dict[str, Any], str]] = [
        (
            {"train": {"checkpoint_every_t": 0}},
            "train.checkpoint_every_t=0: must be at least 1 timestep, or null for the whole sequence",
        ),
        ({"precision": "tf32"}, "precision=tf32: only CUDA devices have it; on the CPU use precision=float32 or bf16"),
        (
            {"precision": "bf16", "dtype": "float64"},
            "precision=bf16: goes with dtype=float32; with dtype=float64 use precision=float32",
        ),
        (
            {"compile": True, "kernel": "native"},
            "kernel=native: compile=true: torch's compiler cannot see into native kernels",
        ),
        (
            {"precision": "bf16", "kernel": "native"},
            "kernel=native: precision=bf16: native kernels compute in float32 and float64",
        ),
        (
            {"train": {"omega": 4.0}, "kernel": "native"},
            "kernel=native: train.omega=4: it is computed from the cell's steps, one after the other; or use kernel=",
        ),
        ({"train": {"omega": 4.0}, "tbptt": 5}, "train.omega=4: goes with tbptt=null only"),
        ({"train": {"omega": -1.0}}, "train.omega=-1.0: must be more than 0, and finite; or null for no such term"),
        (
            {"train": {"omega": 4.0}, "cell": {**settings["cell"], "wrap": "zoneout:0.1"}},
            "train.omega=4: does not go with zoneout, which draws anew where the step is repeated",
        ),
    ]
    for change, message in refusals:
        with pytest.raises(ConfigError) as error:
            execute(from_mapping({**settings, "seed": 1, **change}), overrides=[], console=Console())
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_compile_is_torchs_and_its_errors_are_one_line(monkeypatch: pytest.MonkeyPatch):
    """What it computes is checked by scripts/check_compile.py: it takes half a minute to compile."""
    from torch._dynamo.exc import TorchDynamoException

    calls: list[str] = []

    def stand_in(model: SequenceModel, **options: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append("update")
            return model(*args, **kwargs)

        return run

    monkeypatch.setattr(torch, "compile", stand_in)
    model, task, optimizer = fresh(Pronoun())
    plan = Plan(12, steps=3, batch_size=4, evaluate_sequences=5, trace_every=0, compile=True)
    train(model, task, optimizer, plan)
    assert calls == ["update"] * 3  # evaluation is not compiled
    assert isinstance(model.cell, GRU)
    assert model.cell.kernel == "torch"  # not auto: the compiler cannot see into native kernels
    model.cell.kernel = "native"
    with pytest.raises(ValueError, match=r"^kernel=native: torch's compiler cannot see into it"):
        train(model, task, optimizer, plan)
    for error, message in (
        (
            TorchDynamoException("\n no C++ compiler\nand much more"),
            "torch cannot compile this model: no C++ compiler; use",
        ),
        (
            TorchDynamoException("CppCompileError:\n\nCommand:\nx.cpp:1: error: bad\n"),
            "this model: x.cpp:1: error: bad; use",
        ),
        (
            PermissionError(13, "Permission denied", "/cache"),
            f"cannot work in {COMPILER_CACHE}=/cache: Permission denied; ",
        ),
    ):
        monkeypatch.setenv(COMPILER_CACHE, "/cache")
        with pytest.raises(CannotCompile) as refused, compiling(on=True):
            raise error
        assert str(refused.value).startswith("compile=true: torch")
        assert message in str(refused.value)


ODD = 'it\'s "my" dir\\'


@pytest.mark.parametrize("name", [ODD, "a b", "it's", 'a"', "a\\b", "a\nb", "a$b", "a;b*?(é)", "plain"])
def test_torchs_compiler_is_given_paths_that_no_command_splits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It splits its command as a shell does, without quotes around its cache, temporary files and torch's libraries."""
    from torch.utils import cpp_extension

    odd = tmp_path / name
    for below in ("tmp", "cache", "torch/lib", "links"):
        (odd / below).mkdir(parents=True)
    monkeypatch.setattr(compiler, "PLACES", (str(odd), str(tmp_path)))
    monkeypatch.setattr(tempfile, "tempdir", str(odd / "tmp"))
    monkeypatch.setattr(torch, "__file__", str(odd / "torch/__init__.py"))
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", str(odd / "torch/lib"))
    monkeypatch.setenv(COMPILER_CACHE, str(odd / "cache"))
    monkeypatch.setenv("LOGNAME", name)

    def written() -> list[str]:
        return [tempfile.gettempdir(), os.environ[COMPILER_CACHE], cpp_extension.TORCH_LIB_PATH]

    before, user = written(), os.environ["LOGNAME"]
    for _ in range(2):  # the second time the links are there
        with quotable_paths():
            assert shlex.split(" ".join(written())) == written()
            assert all(map(os.path.samefile, before, written()))
            assert len(shlex.split(os.environ["LOGNAME"])) == 1
        assert (written(), os.environ["LOGNAME"]) == (before, user)


def test_a_link_that_leads_elsewhere_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/a b")
    monkeypatch.setattr(compiler, "PLACES", (str(tmp_path / "there"), str(tmp_path / "here")))
    for place in ("there", "here"):
        (tmp_path / place).mkdir()
    link = Path(unsplit("/my dir"))
    assert (link.parent.name, str(link.readlink())) == ("there", "/my dir")
    link.unlink()
    link.symlink_to(tmp_path)
    assert Path(unsplit("/my dir")) == tmp_path / "here" / link.name
    monkeypatch.setattr(compiler, "PLACES", (str(tmp_path / "there"),))
    with pytest.raises(
        CannotCompile, match=r"^compile=true: torch's compiler cannot use '/my dir', as its path has a sp"
    ):
        unsplit("/my dir")
