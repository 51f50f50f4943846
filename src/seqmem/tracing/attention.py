"""``nn.MultiheadAttention``: what each position's key, value and output received.

Keys and values are projected inside, where no hook sees them. So the attention is computed once more, masks and all,
with keys and values that are leaves of autograd's graph (``static_k``, ``static_v`` of torch's function).

Axes: L queries, T keys, B batch, E features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray
from torch import Tensor, nn

from .calls import Call, Keep, Reader, check_repeated, norms_of, padded
from .parts import OUTPUT, Part, Untraceable

_ARGUMENTS = (
    *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal"),
)


class AttentionReader(Reader):
    def reads(self, module: nn.Module) -> bool:
        return isinstance(module, nn.MultiheadAttention)

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        assert isinstance(module, nn.MultiheadAttention)
        if module.training and module.dropout:
            raise Untraceable(
                f"dropout={module.dropout:g} of its weights draws a mask that it hides: trace it in eval mode, as "
                "seqmem.trace does"
            )
        if module.bias_k is not None:
            raise Untraceable("add_bias_kv=True adds a key of its own, for which there is no way: make it without")
        return AttentionCall(module, dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs), output, keep)


class AttentionCall(Call):
    chained = False

    def __init__(self, module: nn.MultiheadAttention, given: dict[str, Any], output: Any, keep: Keep) -> None:
        attended, weights = output
        self._batch_first = module.batch_first and attended.dim() == 3
        self._unbatched = attended.dim() == 2
        sequences = 1 if self._unbatched else attended.shape[0 if self._batch_first else 1]
        watched = {OUTPUT: attended} | ({} if weights is None else {"weights": weights})
        super().__init__(watched, (), sequences)
        self._self_attention = given["key"] is given["query"]
        self._given = {name: value.detach() if isinstance(value, Tensor) else value for name, value in given.items()}
        names = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        held = {name: getattr(module, name) for name in names}
        held |= {"out_proj_weight": module.out_proj.weight, "out_proj_bias": module.out_proj.bias}
        self._held = {name: None if value is None else keep(value) for name, value in held.items()}
        self._size, self._heads, self._zero = module.embed_dim, module.num_heads, module.add_zero_attn

    def _batched(self, values: Tensor) -> Tensor:
        """[T B E] of what the module was given or returned."""
        return values[:, None] if self._unbatched else values.transpose(0, 1) if self._batch_first else values

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        held = self._held
        given: dict[str, Any] = dict(self._given)
        query, key, value = (self._batched(given.pop(name)) for name in ("query", "key", "value"))
        kept_weights = given.get("need_weights", True)
        keys, values = (self._projected(i, inputs).requires_grad_() for i, inputs in ((1, key), (2, value)))
        mask = given.get("key_padding_mask")
        if mask is not None and self._unbatched:
            mask = mask[None]
        with torch.enable_grad():
            attended, weights = F.multi_head_attention_forward(
                query, key, value, self._size, self._heads, held["in_proj_weight"], held["in_proj_bias"], None, None,
                self._zero, 0.0, held["out_proj_weight"], held["out_proj_bias"],  # pyright: ignore[reportArgumentType]
                training=False, key_padding_mask=mask, need_weights=kept_weights, attn_mask=given.get("attn_mask"),
                use_separate_proj_weight=held["in_proj_weight"] is None, q_proj_weight=held["q_proj_weight"],
                k_proj_weight=held["k_proj_weight"], v_proj_weight=held["v_proj_weight"],
                static_k=self._by_heads(keys), static_v=self._by_heads(values),
                average_attn_weights=given.get("average_attn_weights", True), is_causal=given.get("is_causal", False),
            )  # fmt: skip
            check_repeated(attended.detach(), self._batched(self.watched[OUTPUT].detach()), "its output")
            pairs = []
            if OUTPUT in self.gradients:
                pairs.append((attended, self._batched(self.gradients[OUTPUT])))
            if weights is not None and "weights" in self.gradients:
                gradient = self.gradients["weights"]
                pairs.append((weights, gradient[None] if gradient.dim() < weights.dim() else gradient))
            total = torch.stack([(one * gradient).sum() for one, gradient in pairs]).sum()
            to_keys, to_values = torch.autograd.grad(total, [keys, values], materialize_grads=True)
        lengths = _lengths(mask, *to_keys.shape[:2])
        stored = {name: padded(norms_of(to), lengths) for name, to in (("key", to_keys), ("value", to_values))}
        whole = np.full(attended.shape[1], len(attended))
        reached = norms_of(self._batched(self.gradients.get(OUTPUT, torch.zeros_like(self.watched[OUTPUT]))))
        if self._self_attention:
            return {"": Part({**stored, OUTPUT: padded(reached, lengths)}, lengths, width=self._size)}
        return {
            "": Part(stored, lengths, width=self._size),
            f".{OUTPUT}": Part({OUTPUT: reached}, whole, width=self._size),
        }

    def _projected(self, place: int, inputs: Tensor) -> Tensor:
        """``place``: 1 the keys, 2 the values."""
        size, whole, bias = self._size, self._held["in_proj_weight"], self._held["in_proj_bias"]
        part = slice(place * size, (place + 1) * size)
        weight = self._held["k_proj_weight" if place == 1 else "v_proj_weight"] if whole is None else whole[part]
        assert weight is not None
        return F.linear(inputs, weight, None if bias is None else bias[part]).detach()

    def _by_heads(self, values: Tensor) -> Tensor:
        steps, sequences, size = values.shape
        return values.reshape(steps, sequences * self._heads, size // self._heads).transpose(0, 1)


def _lengths(mask: Tensor | None, steps: int, sequences: int) -> ndarray:
    """[B], up to the last position that is not masked out."""
    if mask is None:
        return np.full(sequences, steps)
    there = ~mask if mask.dtype == torch.bool else mask == 0
    return (there * torch.arange(1, steps + 1, device=mask.device)).amax(1).cpu().numpy()
