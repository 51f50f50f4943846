"""cell=torchrecurrent: every cell of that package computes what its own layer does, and mistakes are one line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchrecurrent as others

from commandline import TINY, Completed, only_run
from seqmem.cells.torchrecurrent import TorchRecurrent
from seqmem.randomness import ambient

T, B, H = 5, 3, 4
KINDS = sorted({name.removesuffix("Cell") for name in dir(others) if name.endswith("Cell")} - {"tauGRU"})


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_computes_what_the_packages_own_layer_does(kind: str) -> None:
    rng = torch.Generator().manual_seed(1)
    xs = torch.rand(T, B, H, dtype=torch.float64, generator=rng)
    with ambient(0, kind):
        cell, layer = TorchRecurrent(H, H, kind=kind).double(), getattr(others, kind)(H, H).double()
    layer.cells[0].load_state_dict(cell.inner.state_dict())
    outputs, state = cell(xs)
    torch.testing.assert_close(outputs, layer(xs)[0], rtol=1e-12, atol=1e-14)
    head, middle = cell(xs[:2])
    tail, end = cell(xs[2:], middle)
    torch.testing.assert_close((torch.cat([head, tail]), end), (outputs, state))
    if cell.output_state is not None:
        torch.testing.assert_close(outputs[-1], state[cell.output_state], rtol=0, atol=0)
    assert outputs.abs().sum() > 0


def test_all_of_them_are_tested() -> None:
    assert len(KINDS) > 30
    assert {"LEM", "FastGRNN", "MUT1", "NAS", "MCLSTM", "TLSTM"} <= set(KINDS)


def test_its_options_reach_it() -> None:
    assert TorchRecurrent(H, H, kind="LEM", args={"dt": 0.25}).inner.dt == 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchRecurrent(H, H, kind="FastGRN"), "kind=FastGRN: torchrecurrent has no such cell (did you mean"),
        (lambda: TorchRecurrent(H, H, kind="LEM", args={"dtt": 1}), "args.dtt=1: LEM has no such option, but bias"),
        (
            lambda: TorchRecurrent(H, H, kind="tauGRU"),
            "kind=tauGRU: its layer hands it more than its own state (delayed",
        ),
        (lambda: TorchRecurrent(3, H, kind="IntersectionRNN"), "kind=IntersectionRNN: IntersectionRNNCell requires"),
    ],
)
def test_mistakes_are_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  looked at below
        make()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_the_package_the_line_says_how_to_get_it(
    typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchrecurrent", None)
    with pytest.raises(ImportError, match="kind=LEM: needs the package torchrecurrent"):
        TorchRecurrent(H, H, kind="LEM")
    refused = typed("train", *TINY, "cell=torchrecurrent", "cell.kind=LEM")
    refused.refuses("cell.kind=LEM: needs the package torchrecurrent: ", code=2)
    assert re.search("-m pip install '.*torchrecurrent", refused.err)
    assert re.search("torchrecurrent\\s+Any cell of the package", typed("list", "cells").out)


def test_it_trains_and_its_runs_go_by_its_name(typed: Callable[..., Completed], tmp_path: Path) -> None:
    out = typed("train", *TINY, "cell=torchrecurrent", "cell.kind=LEM", "cell.args.dt=0.5")
    assert out.code == 0, out.err
    run = only_run(tmp_path / "outputs")
    assert run.parent.name == "LEM"
    typed("train", *TINY, "cell=torchrecurrent", "cell.kind=LEM", "cell.args.dtt=1").refuses(
        "cell.args.dtt=1: LEM has no such option", code=2
    )
