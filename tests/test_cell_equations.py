"""Cells against independent oracles: the papers' equations once more in numpy, torchrecurrent's cells with copied
weights, and closed forms."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
import torchrecurrent as others
from numpy import ndarray, tanh
from scipy.linalg import expm
from scipy.special import erf
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from seqmem.cells import CELLS, Cell, matrix_memory, steps
from seqmem.cells.antisymmetric import Antisymmetric
from seqmem.cells.attention import Attention
from seqmem.cells.cornn import CoRNN
from seqmem.cells.deltanet import DeltaNet
from seqmem.cells.exprnn import ExpRNN
from seqmem.cells.gated_deltanet import GatedDeltaNet
from seqmem.cells.gla import GLA
from seqmem.cells.indrnn import IndRNN
from seqmem.cells.irnn import IRNN
from seqmem.cells.janet import JANET
from seqmem.cells.lem import LEM
from seqmem.cells.linear_attention import LinearAttention
from seqmem.cells.lmu import LMU, legendre_memory
from seqmem.cells.lru import LRU
from seqmem.cells.lstm import LSTM
from seqmem.cells.lstm1997 import LSTM1997
from seqmem.cells.mamba import Mamba
from seqmem.cells.mgu import MGU
from seqmem.cells.mingru import MinGRU
from seqmem.cells.minlstm import MinLSTM
from seqmem.cells.mlstm import MLSTM
from seqmem.cells.retention import Retention
from seqmem.cells.rglru import RGLRU
from seqmem.cells.rwkv import RWKV
from seqmem.cells.s4d import S4D
from seqmem.cells.slstm import SLSTM
from seqmem.cells.state import Leaf, leaves
from seqmem.cells.tcn import TCN
from seqmem.cells.ugrnn import UGRNN
from seqmem.cells.unicornn import UnICORNN
from seqmem.randomness import ambient

T, B, D, H = 6, 3, 5, 4
Weights = Mapping[str, ndarray]
State = dict[str, ndarray]
Step = Callable[[Weights, ndarray, State], State]
C = TypeVar("C", bound=Cell)


def sigmoid(a: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-a))


def relu(a: ndarray) -> ndarray:
    return np.maximum(a, 0)


def rows(weights: Weights, name: str, index: int, size: int = H) -> ndarray:
    return weights[name][index * size : (index + 1) * size]


def affine(w: Weights, index: int, x: ndarray, h: ndarray | None = None) -> ndarray:
    """W x + b, and + U h, of the gate in this place."""
    total = x @ rows(w, "weight_input", index).T + rows(w, "bias", index)
    return total if h is None else total + h @ rows(w, "weight_hidden", index).T


def ugrnn(w: Weights, x: ndarray, s: State) -> State:
    h = s["hidden"]
    g, c = sigmoid(affine(w, 0, x, h)), tanh(affine(w, 1, x, h))
    return {"hidden": g * h + (1 - g) * c}


def mgu(w: Weights, x: ndarray, s: State) -> State:
    h = s["hidden"]
    f = sigmoid(affine(w, 0, x, h))
    return {"hidden": (1 - f) * h + f * tanh(affine(w, 1, x, f * h))}


def janet(w: Weights, x: ndarray, s: State) -> State:
    h = s["hidden"]
    a, c = affine(w, 0, x, h), tanh(affine(w, 1, x, h))
    return {"hidden": sigmoid(a) * h + (1 - sigmoid(a - 0.7)) * c}


def irnn(w: Weights, x: ndarray, s: State) -> State:
    return {
        "hidden": relu(x @ w["fused.weight_ih_l0"].T + s["hidden"] @ w["fused.weight_hh_l0"].T + w["fused.bias_ih_l0"])
    }


def indrnn(w: Weights, x: ndarray, s: State) -> State:
    u = np.clip(w["weight_hidden"], -(2 ** (1 / 20)), 2 ** (1 / 20))
    return {"hidden": relu(affine(w, 0, x) + u * s["hidden"])}


def antisymmetric(w: Weights, x: ndarray, s: State, *, gated: bool = False) -> State:
    h, a = s["hidden"], w["weight_hidden"]
    past = h @ (a - a.T - 0.3 * np.eye(H)).T
    gate = sigmoid(affine(w, 0, x) + past) if gated else 1.0
    return {"hidden": h + 0.2 * gate * tanh(affine(w, int(gated), x) + past)}


def cornn(w: Weights, x: ndarray, s: State) -> State:
    y, z = s["hidden"], s["velocity"]
    of_x, of_z, of_y = np.split(w["weight"], [D, D + H], axis=1)
    z = z + 0.1 * (tanh(x @ of_x.T + z @ of_z.T + y @ of_y.T + w["bias"]) - 2.0 * y - 3.0 * z)
    return {"hidden": y + 0.1 * z, "velocity": z}


def unicornn(w: Weights, x: ndarray, s: State) -> State:
    y, z = s["hidden"], s["velocity"]
    dt = 0.3 * sigmoid(w["timescale"])
    z = z - dt * (tanh(w["weight_hidden"] * y + affine(w, 0, x)) + 5.0 * y)
    return {"hidden": y + dt * z, "velocity": z}


def lem(w: Weights, x: ndarray, s: State) -> State:
    y, z = s["hidden"], s["memory"]
    p, q = 0.6 * sigmoid(affine(w, 0, x, y)), 0.6 * sigmoid(affine(w, 1, x, y))
    z = (1 - q) * z + q * tanh(affine(w, 2, x, y))
    return {"hidden": (1 - p) * y + p * tanh(affine(w, 3, x, z)), "memory": z}


def lmu(w: Weights, x: ndarray, s: State) -> State:
    order, window, h, m = 3, 20.0, s["hidden"], s["memory"]
    a, b = np.zeros((order, order)), np.zeros((order, 1))
    for i in range(order):
        b[i] = (2 * i + 1) * (-1) ** i / window
        for j in range(order):
            a[i, j] = (2 * i + 1) / window * (-1 if i < j else (-1) ** (i - j + 1))
    turned = np.asarray(expm(a))
    a, b = turned, np.linalg.solve(a, (turned - np.eye(order)) @ b)  # zero-order hold
    u = x @ w["encode_input"] + h @ w["encode_hidden"] + m @ w["encode_memory"]
    m = m @ a.T + u[:, None] * b[:, 0]
    h = tanh(x @ w["weight_input"].T + h @ w["weight_hidden"].T + m @ w["weight_memory"].T)
    return {"hidden": h, "memory": m}


def lstm(w: Weights, x: ndarray, s: State, *, peepholes: bool = False, coupled: bool = False) -> State:
    h, c, first = s["hidden"], s["cell"], int(not coupled)
    w = {name.rpartition(".")[2]: value for name, value in w.items()}

    def gate(row: int) -> ndarray:
        parts = (w[name][row * H : (row + 1) * H] for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))
        of_input, of_hidden, bias = parts
        return x @ of_input.T + h @ of_hidden.T + bias

    def look(row: int, cell: ndarray) -> ndarray:
        return w["peephole"][row * H : (row + 1) * H] * cell if peepholes else np.zeros_like(cell)

    f = sigmoid(gate(first) + look(first, c))
    i = 1 - f if coupled else sigmoid(gate(0) + look(0, c))
    c = f * c + i * tanh(gate(first + 1))
    return {"hidden": sigmoid(gate(first + 2) + look(first + 1, c)) * tanh(c), "cell": c}


def lstm1997(w: Weights, x: ndarray, s: State, *, block: int) -> State:
    """Cell by cell; ``biases`` are those of all units."""
    count = s["gates"].shape[1] // 2
    net = x @ w["weight_input"].T + np.concatenate([s["gates"], s["hidden"]], 1) @ w["weight_hidden"].T + w["bias"]
    gates, c, h = sigmoid(net[:, : 2 * count]), s["cell"].copy(), s["hidden"].copy()
    for j in range(H):
        of = j // block
        c[:, j] += gates[:, of] * (4 * sigmoid(net[:, 2 * count + j]) - 2)
        h[:, j] = gates[:, count + of] * (2 * sigmoid(c[:, j]) - 1)
    return {"hidden": h, "cell": c, "gates": gates}


def exprnn(w: Weights, x: ndarray, s: State, *, cayley: bool = False) -> State:
    k, entries = np.zeros((H, H)), iter(w["skew"])
    for i in range(H):
        for j in range(i + 1, H):
            k[i, j] = next(entries)
            k[j, i] = -k[i, j]
    q = np.linalg.inv(np.eye(H) + k) @ (np.eye(H) - k) if cayley else np.asarray(expm(k))
    v = np.stack([w["weight_input"] @ x[b] + q @ s["hidden"][b] for b in range(B)])
    return {"hidden": np.where(np.abs(v) + w["bias"] > 0, v + np.sign(v) * w["bias"], 0)}


def above_zero(a: ndarray) -> ndarray:
    return np.where(a >= 0, a + 0.5, sigmoid(a))


def mingru(w: Weights, x: ndarray, s: State) -> State:
    z = sigmoid(affine(w, 0, x))
    return {"hidden": (1 - z) * s["hidden"] + z * above_zero(affine(w, 1, x))}


def minlstm(w: Weights, x: ndarray, s: State, *, normalised: bool = True) -> State:
    f, i = sigmoid(affine(w, 0, x)), sigmoid(affine(w, 1, x))
    total = f + i if normalised else 1.0
    return {"hidden": (f * s["hidden"] + i * above_zero(affine(w, 2, x))) / total}


def rglru(w: Weights, x: ndarray, s: State) -> State:
    v = x @ w["weight_input"].T
    r, i = (sigmoid(v @ rows(w, "weight_gates", k).T + rows(w, "bias", k)) for k in (0, 1))
    a = sigmoid(-w["decay"]) ** (8 * r)
    return {"hidden": a * s["hidden"] + np.sqrt(1 - a**2) * i * v}


def per_head(w: Weights, x: ndarray) -> list[tuple[ndarray, ...]]:
    """q, k and v [B 2] of two heads of two numbers."""
    q, k, v = np.split(x @ w["project.weight"].T, 3, axis=-1)
    return [(q[:, at : at + 2], k[:, at : at + 2], v[:, at : at + 2]) for at in (0, 2)]


def linear_attention(w: Weights, x: ndarray, s: State) -> State:
    memory, total, read = s["memory"].copy(), s["total"].copy(), []
    for a, (q, k, v) in enumerate(per_head(w, x)):
        q, k = (np.where(part > 0, part + 1, np.exp(part)) for part in (q, k))
        memory[:, a] += np.einsum("bi,bj->bij", k, v)
        total[:, a] += k
        read.append(np.einsum("bij,bi->bj", memory[:, a], q) / ((total[:, a] * q).sum(-1, keepdims=True) + 1e-6))
    return {"memory": memory, "total": total, "output": np.concatenate(read, -1) @ w["leave.weight"].T}


def retention(w: Weights, x: ndarray, s: State) -> State:
    memory, read = s["memory"].copy(), []
    for a, (q, k, v) in enumerate(per_head(w, x)):
        memory[:, a] = (1 - 2.0 ** (-5 - a)) * memory[:, a] + np.einsum("bi,bj->bij", k, v)
        read.append(np.einsum("bij,bi->bj", memory[:, a], q) / math.sqrt(2))
    return {"memory": memory, "output": np.concatenate(read, -1) @ w["leave.weight"].T}


def delta_rule(w: Weights, x: ndarray, s: State, keep: ndarray, most: float = 1.0) -> State:
    memory, read = s["memory"].copy(), []
    beta = most * sigmoid(x @ w["write.weight"].T)
    for a, parts in enumerate(per_head(w, x)):
        q, k, v = (part * sigmoid(part) for part in parts)
        q, k = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (q, k))
        for b in range(B):
            kept = keep[b, a] * memory[b, a]
            memory[b, a] = kept @ np.eye(2) + beta[b, a] * np.outer(k[b], v[b] - kept.T @ k[b])
        read.append(np.einsum("bij,bi->bj", memory[:, a], q) / math.sqrt(2))
    return {"memory": memory, "output": np.concatenate(read, -1) @ w["leave.weight"].T}


def gated_deltanet(w: Weights, x: ndarray, s: State) -> State:
    softplus = np.log1p(np.exp(x @ w["forget.weight"].T + w["forget.bias"]))
    return delta_rule(w, x, s, np.exp(-np.exp(w["rate"]) * softplus))


def lru(w: Weights, x: ndarray, s: State) -> State:
    turn = np.exp(-np.exp(w["nu"]) + 1j * np.exp(w["theta"]))
    enter = w["enter"][:3] + 1j * w["enter"][3:]
    h = turn * (s["real"] + 1j * s["imaginary"]) + np.exp(w["gamma"]) * (x @ enter.T)
    y = (h @ (w["leave"][0] + 1j * w["leave"][1]).T).real + x @ w["past"].T
    return {"real": h.real, "imaginary": h.imag, "output": gelu(y)}


def slstm(w: Weights, x: ndarray, s: State, forget: Callable[[ndarray], ndarray] = sigmoid) -> State:
    """Unstabilised: c and n are those of the cell times e^m."""
    blocks = np.zeros((4, H, H))
    for gate in range(4):
        for a in (0, 1):
            blocks[gate, 2 * a : 2 * a + 2, 2 * a : 2 * a + 2] = w["weight_hidden"][gate, a]
    i, f, z, o = (affine(w, g, x) + s["hidden"] @ blocks[g].T for g in range(4))
    scale, new = np.exp(s["stabiliser"]), np.maximum(np.log(forget(f)) + s["stabiliser"], i)
    c = forget(f) * s["cell"] * scale + np.exp(i) * tanh(z)
    n = forget(f) * s["normaliser"] * scale + np.exp(i)
    return {"hidden": sigmoid(o) * c / n, "cell": c / np.exp(new), "normaliser": n / np.exp(new), "stabiliser": new}


def mlstm(w: Weights, x: ndarray, s: State, forget: Callable[[ndarray], ndarray] = sigmoid) -> State:
    """Unstabilised, as the paper has it first: C and n are those of the cell times e^m."""
    i, f = np.split(x @ w["weight_gates"].T + w["bias_gates"], 2, axis=-1)
    new, scale = np.maximum(np.log(forget(f)) + s["stabiliser"], i), np.exp(s["stabiliser"])
    memory, normaliser, read = np.zeros_like(s["memory"]), np.zeros_like(s["normaliser"]), []
    for a, (q, k, v) in enumerate(per_head(w, x)):
        looked = np.zeros((B, 2))
        for b in range(B):
            key = k[b] / math.sqrt(2)
            c = forget(f[b, a]) * s["memory"][b, a] * scale[b, a] + np.exp(i[b, a]) * np.outer(key, v[b])
            n = forget(f[b, a]) * s["normaliser"][b, a] * scale[b, a] + np.exp(i[b, a]) * key
            looked[b] = c.T @ q[b] / max(abs(n @ q[b]), 1.0)
            memory[b, a], normaliser[b, a] = c / np.exp(new[b, a]), n / np.exp(new[b, a])
        read.append(looked)
    gate = sigmoid(x @ w["output_gate.weight"].T + w["output_gate.bias"])
    output = gate * (np.concatenate(read, -1) @ w["leave.weight"].T)
    return {"memory": memory, "normaliser": normaliser, "stabiliser": new, "output": output}


def gla(w: Weights, x: ndarray, s: State) -> State:
    memory, read = s["memory"].copy(), []
    keep = sigmoid(x @ w["keep.0.weight"].T @ w["keep.1.weight"].T + w["keep.1.bias"]) ** (1 / 16)
    for a, (q, k, v) in enumerate(per_head(w, x)):
        for b in range(B):
            memory[b, a] = np.diag(keep[b, 2 * a : 2 * a + 2]) @ memory[b, a] + np.outer(k[b], v[b])
        read.append(np.einsum("bij,bi->bj", memory[:, a], q) / math.sqrt(2))
    return {"memory": memory, "output": np.concatenate(read, -1) @ w["leave.weight"].T}


def s4d(w: Weights, x: ndarray, s: State, *, mixing: bool = True) -> State:
    """With the matrix exponential of the state and its input together: zero-order hold by definition."""
    u, n = x @ w["enter.weight"].T, 3
    h = s["real"] + 1j * s["imaginary"]
    new, y = np.zeros_like(h), np.zeros((B, H))
    for unit in range(H):
        a = np.diag(-np.exp(w["log_decay"][unit]) + 1j * w["frequency"][unit])
        whole = np.asarray(expm(np.exp(w["log_dt"][unit]) * np.block([[a, np.ones((n, 1))], [np.zeros((1, n + 1))]])))
        new[:, unit] = h[:, unit] @ whole[:n, :n].T + u[:, unit, None] * whole[:n, n]
        c = w["leave"][0, unit] + 1j * w["leave"][1, unit]
        y[:, unit] = 2 * (new[:, unit] @ c).real + w["past"][unit] * u[:, unit]
    y = gelu(y)
    if mixing:
        first, second = np.split(y @ w["mix.weight"].T + w["mix.bias"], 2, axis=-1)
        y = first * sigmoid(second)
    return {"real": new.real, "imaginary": new.imag, "output": y}


def rwkv(w: Weights, x: ndarray, s: State) -> State:
    """Unstabilised: a and b are those of the cell times e^p."""
    mixed = [mu * x + (1 - mu) * s["previous"] for mu in w["mix"]]
    k, v, r = (part @ weight.T for part, weight in zip(mixed, w["weight_input"], strict=True))
    a, b = (s[name] * np.exp(s["exponent"]) for name in ("numerator", "denominator"))
    now, kept = np.exp(w["present"] + k), np.exp(-np.exp(w["log_decay"]))
    output = (sigmoid(r) * (a + now * v) / (b + now)) @ w["leave.weight"].T
    p = np.maximum(s["exponent"] - np.exp(w["log_decay"]), k)
    a, b = (kept * a + np.exp(k) * v) / np.exp(p), (kept * b + np.exp(k)) / np.exp(p)
    return {"previous": x, "numerator": a, "denominator": b, "exponent": p, "output": output}


ORACLES: dict[str, tuple[Callable[[], Cell], Step]] = {
    "gla": (lambda: GLA(D, H, heads=2, rank=3), gla),
    "s4d": (lambda: S4D(D, H, states=6), s4d),
    "s4d, not mixed": (lambda: S4D(D, H, states=6, mixing=False), lambda w, x, s: s4d(w, x, s, mixing=False)),
    "rwkv": (lambda: RWKV(D, H), rwkv),
    "lru": (lambda: LRU(D, H, states=3), lru),
    "slstm": (lambda: SLSTM(D, H, heads=2), slstm),
    "mlstm": (lambda: MLSTM(D, H, heads=2), mlstm),
    "slstm, exp": (lambda: SLSTM(D, H, heads=2, forget="exp"), lambda w, x, s: slstm(w, x, s, np.exp)),
    "mlstm, exp": (lambda: MLSTM(D, H, heads=2, forget="exp"), lambda w, x, s: mlstm(w, x, s, np.exp)),
    "linear_attention": (lambda: LinearAttention(D, H, heads=2), linear_attention),
    "retention": (lambda: Retention(D, H, heads=2), retention),
    "deltanet": (lambda: DeltaNet(D, H, heads=2), lambda w, x, s: delta_rule(w, x, s, np.ones((B, 2)))),
    "deltanet, negative": (
        lambda: DeltaNet(D, H, heads=2, negative=True),
        lambda w, x, s: delta_rule(w, x, s, np.ones((B, 2)), 2.0),
    ),
    "gated_deltanet": (lambda: GatedDeltaNet(D, H, heads=2), gated_deltanet),
    "lstm": (lambda: LSTM(D, H, forget_bias=1.0), lstm),
    "lstm, peepholes": (
        lambda: LSTM(D, H, seq_len=9, peepholes=True),
        lambda w, x, s: lstm(w, x, s, peepholes=True),
    ),
    "lstm, coupled": (
        lambda: LSTM(D, H, seq_len=9, coupled=True),
        lambda w, x, s: lstm(w, x, s, coupled=True),
    ),
    "lstm, peepholes and coupled": (
        lambda: LSTM(D, H, seq_len=9, peepholes=True, coupled=True),
        lambda w, x, s: lstm(w, x, s, peepholes=True, coupled=True),
    ),
    "lstm1997": (lambda: LSTM1997(D, H), lambda w, x, s: lstm1997(w, x, s, block=1)),
    "lstm1997, blocks": (lambda: LSTM1997(D, H, block=3), lambda w, x, s: lstm1997(w, x, s, block=3)),
    "ugrnn": (lambda: UGRNN(D, H), ugrnn),
    "mgu": (lambda: MGU(D, H, forget_bias=1.0), mgu),
    "janet": (lambda: JANET(D, H, beta=0.7, forget_bias=1.0), janet),
    "irnn": (lambda: IRNN(D, H), irnn),
    "indrnn": (lambda: IndRNN(D, H, seq_len=20), indrnn),
    "antisymmetric": (lambda: Antisymmetric(D, H, epsilon=0.2, gamma=0.3), antisymmetric),
    "antisymmetric, gated": (
        lambda: Antisymmetric(D, H, epsilon=0.2, gamma=0.3, gated=True),
        lambda w, x, s: antisymmetric(w, x, s, gated=True),
    ),
    "exprnn": (lambda: ExpRNN(D, H), exprnn),
    "exprnn, cayley": (lambda: ExpRNN(D, H, map="cayley"), lambda w, x, s: exprnn(w, x, s, cayley=True)),
    "cornn": (lambda: CoRNN(D, H, dt=0.1, gamma=2.0, epsilon=3.0), cornn),
    "unicornn": (lambda: UnICORNN(D, H, dt=0.3, alpha=5.0), unicornn),
    "lem": (lambda: LEM(D, H, dt=0.6), lem),
    "lmu": (lambda: LMU(D, H, order=3, seq_len=20), lmu),
    "mingru": (lambda: MinGRU(D, H, forget_bias=None), mingru),
    "minlstm": (lambda: MinLSTM(D, H, forget_bias=None), minlstm),
    "minlstm, as it is": (
        lambda: MinLSTM(D, H, forget_bias=None, normalised=False),
        lambda w, x, s: minlstm(w, x, s, normalised=False),
    ),
    "rglru": (lambda: RGLRU(D, H), rglru),
}


def drawn(make: Callable[[], C], name: str) -> C:
    """A float64 cell, all of whose weights are random: none is zero, none equals another."""
    with ambient(0, name):
        with torch.random.fork_rng(), _float64():
            cell = make().double()
        with torch.no_grad():
            for parameter in cell.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
    return cell


class _float64:  # noqa: N801  reads like torch's own
    """Buffers are made in float64, too."""

    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        torch.set_default_dtype(torch.float32)


def random(*sizes: int, seed: int) -> Tensor:
    return torch.randn(*sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_cell_has_an_oracle():
    """rnn and gru: torch.nn, in test_cells.py. torchrecurrent: the package itself, in test_torchrecurrent.py."""
    elsewhere = {"rnn", "gru", "torchrecurrent", "mamba", "attention", "tcn"}  # the last three below
    assert {name.partition(",")[0] for name in ORACLES} | elsewhere == set(CELLS)


def test_every_cell_has_its_equations_on_one_page_of_the_documents():
    pages = [path.read_text() for path in (Path(__file__).parents[1] / "docs" / "cells").glob("*.md")]
    shown = [
        block for page in pages for block in re.findall(r"<!-- equations: (\w+) -->\n(.*?)<!-- end -->", page, re.S)
    ]
    assert sorted(name for name, _ in shown) == sorted(set(CELLS) - {"torchrecurrent"})
    for name, text in shown:
        assert text.strip() in (inspect.getdoc(inspect.getmodule(CELLS[name])) or ""), (
            "scripts/families makes them again"
        )
        assert "_t" in text, name


@pytest.mark.parametrize("name", ORACLES)
def test_a_cell_computes_the_equations_of_its_paper(name: str):
    make, step = ORACLES[name]
    cell, xs = drawn(make, name), random(T, B, D, seed=1)
    weights = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    start = {key: random(*leaf.shape, seed=2 + i) for i, (key, leaf) in enumerate(cell.initial_state(B).items())}
    expected = {key: leaf.numpy() for key, leaf in start.items()}
    for (output, state), x in zip(steps(cell, xs.unbind(0), start), xs.numpy(), strict=True):
        expected = step(weights, x, expected)
        answer = expected.pop("output") if "output" in expected else expected["hidden"]
        assert state.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(state[key].detach().numpy(), value, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(output.detach().numpy(), answer, rtol=1e-10, atol=1e-12)


def swapped(weight: Tensor) -> Tensor:
    """The two blocks of rows, the other way round."""
    return torch.cat([*reversed(weight.chunk(2))])


TWINS: dict[str, tuple[Callable[[], nn.Module], Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]] = {
    "lstm, peepholes": (
        lambda: others.PeepholeLSTMCell(D, H),
        lambda w: {
            "weight_ih": w["fused.weight_ih_l0"], "weight_hh": w["fused.weight_hh_l0"],
            "bias_ih": w["fused.bias_ih_l0"], "weight_ph": w["peephole"],
        },
    ),
    "ugrnn": (
        lambda: others.UGRNNCell(D, H),
        lambda w: {
            "weight_ih": swapped(w["weight_input"]), "weight_hh": swapped(w["weight_hidden"]),
            "bias_ih": swapped(w["bias"]),
        },
    ),
    "mgu": (
        lambda: others.MGUCell(D, H),
        lambda w: {"weight_ih": w["weight_input"], "weight_hh": w["weight_hidden"], "bias_ih": w["bias"]},
    ),
    "janet": (
        lambda: others.JANETCell(D, H),
        lambda w: {
            "weight_ih": w["weight_input"], "weight_hh": w["weight_hidden"], "bias_ih": w["bias"],
            "beta": torch.tensor(0.7, dtype=torch.float64),
        },
    ),
    "indrnn": (
        lambda: others.IndRNNCell(D, H, nonlinearity="relu"),
        lambda w: {
            "weight_ih": w["weight_input"], "vector_u": w["weight_hidden"].clamp(-(2 ** (1 / 20)), 2 ** (1 / 20)),
            "bias_ih": w["bias"],
        },
    ),
    "antisymmetric": (
        lambda: others.AntisymmetricRNNCell(D, H, epsilon=0.2, gamma=0.3),
        lambda w: {"weight_ih": w["weight_input"], "weight_hh": w["weight_hidden"], "bias_ih": w["bias"]},
    ),
    "antisymmetric, gated": (
        lambda: others.GatedAntisymmetricRNNCell(D, H, epsilon=0.2, gamma=0.3),
        lambda w: {"weight_ih": w["weight_input"], "weight_hh": w["weight_hidden"], "bias_ih": w["bias"]},
    ),
    "cornn": (
        lambda: others.coRNNCell(D, H, dt=0.1, gamma=2.0, epsilon=3.0),
        lambda w: {
            "weight_ih": w["weight"][:, :D], "weight_ch": w["weight"][:, D : D + H],
            "weight_hh": w["weight"][:, D + H :], "bias_ih": w["bias"],
        },
    ),
    "unicornn": (
        lambda: others.UnICORNNCell(D, H, dt=0.3, alpha=5.0),
        lambda w: {
            "weight_ih": w["weight_input"], "weight_hh": w["weight_hidden"], "weight_ch": w["timescale"],
            "bias_ih": w["bias"],
        },
    ),
}  # fmt: skip
"""Name in ORACLES -> torchrecurrent's cell, and its weights from ours. Its LEM (0.2.5) is none: its output reads the
old memory, the paper's and the authors' the new one."""


@pytest.mark.parametrize("name", TWINS)
def test_a_cell_equals_torchrecurrents_twin_with_copied_weights(name: str):
    cell, xs = drawn(ORACLES[name][0], name), random(T, B, D, seed=1)
    twin, weights = TWINS[name][0]().double(), TWINS[name][1](dict(cell.named_parameters()))
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(weights[key]) if key in weights else parameter.zero_()
        theirs: object = None
        for x, (output, _) in zip(xs, steps(cell, xs.unbind(0), cell.initial_state(B)), strict=True):
            theirs = twin(x, theirs)
            expected = theirs[0] if isinstance(theirs, tuple) else theirs
            torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


MATRICES: dict[str, Callable[[], Cell]] = {
    "linear_attention": lambda: LinearAttention(D, H, heads=2),
    "retention": lambda: Retention(D, H, heads=2),
    "mlstm": lambda: MLSTM(D, H, heads=2),
    "mlstm, exp": lambda: MLSTM(D, H, heads=2, forget="exp"),
    "deltanet, negative": lambda: DeltaNet(D, H, heads=2, negative=True),
    "gated_deltanet": lambda: GatedDeltaNet(D, H, heads=2),
    "gla": lambda: GLA(D, H, heads=2, rank=None),
}


@pytest.mark.parametrize("name", MATRICES)
def test_chunks_of_a_matrix_memory_are_its_steps(name: str, monkeypatch: pytest.MonkeyPatch):
    """In values, the final state and all gradients, where chunks end within the sequence."""
    monkeypatch.setattr(matrix_memory, "CHUNK", 3)
    cell, xs = drawn(MATRICES[name], "chunks"), random(8, B, D, seed=1).requires_grad_()
    start = {key: random(*leaf.shape, seed=2).requires_grad_() for key, leaf in cell.initial_state(B).items()}
    by = [xs, *start.values(), *(parameter for parameter in cell.parameters() if parameter.requires_grad)]

    def everything(outputs: Tensor, end: Mapping[str, Tensor]) -> list[Tensor]:
        values = [outputs, *end.values()]
        weights = [random(*value.shape, seed=3 + i) for i, value in enumerate(values)]
        return [*values, *torch.autograd.grad(values, by, weights)]

    *_, (_, end) = walked = [*steps(cell, xs.unbind(0), start)]
    expected = everything(torch.stack([output for output, _ in walked]), end)
    torch.testing.assert_close(everything(*cell(xs, start)), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["mlstm", "gated_deltanet", "gla"])
@pytest.mark.parametrize("gate", [-300.0, 300.0])
def test_gates_that_close_or_open_at_once_leave_float32_finite_and_right(name: str, gate: float):
    """A product of what is kept vanishes, or a sum of exponents is large: chunks are still the steps."""
    cell, xs = drawn(MATRICES[name], "gates").float(), random(70, B, D, seed=1).float()
    xs[:, :, 0] = gate * (torch.arange(70) % 5 == 2)[:, None]
    outputs = torch.stack([output for output, _ in steps(cell, xs.unbind(0), cell.initial_state(B))])
    torch.testing.assert_close(cell(xs)[0], outputs, rtol=2e-3, atol=2e-4)


def test_chunks_of_an_lru_are_its_steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seqmem.cells.lru.CHUNK", 3)
    cell, xs = drawn(lambda: LRU(D, H, states=3), "chunks"), random(8, B, D, seed=1)
    start = {key: random(*leaf.shape, seed=2 + i) for i, (key, leaf) in enumerate(cell.initial_state(B).items())}
    *_, (_, end) = walked = [*steps(cell, xs.unbind(0), start)]
    torch.testing.assert_close(cell(xs, start), (torch.stack([output for output, _ in walked]), end))


@pytest.mark.parametrize("name", ["s4d", "mamba", "mamba, negative"])
def test_chunks_of_a_state_space_are_its_steps(name: str, monkeypatch: pytest.MonkeyPatch):
    """In values, the final state and all gradients, where chunks end within the sequence."""
    monkeypatch.setattr(f"seqmem.cells.{name.partition(',')[0]}.CHUNK", 3)
    make: dict[str, Callable[[], Cell]] = {
        "s4d": ORACLES["s4d"][0],
        "mamba": lambda: Mamba(D, H, expand=1, states=3),
        "mamba, negative": lambda: Mamba(D, H, expand=1, states=3, negative=True),
    }
    cell, xs = drawn(make[name], "chunks"), random(8, B, D, seed=1).requires_grad_()
    by = [xs, *cell.parameters()]

    def everything(outputs: Tensor, end: Mapping[str, Leaf]) -> list[Tensor]:
        values = [outputs, *leaves(end)]
        weights = [random(*value.shape, seed=3 + i) for i, value in enumerate(values)]
        return [*values, *torch.autograd.grad(values, by, weights)]

    *_, (_, end) = walked = [*steps(cell, xs.unbind(0), cell.initial_state(B))]
    expected = everything(torch.stack([output for output, _ in walked]), end)
    torch.testing.assert_close(everything(*cell(xs)), expected, rtol=1e-9, atol=1e-10)


def test_s4d_is_a_convolution():
    """With the response of its continuous system: 2 Re(C exp(A s)), integrated over each sample."""
    cell, u = drawn(lambda: S4D(H, H, states=6, mixing=False), "s4d"), random(20, B, H, seed=1)
    a = (-cell.log_decay.exp() + 1j * cell.frequency).detach().numpy()
    c, dt = (cell.leave[0] + 1j * cell.leave[1]).detach().numpy(), cell.log_dt.exp().detach().numpy()[:, None]
    held = [((np.exp(a * dt * (lag + 1)) - np.exp(a * dt * lag)) / a * c).sum(-1).real * 2 for lag in range(20)]
    y = cell.past.detach().numpy() * u.numpy()
    for t in range(20):
        for s in range(t + 1):
            y[t] += held[t - s] * u[s].numpy()
    np.testing.assert_allclose(cell(u)[0].detach().numpy(), gelu(y), rtol=1e-10, atol=1e-12)


def test_s4d_begins_as_a_fourier_basis_at_the_papers_rates():
    with ambient(0, "s4d"):
        cell = S4D(3, 2000, states=4)
    first = (-0.5 + 1j * math.pi * torch.arange(2)).expand(2000, 2)
    torch.testing.assert_close(-cell.log_decay.exp() + 1j * cell.frequency, first)
    assert 0.00099 <= cell.log_dt.exp().min() < 0.00102
    assert 0.098 < cell.log_dt.exp().max() <= 0.1001
    assert cell.log_dt.mean().item() == pytest.approx(math.log(0.01), abs=0.14)  # 4.5 standard errors
    assert cell.leave.square().sum(0).mean().item() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("negative", [False, True])
def test_mamba_is_the_papers_block_written_out(negative: bool):
    """Unit, number, sequence and timestep one by one."""
    cell = drawn(lambda: Mamba(D, H, expand=2, states=3, kernel=3, rank=2, negative=negative), "mamba")
    xs = random(T, B, D, seed=1)
    w = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    v, z = np.split(xs.numpy() @ w["enter.weight"].T, 2, axis=-1)
    expected, h = np.zeros((T, B, H)), np.zeros((B, 2 * H, 3))
    for b in range(B):
        for t in range(T):
            u = w["bias"] + np.sum([w["taps"][2 - j] * v[t - j, b] for j in range(3) if t >= j], 0)
            u = u * sigmoid(u)
            low, enter, leave = np.split(w["select.weight"] @ u, [2, 5])
            dt = np.log1p(np.exp(w["rate.weight"] @ low + w["rate.bias"]))
            y = w["past"] * u
            for i in range(2 * H):
                for n in range(3):
                    kept = np.exp(-dt[i] * np.exp(w["log_decay"][i, n]))
                    h[b, i, n] = (2 * kept - 1 if negative else kept) * h[b, i, n] + dt[i] * enter[n] * u[i]
                    y[i] += leave[n] * h[b, i, n]
            expected[t, b] = w["leave.weight"] @ (y * z[t, b] * sigmoid(z[t, b]))
    outputs, final = cell(xs)
    for ours, theirs in ((outputs, expected), (final["memory"], h)):  # a sum of both signs is as exact as its parts
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-10, atol=1e-12 * np.abs(theirs).max())


def test_a_negative_mamba_keeps_a_share_and_may_turn_its_sign():
    cell, x = drawn(lambda: Mamba(D, H, states=3, negative=True), "mamba"), random(B, D, seed=1)
    state = cell.initial_state(B)
    keep = cell.additive(x, state)["memory"].keep
    assert keep.min() < 0
    assert ((cell.gates(x, state)["keep"] >= 0) & (cell.gates(x, state)["keep"] <= 1)).all()
    torch.testing.assert_close(cell.gates(x, state)["keep"], keep.abs().flatten(1))


def test_mamba_begins_at_the_papers_rates():
    with ambient(0, "mamba"):
        cell = Mamba(D, 1000, states=4)
    rates = nn.functional.softplus(cell.rate.bias)
    assert 0.00099 <= rates.min() < 0.00102
    assert 0.098 < rates.max() <= 0.1001
    torch.testing.assert_close(cell.log_decay.exp(), torch.tensor([1.0, 2, 3, 4]).expand(2000, 4))
    assert cell.rank == 63


def test_rwkv_weighs_the_past_by_keys_and_distance():
    """Its sum over the past written out, where keys are so large that exp would overflow."""
    cell, xs = drawn(lambda: RWKV(D, H), "rwkv"), 300 * random(T, B, D, seed=1)
    w = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    before = np.concatenate([np.zeros((1, B, D)), xs.numpy()[:-1]])
    k, v, r = ((mu * xs.numpy() + (1 - mu) * before) @ u.T for mu, u in zip(w["mix"], w["weight_input"], strict=True))
    expected = np.zeros((T, B, H))
    for t in range(T):
        logs = [k[s] - (t - 1 - s) * np.exp(w["log_decay"]) for s in range(t)] + [w["present"] + k[t]]
        shares = np.exp(np.stack(logs) - np.max(logs, 0))
        average = np.sum(shares * v[: t + 1], 0) / shares.sum(0)
        expected[t] = ((1 + tanh(r[t] / 2)) / 2 * average) @ w["leave.weight"].T
    np.testing.assert_allclose(cell(xs)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_an_lru_begins_on_its_ring_and_neither_grows_nor_shrinks_what_it_is_told():
    with ambient(0, "lru"):
        cell = LRU(D, 9, states=4000, fastest=0.5, slowest=0.8)
    size = (-cell.nu.exp()).exp().detach()
    assert 0.499 < size.min() < 0.51
    assert 0.79 < size.max() < 0.801
    assert size.square().mean().item() == pytest.approx((0.5**2 + 0.8**2) / 2, abs=0.009)  # 4.5 standard errors
    torch.testing.assert_close(cell.gamma.exp().square() + size.square(), torch.ones(4000))


def test_the_delta_rule_writes_so_that_the_key_reads_the_value():
    """With beta = 1 and a key of length 1: S^T k = v, whatever was there."""
    cell, x = drawn(lambda: DeltaNet(D, H, heads=2), "delta"), random(B, D, seed=1)
    x[:, 0] = 50.0
    with torch.no_grad():
        cell.write.weight.zero_()[:, 0] = 1.0
    _, state = cell.step(x, {"memory": random(B, 2, 2, 2, seed=2)})
    _, key, value = (part * part.sigmoid() for part in cell.projected(x))
    read = matrix_memory.read(state["memory"], matrix_memory.unit(key))
    torch.testing.assert_close(read, value, rtol=1e-4, atol=1e-4)


def layer_norm(x: ndarray, w: Weights, name: str) -> ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: ndarray) -> ndarray:
    return x * (1 + np.asarray(erf(x / math.sqrt(2)))) / 2


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
def test_attention_is_a_transformer_block_written_out(
    positions: str, window: int | None, monkeypatch: pytest.MonkeyPatch
):
    """Position, head and sequence one by one; pairs of numbers are complex ones, turned by e^(i t theta)."""
    monkeypatch.setattr("seqmem.cells.attention._BLOCK", 4)
    cell = drawn(lambda: Attention(D, 8, heads=2, positions=positions, window=window, seq_len=5), "attention")
    w = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    xs = random(T, B, D, seed=1)
    x = xs.numpy() @ w["enter.weight"].T
    if positions == "learned":
        x = x + np.stack([w["places"][min(t, 4)] for t in range(T)])[:, None]  # five of them, for six timesteps
    q, k, v = np.split(layer_norm(x, w, "norm") @ w["project.weight"].T, 3, axis=-1)

    def turned(vector: ndarray, t: int) -> ndarray:
        if positions != "rotary":
            return vector
        complexes = vector[0::2] + 1j * vector[1::2]
        complexes = complexes * np.exp(1j * t * 10000.0 ** (-2 * np.arange(2) / 4))
        return np.stack([complexes.real, complexes.imag], -1).ravel()

    looked = np.zeros((T, B, 8))
    for t in range(T):
        for b in range(B):
            for head in (slice(0, 4), slice(4, 8)):
                seen = range(0 if window is None else max(0, t - window + 1), t + 1)
                scores = np.array([turned(q[t, b, head], t) @ turned(k[s, b, head], s) / 2 for s in seen])
                shares = np.exp(scores) / np.exp(scores).sum()
                looked[t, b, head] = sum(share * v[s, b, head] for share, s in zip(shares, seen, strict=True))
    y = x + looked @ w["leave.weight"].T
    inner = gelu(layer_norm(y, w, "second.0") @ w["second.1.weight"].T + w["second.1.bias"])
    expected = y + inner @ w["second.3.weight"].T + w["second.3.bias"]
    np.testing.assert_allclose(cell(xs)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_tcn_is_torchs_convolutions_with_weight_norm():
    """Padded on both sides and cut off at the end, as the authors have it."""
    cell, xs = drawn(lambda: TCN(D, H, levels=3, kernel=2), "tcn"), random(12, B, D, seed=1)
    x = xs.permute(1, 2, 0)
    for level in range(3):
        a = x
        for part in (cell.first[level], cell.second[level]):
            conv = weight_norm(nn.Conv1d(a.shape[1], H, 2, padding=2**level, dilation=2**level)).double()
            ours, theirs = dict(part.named_parameters()), dict(conv.named_parameters())
            with torch.no_grad():
                for name, parameter in theirs.items():
                    last = name.rpartition(".")[2]
                    parameter.copy_(ours[{"original0": "length", "original1": "direction"}.get(last, last)])
            a = conv(a)[..., : -(2**level)].relu()
        around = x if level else cell.enter(xs).permute(1, 2, 0)
        x = (a + around).relu()
    torch.testing.assert_close(cell(xs)[0], x.permute(2, 0, 1), rtol=1e-10, atol=1e-12)


def test_a_tcn_sees_as_far_as_it_says():
    cell = drawn(lambda: TCN(D, H, levels=3, kernel=2), "tcn")
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.abs_()  # so that every unit is open
    xs = random(40, 1, D, seed=1).abs().requires_grad_()
    (gradient,) = torch.autograd.grad(cell(xs)[0][-1].sum(), xs)
    assert gradient.abs().sum((1, 2)).nonzero()[0].item() == 40 - (1 + 2 * (2 - 1) * (2**3 - 1))


@pytest.mark.parametrize("coupled", [False, True])
def test_an_lstm_whose_peepholes_are_zero_is_the_plain_one(coupled: bool):
    cell = drawn(lambda: LSTM(D, H, seq_len=9, coupled=coupled, peepholes=True), "peepholes")
    twin, xs = drawn(lambda: LSTM(D, H, seq_len=9, coupled=coupled), "plain"), random(T, B, D, seed=1)
    cell.load_state_dict(twin.state_dict(), strict=False)
    assert cell.peephole is not None
    torch.nn.init.zeros_(cell.peephole)
    torch.testing.assert_close(cell(xs), twin(xs), rtol=1e-12, atol=1e-14)


def test_a_coupled_lstm_is_torchs_whose_rows_of_i_are_minus_those_of_f():
    cell, twin = drawn(lambda: LSTM(D, H, seq_len=9, coupled=True), "coupled"), nn.LSTM(D, H).double()
    ours, xs = dict(cell.fused.named_parameters()), random(T, B, D, seed=1)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(torch.cat([-ours[name][:H], ours[name]]))
    torch.testing.assert_close(cell(xs)[0], twin(xs)[0], rtol=1e-12, atol=1e-14)
    assert sum(p.numel() for p in cell.parameters() if p.requires_grad) == 3 * H * (D + H + 1)


@pytest.mark.parametrize(
    ("published", "sizes", "blocks", "block", "biases", "output_bias"),
    [
        (264, (7, 7), 4, 1, "gates", False),  # experiment 1
        (276, (7, 7), 3, 2, "gates", False),
        *((6 * (q + 4) + 40, (q + 4, 2), 2, 1, "none", False) for q in (50, 100, 200, 500, 1000)),  # 2c
        (102, (1, 1), 3, 1, "all", False),  # 3
        (93, (2, 1), 2, 2, "all", True),  # 4 and 5
        (156, (8, 4), 2, 2, "all", True),  # 6a
        (308, (8, 8), 3, 2, "all", True),  # 6b
    ],
)
def test_an_lstm1997_and_a_readout_have_the_weights_that_the_paper_counts(
    published: int, sizes: tuple[int, int], blocks: int, block: int, biases: str, output_bias: bool
):
    """The paper's networks are the cell, with one-hot or real inputs, and the connections of h to the outputs."""
    assert published in (264, 276, 364, 664, 1264, 3064, 6064, 102, 93, 156, 308)
    inputs, outputs = sizes
    cell = LSTM1997(inputs, blocks * block, block=block, biases=biases)
    readout = nn.Linear(blocks * block, outputs, bias=output_bias)
    assert sum(p.numel() for p in [*cell.parameters(), *readout.parameters()]) == published


def test_a_truncated_lstm1997_learns_by_the_papers_rule():
    """Its appendix: dc_t/dw is carried forward, and what a unit sees of the past is no function of the weights."""
    cell, xs = drawn(lambda: LSTM1997(D, H, block=2, truncated=True), "truncated"), random(T, B, D, seed=1)
    whole = LSTM1997(D, H, block=2)
    whole.double().load_state_dict(cell.state_dict())
    outputs, _ = cell(xs)
    torch.testing.assert_close(outputs, whole(xs)[0], rtol=1e-13, atol=1e-15)
    error = random(B, H, seed=2)
    (gradient,) = torch.autograd.grad((outputs[-1] * error).sum(), cell.weight_hidden)

    w = {key: value.detach().numpy() for key, value in cell.named_parameters()}
    state = {key: value.numpy() for key, value in cell.initial_state(B).items()}
    count, units = 2, 4 + H
    carried = np.zeros((B, H, units, units))  # dc/dR
    u = s = np.zeros((B, units))
    for x in xs.numpy():
        u = np.concatenate([state["gates"], state["hidden"]], 1)
        net = x @ w["weight_input"].T + u @ w["weight_hidden"].T + w["bias"]
        s = sigmoid(net)
        state = lstm1997(w, x, state, block=2)
        for j in range(H):
            enter, own = j // 2, 2 * count + j
            carried[:, j, own] += (s[:, enter] * 4 * s[:, own] * (1 - s[:, own]))[:, None] * u
            carried[:, j, enter] += (s[:, enter] * (1 - s[:, enter]) * (4 * s[:, own] - 2))[:, None] * u
    expected, squashed = np.zeros((units, units)), sigmoid(state["cell"])
    for j in range(H):
        leave = count + j // 2
        by_cell = error.numpy()[:, j] * s[:, leave] * 2 * squashed[:, j] * (1 - squashed[:, j])
        expected += np.einsum("b,bmn->mn", by_cell, carried[:, j])
        by_gate = error.numpy()[:, j] * (2 * squashed[:, j] - 1) * s[:, leave] * (1 - s[:, leave])
        expected[leave] += by_gate @ u
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("block", "biases"), [(1, "all"), (2, "gates"), (3, "none")])
def test_a_truncated_lstm1997_in_two_passes_is_its_steps(block: int, biases: str):
    """Outputs, final state and every gradient, from a state in the middle of a sequence."""
    cell = drawn(lambda: LSTM1997(D, H, block=block, truncated=True, biases=biases), f"two passes {block}")
    with torch.no_grad():
        cell.weight_hidden.mul_(3)  # so that the past matters
    xs = random(T, B, D, seed=1).requires_grad_()
    start = {key: random(*leaf.shape, seed=2).requires_grad_() for key, leaf in cell.initial_state(B).items()}

    def seen(forward: Callable[..., tuple[Tensor, Mapping[str, Leaf]]]) -> tuple[object, ...]:
        outputs, final = forward(xs, start)
        loss = (outputs * random(T, B, H, seed=3)).sum() + sum(leaf.square().sum() for leaf in leaves(final))
        wanted = [xs, start["cell"], *cell.parameters()]
        return outputs, final, torch.autograd.grad(loss, wanted)

    torch.testing.assert_close(seen(cell), seen(partial(Cell.forward, cell)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["exp", "cayley"])
def test_an_exprnn_keeps_the_gradients_norm_over_500_steps(kind: str):
    """Without a bias modrelu lets everything pass as it is, so that the carry is linear and orthogonal."""
    cell = drawn(lambda: ExpRNN(D, 16, map=kind), "orthogonal")
    cell.requires_grad_(requires_grad=False)
    cell.bias.zero_()
    hidden, hiddens = random(B, 16, seed=1).requires_grad_(), []
    for x in random(500, B, D, seed=2):
        hiddens.append(hidden)
        hidden, _ = cell.step(x, {"hidden": hidden})
    gradients = torch.autograd.grad((hidden * random(B, 16, seed=3)).sum(), hiddens)
    norms = torch.stack(gradients).norm(dim=-1)
    torch.testing.assert_close(norms / norms[-1], torch.ones_like(norms), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["exp", "cayley"])
def test_an_exprnn_begins_by_turning_planes_by_angles_of_its_range(kind: str):
    with ambient(0, "exprnn"):
        cell = ExpRNN(D, 300, map=kind).double()
    q = cell.rotation().detach()
    torch.testing.assert_close(q.T @ q, torch.eye(300, dtype=torch.float64), rtol=0, atol=1e-12)
    angles = torch.atan2(q[0::2, 1::2].diag(), q[0::2, 0::2].diag())  # of the block [[cos, sin], [-sin, cos]]
    torch.testing.assert_close(q[0::2, 0::2].diag(), angles.cos(), rtol=0, atol=1e-12)
    least, most = (-math.pi, math.pi) if kind == "exp" else (0, math.pi / 2)
    assert least <= angles.min() < least + 0.1 * (most - least)
    assert most - 0.1 * (most - least) < angles.max() <= most
    assert angles.mean().item() == pytest.approx((least + most) / 2, abs=4.5 * (most - least) / (12 * 150) ** 0.5)


def test_the_steps_of_an_exprnn_follow_its_weights_and_keep_no_graph():
    """They remember Q while no gradient is recorded. Weights may change in memory that they share with a tensor."""
    cell, x = drawn(lambda: ExpRNN(D, H), "memory"), random(B, D, seed=1)
    start, memory = {"hidden": random(B, H, seed=2)}, torch.cat([cell.skew.detach(), torch.zeros(1).double()])
    cell.skew.data = memory[:-1]
    for _ in range(2):
        with torch.no_grad():
            expected = cell(x[None], start)[0][0]
            torch.testing.assert_close(cell.step(x, start)[0], expected)
            torch.testing.assert_close(cell.step(x, start)[0], expected)
        for _ in range(2):
            output, _ = cell.step(x, start)
            (gradient,) = torch.autograd.grad(output.sum(), cell.skew)
            assert gradient.abs().sum() > 0
        memory.mul_(1.5)


def test_attention_takes_any_hidden_size():
    assert Attention(D, 7)(torch.zeros(2, B, D))[0].shape == (2, B, 7)


def test_janet_without_beta_is_the_ugrnn():
    cell, xs = drawn(lambda: JANET(D, H, beta=0.0, forget_bias=1.0), "janet"), random(T, B, D, seed=1)
    twin = drawn(lambda: UGRNN(D, H), "ugrnn")
    twin.load_state_dict(cell.state_dict())
    torch.testing.assert_close(cell(xs), twin(xs))


def test_every_step_of_a_unicornn_can_be_undone():
    cell, x = drawn(lambda: UnICORNN(D, H), "unicornn"), random(B, D, seed=1)
    start = {"hidden": random(B, H, seed=2), "velocity": random(B, H, seed=3)}
    _, new = cell.step(x, start)
    dt = cell.dt * cell.timescale.sigmoid()
    y = new["hidden"] - dt * new["velocity"]
    z = new["velocity"] + dt * ((cell.weight_hidden * y + x @ cell.weight_input.T + cell.bias).tanh() + cell.alpha * y)
    torch.testing.assert_close((y, z), (start["hidden"], start["velocity"]), rtol=1e-10, atol=1e-12)


def test_the_units_gradient_of_an_indrnn_is_at_most_the_bound_over_a_sequence():
    cell = drawn(lambda: IndRNN(D, H, most=2.0, seq_len=10), "indrnn")
    with torch.no_grad():
        cell.weight_hidden.fill_(3.0)  # as after an update that went too far
        cell.weight_input.fill_(0.1)
        cell.bias.fill_(1.0)  # every unit stays open
    start = {"hidden": torch.ones(B, H, dtype=torch.float64, requires_grad=True)}
    _, final = cell(torch.zeros(10, B, D, dtype=torch.float64), start)
    (gradient,) = torch.autograd.grad(final["hidden"].sum(), start["hidden"])
    torch.testing.assert_close(gradient, torch.full_like(gradient, 2.0))
    assert torch.autograd.grad(cell(torch.ones(2, B, D).double())[0].sum(), cell.weight_hidden)[0].abs().min() > 0


def test_an_antisymmetric_cell_without_diffusion_turns_its_state():
    """Eigenvalues of A - A^T are imaginary: to first order in epsilon the norm stays as it is."""
    cell = drawn(lambda: Antisymmetric(D, H, epsilon=1e-4, gamma=0.0), "antisymmetric")
    with torch.no_grad():
        cell.bias.zero_()
    h = 1e-3 * random(B, H, seed=1)
    _, new = cell.step(torch.zeros(B, D, dtype=torch.float64), {"hidden": h})
    assert (new["hidden"] - h).norm() > 1e-8
    torch.testing.assert_close(new["hidden"].norm(dim=1), h.norm(dim=1), rtol=1e-6, atol=0)


def test_the_memory_of_an_lmu_is_a_delay_line():
    """A slow sine: the polynomials' sum at one end is what came in now, at the other what came in a window ago."""
    window, order = 50, 8
    a, b = legendre_memory(order, float(window))
    m, signal = torch.zeros(order, dtype=torch.float64), [math.sin(2 * math.pi * t / 120) for t in range(300)]
    signs = (-1.0) ** torch.arange(order, dtype=torch.float64)
    for t, u in enumerate(signal):
        m = a @ m + b * u
        if t > 150:
            assert float(m.sum()) == pytest.approx(signal[t - window], abs=0.04)
            assert float(m @ signs) == pytest.approx(u, abs=0.04)


def test_decays_of_an_rglru_begin_between_the_fastest_and_the_slowest():
    with ambient(0, "rglru"):
        decay = RGLRU(D, 2000).decay.detach().double()
    kept = decay.neg().sigmoid() ** 8  # with an open recurrence gate
    assert 0.9 - 1e-4 <= kept.min() < 0.901
    assert 0.998 < kept.max() <= 0.999 + 1e-4
    squares = kept.square()
    assert squares.mean().item() == pytest.approx((0.9**2 + 0.999**2) / 2, abs=0.006)  # 4.5 standard errors


def test_an_irnn_begins_by_keeping_what_it_was_told():
    with ambient(0, "irnn"):
        cell = IRNN(D, 500)
    start = {"hidden": torch.rand(B, 500)}
    torch.testing.assert_close(cell(torch.zeros(9, B, D), start)[1], start, rtol=0, atol=0)
    assert cell.weight_input.std().item() == pytest.approx(0.001, rel=0.07)


@pytest.mark.parametrize("make", [MGU, JANET, MinGRU])
def test_chrono_keeps_for_as_long_as_the_sequence(make: type[MGU] | type[JANET] | type[MinGRU]):
    """With no input, the gate's bias alone says how much a timestep keeps: t/(t + 1) for a memory of t timesteps."""
    with ambient(0, "chrono"):
        cell = make(D, 1000, seq_len=101)
    kept = cell.gates(torch.zeros(1, D), cell.initial_state(1))[cell.keeps[0]].double()
    memory = kept / (1 - kept)
    assert memory.min() >= 0.99
    assert memory.max() <= 100.1
    assert memory.mean().item() == pytest.approx(50.5, abs=4.1)  # 4.5 standard errors of the mean of U(1, 100)


def test_chrono_of_a_normalised_minlstm_forgets_as_slowly_as_its_bias_says():
    """f / (f + i) = 1 / (1 + e^-b) with f = sigmoid(b) and i = sigmoid(-b)."""
    with ambient(0, "chrono"):
        cell = MinLSTM(D, 1000, seq_len=101)
    kept = cell.gates(torch.zeros(1, D), cell.initial_state(1))["forget"][0]
    torch.testing.assert_close(kept, cell.bias[:1000].sigmoid())
    assert 40 < (kept / (1 - kept)).mean() < 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UGRNN(D, H, init="zeros"), "init='zeros': must be"),
        (lambda: MGU(D, H), "'chrono' needs seq_len"),
        (lambda: JANET(D, H, forget_bias="long"), "forget_bias='long': must be a number or 'chrono'"),
        (lambda: IRNN(D, H, input_deviation=-1.0), "input_deviation=-1.0: must be more than 0"),
        (lambda: IndRNN(D, H), "most=2.0 needs seq_len"),
        (lambda: IndRNN(D, H, most=-1.0, seq_len=9), "most=-1.0: must be more than 0"),
        (lambda: Antisymmetric(D, H, epsilon=0.0), "epsilon=0.0: must be more than 0"),
        (lambda: Antisymmetric(D, H, gamma=-1.0), "gamma=-1.0: must be 0 or more"),
        (lambda: CoRNN(D, H, dt=1.0), "dt=1.0, epsilon=4.7: their product must be less than 2"),
        (lambda: UnICORNN(D, H, alpha=math.nan), "alpha=nan: must be 0 or more"),
        (lambda: LEM(D, H, dt=1.5), "dt=1.5: must be more than 0, and at most 1"),
        (lambda: LMU(D, H, order=0, seq_len=9), "order=0: must be at least 1"),
        (lambda: LMU(D, H), "window=null needs seq_len"),
        (lambda: MinGRU(D, H), "'chrono' needs seq_len"),
        (lambda: LSTM1997(D, H, block=0), "block=0: must be at least 1"),
        (lambda: LSTM1997(D, H, biases="some"), "biases='some': must be 'all', 'gates' or 'none'"),
        (lambda: ExpRNN(D, H, map="log"), "map='log': must be 'exp' or 'cayley'"),
        (lambda: LRU(D, H, fastest=1.5), "fastest=1.5, slowest=0.999: must be"),
        (lambda: LRU(D, H, phase=7.0), "phase=7.0: must be more than 0"),
        (lambda: MLSTM(D, H, forget="tanh"), "forget='tanh': must be 'sigmoid' or 'exp'"),
        (lambda: SLSTM(D, H, heads=3), "heads=3: must divide hidden_size=4"),
        (lambda: Retention(D, H, heads=0), "heads=0: must be at least 1"),
        (lambda: Attention(D, H, heads=0), "heads=0: must be at least 1"),
        (lambda: Attention(D, H, wide=-1), "wide=-1: must be at least 0"),
        (lambda: Attention(D, H, window=0), "window=0: must be at least 1"),
        (lambda: Attention(D, H, positions="sines"), "positions='sines': must be 'rotary', 'learned' or 'none'"),
        (lambda: Attention(D, H, positions="learned"), "positions='learned' needs seq_len"),
        (lambda: GLA(D, H, rank=0), "rank=0: must be at least 1"),
        (lambda: S4D(D, H, states=5), "states=5: must be an even number"),
        (lambda: S4D(D, H, shortest=0.2), "shortest=0.2, longest=0.1: must be"),
        (lambda: Mamba(D, H, kernel=1), "kernel=1: must be at least 2"),
        (lambda: TCN(D, H, levels=0), "levels=0: must be at least 1"),
        (lambda: TCN(D, H, kernel=1), "kernel=1: must be at least 2"),
        (lambda: RGLRU(D, H, fastest=0.9, slowest=0.5), "fastest=0.9, slowest=0.5: must be"),
    ],
)
def test_wrong_options_are_refused_in_one_line(make: Callable[[], Cell], message: str):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  looked at below
        make()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def _parity(*, negative: bool) -> DeltaNet:
    """Set by hand: the first symbol writes, ``1`` turns what is written round, ``0`` reads along another key."""
    cell = DeltaNet(3, 2, heads=1, negative=negative).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        query, key, value = cell.project.weight.view(3, 2, 3)
        query[0] = 20.0
        key[0, :2] = key[1, 2] = value[0, 0] = 20.0
        cell.write.weight[0, 1] = 60.0  # beta: the most that there is; 0 gives half of it
        cell.leave.weight[0, 0] = 1.0
    return cell


@pytest.mark.parametrize("negative", [True, False])
def test_a_deltanet_keeps_the_parity_at_any_length_if_an_eigenvalue_may_be_below_0(negative: bool):
    """Grazzi et al. 2025: with eigenvalues from 0 to 1 it cannot."""
    bits = torch.randint(2, (1000, 8), generator=torch.Generator().manual_seed(0))
    bits[0] = 0
    symbols = 2 - bits
    symbols[0] = 0
    with torch.no_grad():
        outputs, _ = _parity(negative=negative)(torch.nn.functional.one_hot(symbols, 3).double())
    right = (outputs[..., 0] < 0) == (bits.cumsum(0) % 2 == 1)
    assert right.all() if negative else right[500:].double().mean() < 0.6


@pytest.mark.parametrize("negative", [True, False])
def test_what_a_deltanet_does_to_its_memory_has_the_eigenvalues_it_says(negative: bool):
    """The old memory is multiplied by a matrix, whatever the input: asked of a step from the unit matrix."""
    with ambient(0, "deltanet"):
        cell = DeltaNet(D, 4, heads=1, negative=negative).double()
    least, memories = 1.0, torch.stack([torch.zeros(4, 4), torch.eye(4)])[:, None].double()
    with torch.no_grad():
        for x in 5 * torch.randn(20, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)):
            zero, unit = cell.step(x.expand(2, D), {"memory": memories})[1]["memory"][:, 0]
            values = torch.linalg.eigvals(unit - zero).real
            assert (values > (-1 if negative else 0) - 1e-12).all()
            assert (values < 1 + 1e-12).all()
            least = min(least, float(values.min()))
    assert least < -0.5 if negative else least < 0.1
