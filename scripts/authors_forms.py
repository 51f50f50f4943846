"""Cells as their papers compute whole sequences, in plain torch; scripts/cells times ours beside them.

``FORMS``: cell -> (what the form is, a function from one of our cells, whose weights it takes, to a function from
inputs to outputs). Axes: T time, B batch, D input features, H hidden, A heads, E numbers per head, N states per unit.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqmem.cells import LRU, MLSTM, S4D, LinearAttention, Mamba, MinGRU, MinLSTM, Retention
from seqmem.cells.base import Cell, use_kernel

Form = Callable[[Float[Tensor, "T B D"]], Float[Tensor, "T B H"]]


def torch_nn(cell: Cell) -> Form:
    """torch.nn's fused layer."""
    other = deepcopy(cell)
    use_kernel(other, "torch")
    return lambda xs: other(xs)[0]


def log_space(log_keep: Float[Tensor, "T B H"], log_write: Float[Tensor, "T B H"]) -> Float[Tensor, "T B H"]:
    """h_t = keep_t h_{t-1} + write_t by sums of logarithms (Heinsen 2023; Feng et al. 2024, appendix B)."""
    kept = log_keep.cumsum(0)
    return (kept + (log_write - kept).logcumsumexp(0)).exp()


def log_above_zero(a: Tensor) -> Tensor:
    return torch.where(a >= 0, (F.relu(a) + 0.5).log(), -F.softplus(-a))


def mingru(cell: MinGRU) -> Form:
    def compute(xs: Tensor) -> Tensor:
        z, n = F.linear(xs, cell.weight_input, cell.bias).chunk(2, -1)
        return log_space(-F.softplus(z), -F.softplus(-z) + log_above_zero(n))

    return compute


def minlstm(cell: MinLSTM) -> Form:
    def compute(xs: Tensor) -> Tensor:
        f, i, n = F.linear(xs, cell.weight_input, cell.bias).chunk(3, -1)
        apart = F.softplus(-f) - F.softplus(-i)
        return log_space(-F.softplus(apart), -F.softplus(-apart) + log_above_zero(n))

    return compute


def lru(cell: LRU) -> Form:
    """The associative scan, by doubling: log2 T passes over all timesteps."""

    def compute(xs: Tensor) -> Tensor:
        real, imaginary = F.linear(xs, cell.enter).chunk(2, -1)
        h = cell.gamma.exp() * torch.complex(real, imaginary)
        log = torch.complex(-cell.nu.exp(), cell.theta.exp())
        apart = 1
        while apart < len(h):
            h = torch.cat([h[:apart], h[apart:] + (apart * log).exp() * h[:-apart]])
            apart *= 2
        of_real, of_imaginary = cell.leave
        return F.gelu(F.linear(h.real, of_real) - F.linear(h.imag, of_imaginary) + F.linear(xs, cell.past))

    return compute


def s4d(cell: S4D) -> Form:
    """One convolution over the whole sequence, by FFT."""

    def compute(xs: Tensor) -> Tensor:
        u = cell.enter(xs)
        steps = torch.arange(len(u), dtype=u.dtype)[:, None, None]
        a = torch.complex(-cell.log_decay.exp(), cell.frequency)
        log_a = cell.log_dt.exp()[:, None] * a
        weight = torch.complex(cell.leave[0], cell.leave[1]) * (log_a.exp() - 1) / a
        response = 2 * (weight * (steps * log_a).exp()).sum(-1).real
        spectrum = torch.fft.rfft(u, 2 * len(u), 0) * torch.fft.rfft(response, 2 * len(u), 0)[:, None]
        y = F.gelu(torch.fft.irfft(spectrum, 2 * len(u), 0)[: len(u)] + cell.past * u)
        return y if cell.mix is None else F.glu(cell.mix(y), -1)

    return compute


def mamba(cell: Mamba) -> Form:
    """The released package's reference scan: what is kept and written for all timesteps, then a loop over them."""

    def compute(xs: Tensor) -> Tensor:
        v, z = cell.enter(xs).chunk(2, -1)
        taps = cell.taps.t()[:, None]
        padded = F.pad(v.permute(1, 2, 0), (cell.reach, 0))
        u = F.silu(F.conv1d(padded, taps, cell.bias, groups=len(taps))).permute(2, 0, 1)
        low, b, c = cell.select(u).split([cell.rank, cell.states, cell.states], -1)
        dt = F.softplus(cell.rate(low))
        keep = (dt[..., None] * -cell.log_decay.exp()).exp()
        write = (dt * u)[..., None] * b[..., None, :]
        h, ys = torch.zeros_like(write[0]), []
        for keep_t, write_t, c_t in zip(keep.unbind(0), write.unbind(0), c.unbind(0), strict=True):
            h = keep_t * h + write_t
            ys.append((h * c_t[:, None]).sum(-1))
        return cell.leave((torch.stack(ys) + cell.past * u) * F.silu(z))

    return compute


def causal(weights: Float[Tensor, "B A T T"], value: Float[Tensor, "B A T E"]) -> Float[Tensor, "T B A E"]:
    return (weights.tril() @ value).permute(2, 0, 1, 3)


def over_pairs(*parts: Float[Tensor, "T B A E"]) -> list[Float[Tensor, "B A T E"]]:
    return [part.permute(1, 2, 0, 3) for part in parts]


def linear_attention(cell: LinearAttention) -> Form:
    """Masked attention over all pairs of timesteps (Katharopoulos et al. 2020, section 3.2.1, before it is a sum)."""

    def compute(xs: Tensor) -> Tensor:
        query, key, value = over_pairs(*(part for part in cell.projected(xs)))
        query, key = F.elu(query) + 1, F.elu(key) + 1
        weights = (query @ key.mT).tril()
        return cell.out(causal(weights / (weights.sum(-1, keepdim=True) + 1e-6), value))

    return compute


def retention(cell: Retention) -> Form:
    """The paper's parallel form over all pairs of timesteps."""

    def compute(xs: Tensor) -> Tensor:
        query, key, value = over_pairs(*cell.projected(xs))
        steps = torch.arange(len(xs))
        decay = cell.decay[:, None, None] ** (steps[:, None] - steps).clamp(min=0)
        return cell.out(causal(query @ key.mT * decay / cell.width**0.5, value))

    return compute


def mlstm(cell: MLSTM) -> Form:
    """The released package's parallel form: all pairs of timesteps, stabilised by each row's largest exponent."""

    def compute(xs: Tensor) -> Tensor:
        query, key, value = over_pairs(*cell.projected(xs))
        i, f = F.linear(xs, cell.weight_gates, cell.bias_gates).permute(1, 2, 0).chunk(2, 1)
        kept = F.logsigmoid(f).cumsum(-1)
        log = kept[..., :, None] - kept[..., None, :] + i[..., None, :]
        log = log.masked_fill(torch.ones(len(xs), len(xs), dtype=torch.bool).triu(1), -torch.inf)
        largest = log.amax(-1, keepdim=True)
        weights = query @ key.mT / cell.width**0.5 * (log - largest).exp()
        size = torch.maximum(weights.sum(-1, keepdim=True).abs(), (-largest).exp())
        return cell.output_gate(xs).sigmoid() * cell.out(causal(weights / size, value))

    return compute


FORMS: dict[str, tuple[str, Callable[[Any], Form]]] = {
    "rnn": ("torch.nn", torch_nn),
    "lstm": ("torch.nn", torch_nn),
    "gru": ("torch.nn", torch_nn),
    "mingru": ("log space", mingru),
    "minlstm": ("log space", minlstm),
    "lru": ("associative scan", lru),
    "s4d": ("FFT", s4d),
    "mamba": ("reference scan", mamba),
    "mlstm": ("all pairs", mlstm),
    "linear_attention": ("all pairs", linear_attention),
    "retention": ("all pairs", retention),
}
