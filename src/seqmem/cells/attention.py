"""A causal Transformer block (Vaswani et al. 2017, arXiv 1706.03762), normalised before each half (Xiong et al. 2020,
arXiv 2002.04745), with rotary positions (Su et al. 2021, arXiv 2104.09864):

    x_t   = W_in input_t    or input_t itself where the sizes are equal,
                            with learned positions + p_t
    q_t, k_t, v_t = W norm(x_t)                   for each head
    o_t   = sum over s <= t of softmax(q_t . k_s / sqrt(d)) v_s
    y_t   = x_t + W_o o_t
    out_t = y_t + W_2 gelu(W_1 norm(y_t) + b_1) + b_2

It looks back at any timestep directly. What it remembers is a key and a value per timestep: its state grows.

Axes: T time, S asked timesteps, B batch, N timesteps so far, A heads, E numbers per head (d above), D input features, H
hidden, V vectors.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Cell, Tapped
from .initialisation import at_least, normal
from .state import Slots, State
from .taps import AutogradTaps, Written


class Attention(Cell):
    """State: ``keys`` and ``values``, one [B A E] each per timestep.

    Args:
        heads: A. Each has E = H / A numbers, rounded up to an even number, so any H goes.
        positions: ``rotary``: numbers 2 j and 2 j + 1 of a key or a query at timestep t are turned by the angle
            t * 10000^(-2 j / E), so that a product of two tells their distance. ``learned``: a vector for each of the
            first ``seq_len`` timesteps is added to x_t, the last of them to all later ones. ``none``: a set without
            order, apart from what causality tells.
        wide: units of the second half over H; 0: without it.
        window: look back at this many timesteps, the present one among them; null: at all.

    Raises:
        ValueError: an option is out of its range.
    """

    family: ClassVar[str] = "looking back"
    source: ClassVar[str] = "Vaswani et al. 2017"
    parallel = True
    equations = "attention"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        heads: int = 4,
        positions: str = "rotary",
        wide: int = 4,
        window: int | None = None,
        seq_len: int | None = None,
    ) -> None:
        super().__init__()
        at_least("wide", wide, 0)
        at_least("window", 1 if window is None else window, 1)
        if positions not in ("rotary", "learned", "none"):
            raise ValueError(f"positions={positions!r}: must be 'rotary', 'learned' or 'none'")
        if positions == "learned" and seq_len is None:
            raise ValueError("positions='learned' needs seq_len, the number of timesteps that have a vector")
        self.input_size, self.output_size = input_size, hidden_size
        self.heads, self.positions, self.window = at_least("heads", heads, 1), positions, window
        inner = heads * 2 * -(-hidden_size // (2 * heads))
        self.enter = nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size, bias=False)
        self.places = None
        if positions == "learned" and seq_len is not None:
            self.places = normal(at_least("seq_len", seq_len, 1), hidden_size, deviation=0.02)
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, 3 * inner, bias=False)  # rows: q, k, v
        self.leave = nn.Linear(inner, hidden_size, bias=False)
        self.wide = wide
        self.second = (
            nn.Sequential(
                nn.LayerNorm(hidden_size),
                nn.Linear(hidden_size, wide * hidden_size),
                nn.GELU(),
                nn.Linear(wide * hidden_size, hidden_size),
            )
            if wide
            else None
        )

    def initial_state(self, batch_size: int) -> State:
        return {"keys": Slots(window=self.window), "values": Slots(window=self.window)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        x = self._entered(x[None], state["keys"])[0]
        query, key, value = self._projected(x)
        keys, values = state["keys"].append(key), state["values"].append(value)
        seen = (self._weights(query, keys)[..., None] * values.stacked()).sum(0)
        return self._out(x, seen), {"keys": keys, "values": values}

    def looks(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A N"]]:
        query, key, _ = self._projected(self._entered(x[None], state["keys"])[0])
        return {"attention": self._weights(query, state["keys"].append(key)).permute(1, 2, 0)}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        outputs, final, _ = self._whole(xs, self.initial_state(xs.shape[1]) if state is None else state)
        return outputs, final

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        """Keys and values alone of the timesteps that are not asked for: one question costs no square of the length."""
        asked = range(len(inputs))[at]
        if not asked or asked.step != 1 or len(asked) == len(inputs):
            return super().forward_at(inputs, state, at, vectors=vectors)
        state = self.initial_state(inputs.shape[1]) if state is None else state
        inner = self.leave.in_features
        of_queries, of_others = self.project.weight.split((inner, 2 * inner))
        if vectors is None or self.places is not None or len(vectors) > inputs.numel():
            x = self._entered(inputs if vectors is None else F.embedding(inputs, vectors), state["keys"])
            normed = self.norm(x)
            x, asking, others = x[at], normed[at], F.linear(normed, of_others)
        else:  # a symbol has the same key and value wherever it stands
            table = self.enter(vectors)
            normed = self.norm(table)
            x, asking = (F.embedding(inputs[at], part) for part in (table, normed))
            others = F.embedding(inputs, F.linear(normed, of_others))
        queries = F.linear(asking, of_queries).unflatten(-1, (self.heads, -1))
        keys, values = others.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        looked, final = self._looked(queries, keys, values, state, asked.start)
        return self._out(x, looked), final

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        """A walk copies all keys and values so far at every timestep, this one product does not."""
        return AutogradTaps(self._whole, inputs, state, vectors)

    def _whole(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Tensor, State, Written]:
        """Outputs, final state, and the keys and values of all timesteps."""
        x = self._entered(xs, state["keys"])
        queries, new_keys, new_values = self._projected(x)
        looked, final = self._looked(queries, new_keys, new_values, state)
        return self._out(x, looked), final, {"keys": new_keys, "values": new_values}

    def _looked(
        self,
        queries: Float[Tensor, "S B A E"],
        new_keys: Float[Tensor, "T B A E"],
        new_values: Float[Tensor, "T B A E"],
        state: State,
        first: int = 0,
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        """What queries from timestep ``first`` on see, and the final state."""
        old = len(state["keys"])
        keys = torch.cat([state["keys"].stacked(), new_keys]) if old else new_keys
        values = torch.cat([state["values"].stacked(), new_values]) if old else new_values
        parts = (self._turned(queries, old + first), self._turned(keys, 0), values)
        q, k, v = (part.permute(1, 2, 0, 3) for part in parts)  # [B A N E]
        if self.window is None and len(queries) == len(keys):
            looked = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            looked = _blockwise(q, k, v, old + first, self.window)
        final = {
            "keys": state["keys"].extend(new_keys.unbind(0)),
            "values": state["values"].extend(new_values.unbind(0)),
        }
        return looked.permute(2, 0, 1, 3), final

    def _entered(self, xs: Float[Tensor, "T B D"], keys: Slots) -> Float[Tensor, "T B H"]:
        """x_t of the timesteps after those that wrote ``keys``."""
        x = self.enter(xs)
        if self.places is None:
            return x
        first = keys.dropped + len(keys)
        at = torch.arange(first, first + len(x), device=x.device).clamp(max=len(self.places) - 1)
        return x + self.places[at][:, None]

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        sizes = {"heads": self.heads, "rotary": self.positions == "rotary"}
        if self.window is not None:
            sizes["window"] = self.window
        return {**dict(self.named_parameters()), **{name: torch.tensor([float(size)]) for name, size in sizes.items()}}

    def kept(self, steps: int) -> int:
        return steps * 2 * self.leave.in_features  # keys and values; the rest of the asked timesteps alone

    def _projected(self, x: Float[Tensor, "*N H"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [*N A E] each."""
        q, k, v = self.project(self.norm(x)).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return q, k, v

    def _weights(self, query: Float[Tensor, "B A E"], keys: Slots) -> Float[Tensor, "N B A"]:
        """softmax(q . k / sqrt(E)) over the keys."""
        # Products depend on distances alone, so counting from the oldest key in the window is as good as any.
        turned, query = self._turned(keys.stacked(), 0), self._turned(query[None], len(keys) - 1)[0]
        return ((turned * query).sum(-1) / query.shape[-1] ** 0.5).softmax(0)

    def _turned(self, vectors: Float[Tensor, "N B A E"], first: int) -> Float[Tensor, "N B A E"]:
        """Rotated by their positions: ``first`` and the following ones."""
        if self.positions != "rotary":
            return vectors
        # Half precision (autocast) cannot count beyond 256.
        exact = {"dtype": torch.promote_types(vectors.dtype, torch.float32), "device": vectors.device}
        pairs = torch.arange(0, vectors.shape[-1], 2, **exact)
        at = torch.arange(first, first + len(vectors), **exact)
        angles = (at[:, None] * 10000.0 ** (-pairs / vectors.shape[-1]))[:, None, None]
        even, odd = vectors[..., 0::2], vectors[..., 1::2]
        cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    def _out(self, x: Float[Tensor, "*N H"], seen: Float[Tensor, "*N A E"]) -> Float[Tensor, "*N H"]:
        y = x + self.leave(seen.flatten(-2))
        return y if self.second is None else y + self.second(y)


_BLOCK = 256
"""Queries that share a mask: with one mask for all, memory would grow with the square of the length."""


def _blockwise(
    q: Float[Tensor, "B A T E"], k: Float[Tensor, "B A N E"], v: Float[Tensor, "B A N E"], old: int, window: int | None
) -> Float[Tensor, "B A T E"]:
    """What each query sees, the first of which comes after ``old`` keys."""
    blocks = []
    for first in range(0, q.shape[2], _BLOCK):
        part = q[:, :, first : first + _BLOCK]
        at = torch.arange(old + first, old + first + part.shape[2], device=q.device)[:, None]
        begin, end = 0 if window is None else max(0, old + first - window + 1), old + first + part.shape[2]
        distance = at - torch.arange(begin, end, device=q.device)
        seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        blocks.append(F.scaled_dot_product_attention(part, k[:, :, begin:end], v[:, :, begin:end], attn_mask=seen))
    return torch.cat(blocks, 2)
