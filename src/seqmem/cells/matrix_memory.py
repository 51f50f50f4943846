"""Shared by cells that remember a matrix: what was stored under a key is read with a query.

Axes: T time, S asked timesteps, B batch, A heads, E numbers per head, D input features, H hidden, V vectors,
or numbers of a value.
"""

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..kernels.associative import associate, largest
from ..kernels.memory import How
from .base import Tapped
from .initialisation import at_least
from .native import NativeCell
from .state import State
from .taps import AutogradTaps, Written


class Heads(NamedTuple):
    """Queries, keys and values, [... A E] each."""

    query: Tensor
    key: Tensor
    value: Tensor


class MatrixMemoryCell(NativeCell):
    """State: ``memory`` [B A E E], rows are a key's numbers, columns a value's; zeros at first.

    q, k, v = W x without biases, A heads of E = H / A numbers (rounded up, so any H goes); what the heads read is
    joined by W_o to H numbers, as in the authors' layers. Those have a normalisation in between, which is not here.

    A whole sequence is computed by a native kernel, one timestep after the other in the cache, or by torch in chunks.
    Everything but the memory is a function of one input: of tokens, it is computed for each symbol.

    Raises:
        ValueError: ``heads`` is less than 1.
    """

    parallel = True
    kernels = ("native", "torch")

    def __init__(self, input_size: int, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = at_least("heads", heads, 1)
        self.width = -(-hidden_size // heads)
        """E"""
        self.input_size, self.output_size = input_size, hidden_size
        self.project = nn.Linear(input_size, 3 * heads * self.width, bias=False)  # rows: q, k, v
        self.leave = nn.Linear(heads * self.width, hidden_size, bias=False)

    @abstractmethod
    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: "Reading"
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        """What the heads read at the asked timesteps, and the final state, by ``reading.sums``.

        ``x``: [T B D], or one row for each symbol, which ``reading`` looks up.
        """

    def answered(self, x: Float[Tensor, "S B D"], looked: Float[Tensor, "S B A E"]) -> Float[Tensor, "S B H"]:
        """The outputs, of the inputs and of what the heads read."""
        return self.out(looked)

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        return self._sequence(xs, None, state, range(len(xs)))

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        return self._sequence(tokens, vectors, state, range(len(tokens)))

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        """The memory is written at every timestep, but read and answered at the asked ones alone."""
        asked = range(len(inputs))[at]
        if not asked or asked.step != 1:
            return super().forward_at(inputs, state, at, vectors=vectors)
        return self._sequence(inputs, vectors, state, asked)

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        if self.choice(inputs if vectors is None else vectors, [*state.values()]) != "native":
            return None

        def run(xs: Tensor, start: State) -> tuple[Tensor, State, Written]:
            own = [xs.new_zeros(1).expand(*xs.shape[:2], self.heads).requires_grad_() for _ in start]
            reading = Reading(range(len(xs)), None, How(self.threads, self._memory), own)
            looked, final = self.remembered(xs, start, reading)
            return self.answered(xs, looked), final, dict(zip(start, own, strict=True))

        return AutogradTaps(run, inputs, state, vectors)

    def _sequence(
        self, inputs: Tensor, vectors: Tensor | None, state: State | None, asked: range
    ) -> tuple[Float[Tensor, "S B H"], State]:
        state = self.initial_state(inputs.shape[1]) if state is None else state
        if vectors is not None and not self._table_pays(inputs, vectors):
            inputs, vectors = F.embedding(inputs, vectors), None
        x = inputs if vectors is None else vectors
        kernel = self.choice(x, [*state.values()])
        if kernel == "step":
            outputs, final = super().forward(x if vectors is None else F.embedding(inputs, x), state)
            return outputs[asked.start : asked.stop], final
        how = self._how() if kernel == "native" else None
        looked, final = self.remembered(x, state, Reading(asked, None if vectors is None else inputs, how))
        entering = inputs[asked.start : asked.stop]
        return self.answered(entering if vectors is None else F.embedding(entering, vectors), looked), final

    def kept(self, steps: int) -> int:
        return self.output_size + self.heads * self.width**2  # with a table, the last memory and what is read of it

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {**dict(self.named_parameters()), "heads": torch.tensor([float(self.heads)])}

    def projected(self, x: Float[Tensor, "*N D"]) -> Heads:
        return Heads(*self.project(x).unflatten(-1, (3, self.heads, self.width)).unbind(-3))

    def directed(self, x: Float[Tensor, "*N D"]) -> Heads:
        """silu of ``projected``, queries and keys of length 1."""
        query, key, value = (F.silu(part) for part in self.projected(x))
        return Heads(unit(query), unit(key), value)

    def out(self, read: Float[Tensor, "*N A E"]) -> Float[Tensor, "*N H"]:
        return self.leave(read.flatten(-2))

    def empty(self, batch_size: int) -> Float[Tensor, "B A E E"]:
        return self.project.weight.new_zeros(batch_size, self.heads, self.width, self.width)


class Reading(NamedTuple):
    """How a sequence is read.

    Args:
        asked: the timesteps at which the memory is read.
        tokens: [T B]; None: there is a row for each timestep and sequence, not for each symbol.
        how: of the native kernel; None: by torch, in chunks.
        ghosts: [T B A] for each name of the state: zeros whose gradients are, or have the norms of, those by what each
            timestep wrote there. The first is of the memory, the second of its column of ones.
    """

    asked: range
    tokens: Tensor | None
    how: How | None
    ghosts: Sequence[Tensor] = ()

    def rows(self, part: Float[Tensor, "..."]) -> Float[Tensor, "T B ..."]:
        """[*N ...] with a row for each timestep and sequence, [T B ...]."""
        return part if self.tokens is None else part[self.tokens]

    def stabilisers(
        self, log_keep: Float[Tensor, "T B A"], log_enter: Float[Tensor, "T B A"], start: Float[Tensor, "B A"]
    ) -> Float[Tensor, "T1 B A"]:
        """``stabilisers``; the third ghost is theirs."""
        compute = stabilisers if self.how is None else largest
        return compute(log_keep, log_enter, start, self.ghosts[2] if self.ghosts else None)

    def sums(
        self,
        heads: Heads,
        memory: Float[Tensor, "B A E V"],
        log_keep: Float[Tensor, "*N A"] | Float[Tensor, "*N A E"] | None = None,
        write: Float[Tensor, "*N A"] | None = None,
        *,
        delta: bool = False,
        gates_by_step: bool = False,
    ) -> tuple[Float[Tensor, "S B A V"], Float[Tensor, "B A E V"]]:
        """``memory_sums``, or with a number for each one of a key ``gated_sums``, at the asked timesteps.

        A memory with one column more than a value has numbers is written with a last value of 1, so that this column is
        the sum of the keys.

        Args:
            gates_by_step: ``log_keep`` and ``write`` have a row for each timestep and sequence.
        """
        if self.how is not None:
            keep = None if log_keep is None else log_keep.exp()
            taps = (self.ghosts[0], self.ghosts[min(1, len(self.ghosts) - 1)]) if self.ghosts else None
            return associate(
                *heads, memory, tokens=self.tokens, keep=keep, write=write, gates_by_step=gates_by_step, delta=delta,
                asked=self.asked, how=self.how, ghosts=taps,
            )  # fmt: skip
        by_key = log_keep is not None and log_keep.ndim == (4 if gates_by_step else heads.key.ndim)
        heads = Heads(*map(self.rows, heads))
        if memory.shape[-1] > heads.value.shape[-1]:
            heads = heads._replace(value=torch.cat([heads.value, torch.ones_like(heads.value[..., :1])], -1))
        if not gates_by_step:
            log_keep, write = (None if gate is None else self.rows(gate) for gate in (log_keep, write))
        if by_key:
            assert log_keep is not None
            read, final = gated_sums(heads, memory, log_keep)
        else:
            read, final = memory_sums(heads, memory, log_keep, write, delta=delta)
        return read[self.asked.start : self.asked.stop], final


def outer(key: Float[Tensor, "B A E"], value: Float[Tensor, "B A E"]) -> Float[Tensor, "B A E E"]:
    return key[..., :, None] * value[..., None, :]


def read(memory: Float[Tensor, "B A E E"], query: Float[Tensor, "B A E"]) -> Float[Tensor, "B A E"]:
    """S^T q"""
    return (query[..., None, :] @ memory)[..., 0, :]


CHUNK = 32
"""Timesteps whose products are made at once: their number grows with its square, the number of loops falls with it."""


def memory_sums(
    heads: Heads,
    memory: Float[Tensor, "B A E V"],
    log_keep: Float[Tensor, "T B A"] | None = None,
    write: Float[Tensor, "T B A"] | None = None,
    *,
    delta: bool = False,
) -> tuple[Float[Tensor, "T B A V"], Float[Tensor, "B A E V"]]:
    """(S_t^T q_t for every t, S_T) of S_t = S' + write_t k_t v_t^T, where S' = exp(log_keep_t) S_{t-1}.

    With ``delta``, by the delta rule: S_t = S' + write_t k_t (v_t - S'^T k_t)^T. What is missing is 1.

    In chunks of timesteps, by matrix products. What the delta rule writes in a chunk solves a triangular system (Yang
    et al. 2024, section 3), (I + diag(write) P) U = diag(write) (V - diag(K_t) K S), where P_ts = K_ts k_t . k_s for
    s < t, and K_ts is what is kept of s at t, K_t what is kept of the memory before the chunk.
    """
    outputs = []
    exact = torch.promote_types(memory.dtype, torch.float32)
    # Half precision (autocast) has no triangular solves, and would lose what a chunk takes back.
    with _as_it_is(memory):
        memory = memory.to(exact)
        q_k_v = zip(*(part.to(exact).movedim(0, 2).split(CHUNK, 2) for part in heads), strict=True)  # [B A T E]
        log_keeps, writes = (
            repeat(None) if part is None else part.to(exact).movedim(0, 2).split(CHUNK, 2) for part in (log_keep, write)
        )
        for (q, k, v), log_kept, share in zip(q_k_v, log_keeps, writes, strict=False):
            shares, overlap = (q @ k.mT).tril(), k @ k.mT if delta else None
            old_key, old_query, left, whole = k, q, k, None
            if log_kept is not None:
                between, since = sums_between(log_kept).exp(), log_kept.cumsum(-1).exp()[..., None]
                shares, overlap = shares * between, None if overlap is None else overlap * between
                old_key, old_query, left, whole = (
                    since * k,
                    since * q,
                    between[..., -1, :, None] * k,
                    since[..., -1:, :],
                )
            new = v - old_key @ memory if delta else v
            if share is not None:
                new, overlap = share[..., None] * new, None if overlap is None else share[..., None] * overlap
            if overlap is not None:
                new = torch.linalg.solve_triangular(overlap.tril(-1), new, upper=False, unitriangular=True)
            outputs.append((shares @ new + old_query @ memory).movedim(2, 0))
            memory = (memory if whole is None else whole * memory) + left.mT @ new
    return torch.cat(outputs), memory


def gated_sums(
    heads: Heads, memory: Float[Tensor, "B A E V"], log_keep: Float[Tensor, "T B A E"]
) -> tuple[Float[Tensor, "T B A V"], Float[Tensor, "B A E V"]]:
    """(S_t^T q_t for every t, S_T) of S_t = diag(exp(log_keep_t)) S_{t-1} + k_t v_t^T.

    In chunks of timesteps. Within a chunk, later timesteps read earlier ones across the middle of ever longer spans
    (1 and 1 timesteps, 2 and 2, 4 and 4 ...): what is kept from a key to the middle and from there to a query are both
    at most 1, so that no ratio of decays overflows, however strong they are.
    """
    outputs = []
    exact = torch.promote_types(memory.dtype, torch.float32)
    with _as_it_is(memory):
        memory = memory.to(exact)
        chunks = (part.to(exact).movedim(0, 2).split(CHUNK, 2) for part in (*heads, log_keep))  # [B A T E]
        for q, k, v, log_kept in zip(*chunks, strict=True):
            since, left = log_kept.cumsum(-2).exp(), sums_after(log_kept).exp()
            outputs.append((_within(q, k, v, log_kept) + (since * q) @ memory).movedim(2, 0))
            memory = since[..., -1, :, None] * memory + (left * k).mT @ v
    return torch.cat(outputs), memory


def _within(
    q: Float[Tensor, "*N T E"],
    k: Float[Tensor, "*N T E"],
    v: Float[Tensor, "*N T V"],
    log_keep: Float[Tensor, "*N T E"],
) -> Float[Tensor, "*N T V"]:
    """``gated_sums`` of one chunk from an empty memory."""
    steps = q.shape[-2]
    padding = (0, 0, 0, (1 << (steps - 1).bit_length()) - steps)
    q, k, v, log_keep = (F.pad(part, padding) for part in (q, k, v, log_keep))
    sums = (q * k).sum(-1, keepdim=True) * v
    half = 1
    while half < steps:
        spans = [part.unflatten(-2, (-1, 2, half)) for part in (q, k, v, log_keep, sums)]
        (_, late_q), (early_k, _), (early_v, _), (early, late), (first, second) = (s.unbind(-3) for s in spans)
        shares = (late.cumsum(-2).exp() * late_q) @ (sums_after(early).exp() * early_k).mT
        sums = torch.stack([first, second + shares @ early_v], -3).flatten(-4, -2)
        half *= 2
    return sums[..., :steps, :]


def stabilisers(
    log_keep: Float[Tensor, "T *N"],
    log_enter: Float[Tensor, "T *N"],
    start: Float[Tensor, " *N"],
    ghost: Float[Tensor, "T *N"] | None = None,
) -> Float[Tensor, "T1 *N"]:
    """m_0 ... m_T of m_t = max(m_{t-1} + log_keep_t, log_enter_t), the largest exponent of a sum so far.

    ``ghost``: zeros whose gradients are those by each m_t.
    """
    largest = [start]
    for t, (keep, enter) in enumerate(zip(log_keep.unbind(0), log_enter.unbind(0), strict=True)):
        new = torch.maximum(largest[-1] + keep, enter)
        largest.append(new if ghost is None else new + ghost[t])
    return torch.stack(largest)


def sums_after(numbers: Float[Tensor, "*N T E"]) -> Float[Tensor, "*N T E"]:
    """The sum of the later rows, for each row."""
    return F.pad(numbers[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)


def sums_between(numbers: Float[Tensor, "*N T"]) -> Float[Tensor, "*N T T"]:
    """Row t, column s: the sum of the numbers after s until t; minus infinity for s > t.

    Summed as they are: differences of two sums since the first would lose the digits of small ones behind large ones.
    """
    ones = torch.ones(numbers.shape[-1], numbers.shape[-1], dtype=torch.bool, device=numbers.device)
    sums = (numbers[..., None] * ones.tril(-1)).cumsum(-2)
    return sums.masked_fill(ones.triu(1), -torch.inf)


def _as_it_is(like: Tensor) -> AbstractContextManager[object]:
    """No autocast inside."""
    device = like.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def unit(vector: Float[Tensor, "*N E"]) -> Float[Tensor, "*N E"]:
    """Divided by its length; 1e-6 under the root keeps zero at zero."""
    return vector * torch.rsqrt(vector.square().sum(-1, keepdim=True) + 1e-6)


def positive_features(x: Float[Tensor, "*N E"]) -> Float[Tensor, "*N E"]:
    """elu(x) + 1"""
    return F.elu(x) + 1
