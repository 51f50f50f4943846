"""Encoder-decoder: one cell reads the source, another writes the target; between them stands one vector, or attention.

    source      h_j = encoder(e(x_j), h_{j-1})
    in between  c = tanh(V h_N)                     one vector of fixed size
    target      s_i = decoder([e(y_{i-1}); c], s_{i-1}),  s_0 = tanh(V' c)
                p_i = softmax(G maxout(O_h s_i + O_y e(y_{i-1}) + O_c c))

That is Cho et al. 2014 (arXiv 1406.1078, as in their released code: with a gru of form=cho the reset gate does not act
on c). With ``handover=state`` the decoder begins in the state in which the encoder ends, and nothing else passes
(Sutskever et al. 2014, arXiv 1409.3215).

Attention replaces c: at each timestep the decoder sees a mean of all h_j, weighted by how well each fits.

    bahdanau    e_ij = v . tanh(W_a s_{i-1} + U_a h_j),  alpha_i = softmax(e_i),  c_i = sum_j alpha_ij h_j
                enters the decoder and the readout where c does above (Bahdanau et al. 2015, arXiv 1409.0473)
    luong       e_ij = score(s_i, h_j), alpha_i and c_i as above;  s~_i = tanh(W_c [c_i; s_i]) is read out
                (Luong et al. 2015, arXiv 1508.04025, section 3, equations 5 to 8)

        general     s_i . W_a h_j
        dot         s_i . h_j
        concat      v . tanh(W_a [s_i; h_j]), here with W_a in two parts, of s_i and of h_j

        With input feeding (section 3.3) the decoder reads [e(y_{i-1}); s~_{i-1}] instead of e(y_{i-1}); s~_0 = 0.

One time axis: the source, the mark that ends it (``Feedback.go``), then the target, shifted by one timestep. While the
source is read nothing is predicted: outputs are zeros.

Axes: T time, A asked timesteps, B batch, N words of the source, D embedding, H encoder output, S decoder output,
K outputs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ..cells.base import Additive, Cell, CellFactory
from ..cells.state import Slots, State, join, part, tensors
from ..tasks.base import Task
from .base import Layers, Look, Model, Step, backwards, entering
from .recurrent import stacked

ATTENTION = "bahdanau", "luong"
SCORES = "general", "dot", "concat"


class EncoderDecoder(Model):
    """States: ``encoder/...`` while the source is read, ``decoder/...`` afterwards; of a cell whose output is no state,
    ``encoder_output`` [B H] and ``decoder_output`` [B S], too. With attention ``annotations``
    collects h_j [B H], a slot per word, and for an encoder that reads backwards ``source`` the embedded words [B D].

    What is written as the source ends, and stays: ``context`` [B H] (c) or, with attention, ``memory`` [B N H] (all
    h_j) and ``keys`` [B N S] (U_a h_j or W_a h_j; with the dot score h_j are compared themselves). With input feeding
    ``attentional`` [B S] is s~_i, written at every timestep of the target.

    Args:
        attention: ``bahdanau`` or ``luong``; None: one vector of fixed size.
        attention_score: luong's ``general``, ``dot`` or ``concat``, as above.
        input_feeding: with luong's attention, s~_{i-1} is part of the decoder's next input.
        handover: ``vector``: the decoder's output state begins as s_0 = tanh(V' c), its other states as the cell's own;
            with attention s_0 = tanh(V' h_N), or of h_1 read backwards. ``state``: as the encoder's ends.
        maxout: read out the maxima of pairs, as above; if not, the decoder's output linearly.
        bidirectional: a second encoder reads the source backwards; h_j joins both outputs.

    Raises:
        ValueError: options that exclude each other; ``handover=state`` between cells of different states; the task's
            answers are not fed back; a cell without a state.
    """

    def __init__(
        self,
        embed: nn.Module,
        width: int,
        go: int,
        outputs: int,
        encoder: CellFactory,
        decoder: CellFactory,
        *,
        attention: str | None = None,
        attention_score: str = "general",
        input_feeding: bool = False,
        handover: str = "vector",
        maxout: bool = True,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        if attention not in (None, *ATTENTION):
            raise ValueError(f"attention={attention}: must be {', '.join(ATTENTION)} or null")
        if attention_score not in SCORES:
            raise ValueError(f"attention_score={attention_score}: must be {', '.join(SCORES[:-1])} or {SCORES[-1]}")
        if attention_score != "general" and attention != "luong":
            raise ValueError(f"attention_score={attention_score}: needs attention=luong, which has several scores")
        if input_feeding and attention != "luong":
            raise ValueError("input_feeding=true: needs attention=luong, which reads out what is fed")
        if handover not in ("vector", "state"):
            raise ValueError(f"handover={handover}: must be vector or state")
        if bidirectional and attention is None:
            raise ValueError("bidirectional=true: needs attention=bahdanau or luong, which look at every word")
        if bidirectional and handover == "state":
            raise ValueError("bidirectional=true: two cells end in two states; use handover=vector")
        self.go, self.attention, self.handover = go, attention, handover
        self.attention_score, self.input_feeding = attention_score, input_feeding
        self.embed = embed
        self.encoder = encoder(width)
        self.backward_encoder = encoder(width) if bidirectional else None
        inner = self.encoder.output_size
        annotated = inner * (1 + bidirectional)  # H
        self.vector = attention is None and handover == "vector"
        """c is all that the decoder sees, at every timestep."""
        seen = inner if self.vector else annotated if attention == "bahdanau" else 0
        # W_c makes as many numbers as the decoder outputs, and the decoder is built to read them.
        fed = decoder(width).output_size if input_feeding else 0
        self.decoder = decoder(width + seen + fed)
        size = self.decoder.output_size
        if self.vector:
            self.summary = nn.Linear(inner, inner)  # V
        self.start = None
        if handover == "vector" and (attention == "bahdanau" or self.decoder.output_state is not None):
            self.start = nn.Linear(inner, size)  # V'
        if attention == "bahdanau":
            self.query = nn.Linear(size, size, bias=False)  # W_a
            self.key = nn.Linear(annotated, size, bias=False)  # U_a
            self.energy = nn.Linear(size, 1, bias=False)  # v
        elif attention == "luong":
            if attention_score == "dot" and annotated != size:
                raise ValueError(
                    f"attention_score=dot: annotations of {annotated} numbers and the decoder's {size} have no dot "
                    f"product; use attention_score=general"
                )
            if attention_score == "concat":
                self.query = nn.Linear(size, size, bias=False)  # W_a, the part of s_i
                self.energy = nn.Linear(size, 1, bias=False)  # v
            if attention_score != "dot":
                self.key = nn.Linear(annotated, size, bias=False)  # W_a; with concat the part of h_j
            self.join = nn.Linear(annotated + size, fed or size, bias=False)  # W_c
        self.maxout = nn.Linear(size + width + seen, 2 * -(-size // 2)) if maxout and attention != "luong" else None
        read = self.maxout.out_features // 2 if self.maxout is not None else fed or size
        self.readout = nn.Linear(read, outputs)
        self.keeps = (
            *(f"encoder/{name}" for name in self.encoder.keeps),
            *(f"decoder/{name}" for name in self.decoder.keeps),
        )
        self._check_states()

    @classmethod
    def for_task(
        cls,
        task: Task,
        cell: CellFactory,
        *,
        embed_size: int = 32,
        layers: int = 1,
        decoder: CellFactory | None = None,
        attention: str | None = None,
        attention_score: str = "general",
        input_feeding: bool = False,
        handover: str = "vector",
        maxout: bool = True,
        bidirectional: bool = False,
    ) -> "EncoderDecoder":
        """``cell`` is the encoder and, unless ``decoder`` is another, the decoder.

        Raises:
            ValueError: see above.
        """
        feedback = task.feedback()
        if feedback is None:
            raise ValueError(
                f"model=encoder_decoder: needs a task whose answers are its next inputs (reverse, phrases), which "
                f"task={task.choice} is not"
            )
        embed, width = task.inputs.embed(embed_size)
        return cls(
            embed,
            width,
            feedback.go,
            task.targets.size,
            stacked(cell, layers),
            stacked(cell if decoder is None else decoder, layers),
            attention=attention,
            attention_score=attention_score,
            input_feeding=input_feeding,
            handover=handover,
            maxout=maxout,
            bidirectional=bidirectional,
        )

    @torch.no_grad()
    def _check_states(self) -> None:
        """Raise ValueError for cells that cannot be what their places need."""
        after: list[dict[str, list[torch.Size]]] = []
        for name, cell in (("encoder", self.encoder), ("decoder", self.decoder)):
            state = cell.initial_state(1)
            if not state:
                raise ValueError(f"model=encoder_decoder: its {name} needs a cell with a state")
            _, state = cell.step(self.readout.weight.new_zeros(1, cell.input_size), state)
            after.append({name: [tensor.shape for tensor in tensors(leaf)] for name, leaf in state.items()})
        if self.handover == "state" and after[0] != after[1]:
            raise ValueError("handover=state: the encoder's state does not fit the decoder; use handover=vector")

    def initial_state(self, batch_size: int) -> State:
        blank = self.readout.weight.new_zeros(batch_size, self.encoder.output_size)
        state = _joined("encoder", self.encoder, self.encoder.initial_state(batch_size), blank)
        if self.attention is not None:
            state["annotations"] = Slots()
        if self.backward_encoder is not None:
            state["source"] = Slots()
        return state

    def layers(self) -> Layers | None:
        """Among the weights stand options: ``handover_state``, the decoder begins in the state in which the encoder
        ends; ``input_feeding``."""
        cells = {"encoder": self.encoder, "decoder": self.decoder}
        if self.backward_encoder is not None:
            cells["backward_encoder"] = self.backward_encoder
        inside = ("embed", *cells)
        weights: dict[str, Tensor] = {
            name: each for name, each in self.named_parameters() if name.partition(".")[0] not in inside
        }
        if self.handover == "state":
            weights["handover_state"] = torch.ones(1)
        if self.input_feeding:
            weights["input_feeding"] = torch.ones(1)
        return Layers.of("encoder decoder", self.embed, cells, weights)

    # ---- The definition ----------------------------------------------------------------------------------------------

    def walk(self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Iterator[Step]:
        state = self.initial_state(inputs.shape[1]) if state is None else state
        source = self._source_length(inputs, state)
        for t, x in enumerate(entering(self.embed(inputs))):
            if t < source:
                old = part(state, "encoder")
                output, new = self.encoder.step(x, old)
                state = self._read(state, x, output, new)
                blank = output.new_zeros(len(output), self.readout.in_features)
                yield Step(x, blank, state, **_inside("encoder", self.encoder, x, old, t), predicts=False)
            else:
                step = self._write(x, self._handed_over(state), t, source, begins=not _is_decoders(state))
                state = step.state
                yield step

    def _read(self, state: State, x: Float[Tensor, "B D"], output: Float[Tensor, "B H"], new: State) -> State:
        """The state after a word of the source."""
        whole = _joined("encoder", self.encoder, new, output)
        if "annotations" in state:
            whole["annotations"] = state["annotations"].append(output)
        if "source" in state:
            whole["source"] = state["source"].append(x)
        return whole

    def _handed_over(self, state: State) -> State:
        """The decoder's first state; the state itself if it is the decoder's already."""
        if _is_decoders(state):
            return state
        last = _output("encoder", self.encoder, state)
        new: State = {}
        if self.attention is not None:
            if not len(state["annotations"]):
                raise ValueError("the source is empty: its mark is the first input")
            memory = state["annotations"].stacked()
            if self.backward_encoder is not None:
                backwards, _ = self.backward_encoder(state["source"].stacked().flip(0))
                memory, last = torch.cat([memory, backwards.flip(0)], -1), backwards[-1]
            new["memory"] = memory.transpose(0, 1)
            if self.attention_score != "dot":
                new["keys"] = self.key(new["memory"])
            if self.input_feeding:
                new["attentional"] = last.new_zeros(len(last), self.join.out_features)
        elif self.vector:
            last = new["context"] = self.summary(last).tanh()
        if self.handover == "state":
            return new | _joined("decoder", self.decoder, part(state, "encoder"), last)
        first, begin = self.decoder.initial_state(len(last)), last
        if self.start is not None:
            begin = self.start(last).tanh()
            if self.decoder.output_state is not None:
                first = first | {self.decoder.output_state: begin}
        return new | _joined("decoder", self.decoder, first, begin)

    def _write(
        self, x: Float[Tensor, "B D"], state: State, t: int = 0, source: int = 0, *, begins: bool = False
    ) -> Step:
        """Timestep ``t`` of a walk over ``source`` words of the source; ``begins``: the decoder's first."""
        old, seen, weights = part(state, "decoder"), state.get("context"), None
        if self.attention == "bahdanau":
            weights = self._weights(_output("decoder", self.decoder, state), state)
            seen = _mean(weights, state["memory"])
        fed = state.get("attentional", seen)
        entered = x if fed is None else torch.cat([x, fed], -1)
        output, new = self.decoder.step(entered, old)
        read = self._to_read(output, x, seen, state)
        after = _between(state) | _joined("decoder", self.decoder, new, output)
        if self.input_feeding:
            after["attentional"] = read
        inside = _inside("decoder", self.decoder, entered, old, t)
        if begins:  # what it begins with was in no state of the walk before: all of it is new
            inside["additive"] = lambda: join({"decoder": _all_new(self.decoder.additive(entered, old), old)})
        if self.attention is not None:
            own = inside["looks"]
            inside["looks"] = lambda: {"alignment": self._look(output, weights, state, source), **own()}
        return Step(x, read, after, **inside)

    def _look(
        self, output: Float[Tensor, "B S"], weights: Float[Tensor, "B N"] | None, state: State, source: int
    ) -> Look:
        """The alignment with the words of the source."""
        weights = self._weights(output, state) if weights is None else weights
        return Look(weights[:, None], source - weights.shape[-1])

    def _to_read(
        self,
        output: Float[Tensor, "*T B S"],
        x: Float[Tensor, "*T B D"],
        seen: Float[Tensor, "*T B H"] | None,
        state: State,
    ) -> Float[Tensor, "*T B L"]:
        """What ``read_out`` reads, for one timestep or several."""
        if self.attention == "luong":
            context = _mean(self._weights(output, state), state["memory"])
            return self.join(torch.cat([context, output], -1)).tanh()
        if self.maxout is None:
            return output
        pairs = self.maxout(torch.cat([part for part in (output, x, seen) if part is not None], -1))
        return pairs.unflatten(-1, (-1, 2)).amax(-1)

    def _weights(self, query: Float[Tensor, "*T B S"], state: State) -> Float[Tensor, "*T B N"]:
        """How much of each word of the source is seen; a word's weights add up to 1."""
        if self.attention == "luong" and self.attention_score != "concat":
            return torch.einsum("...bs,bns->...bn", query, state.get("keys", state["memory"])).softmax(-1)
        return self.energy((self.query(query)[..., None, :] + state["keys"]).tanh()).squeeze(-1).softmax(-1)

    def read_out(self, outputs: Float[Tensor, "*A B L"]) -> Float[Tensor, "*A B K"]:
        return self.readout(outputs)

    # ---- The shortcut ------------------------------------------------------------------------------------------------

    def forward(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None, *, at: slice | None = None
    ) -> tuple[Float[Tensor, "A B K"], State]:
        """Both cells read their part at once, unless the decoder's next input depends on its last output."""
        state = self.initial_state(inputs.shape[1]) if state is None else state
        source = self._source_length(inputs, state)
        xs = self.embed(inputs)
        parts = []
        if source:
            outputs, new = self.encoder(xs[:source], part(state, "encoder"))
            before, state = state, _joined("encoder", self.encoder, new, outputs[-1])
            for name, values in (("annotations", outputs), ("source", xs[:source])):
                if name in before:
                    state[name] = Slots([*before[name], *values.unbind(0)])
            parts.append(outputs.new_zeros(source, len(outputs[0]), self.readout.in_features))
        if source < len(inputs):
            written, state = self._written(xs[source:], self._handed_over(state))
            parts.append(written)
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.read_out(whole if at is None else whole[at]), state

    def _written(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B L"], State]:
        """(what ``read_out`` reads at the target's timesteps, the state after them)"""
        if self.attention == "bahdanau" or self.input_feeding:
            outputs = []
            for x in xs.unbind(0):
                step = self._write(x, state)
                outputs.append(step.output)
                state = step.state
            return torch.stack(outputs), state
        seen = state["context"].expand(len(xs), -1, -1) if "context" in state else None
        entered = xs if seen is None else torch.cat([xs, seen], -1)
        outputs, new = self.decoder(entered, part(state, "decoder"))
        after = _between(state) | _joined("decoder", self.decoder, new, outputs[-1])
        return self._to_read(outputs, xs, seen, state), after

    def _source_length(self, inputs: Int[Tensor, "T B"], state: State) -> int:
        """How many of the inputs are still of the source. On a GPU this is a sync point, one per sequence."""
        if _is_decoders(state):
            return 0
        marks = inputs == self.go
        for t, (some, every) in enumerate(torch.stack([marks.any(1), marks.all(1)], 1).tolist()):
            if some and not every:
                raise ValueError("all sources of a batch must end at the same timestep")
            if every:
                return t
        return len(inputs)


def _joined(name: str, cell: Cell, state: State, output: Float[Tensor, "B H"]) -> State:
    """A cell's state under its name; beside it its output, ``NAME_output``, if no state is that."""
    return join({name: state}) | ({} if cell.output_state is not None else {f"{name}_output": output})


def _output(name: str, cell: Cell, state: State) -> Float[Tensor, "B H"]:
    """The cell's last output."""
    return state[f"{name}_output" if cell.output_state is None else f"{name}/{cell.output_state}"]


def _is_decoders(state: State) -> bool:
    return any(name.startswith("decoder/") for name in state)


def _between(state: State) -> State:
    """What stays while the target is written."""
    return {name: state[name] for name in ("context", "memory", "keys") if name in state}


def _mean(weights: Float[Tensor, "*T B N"], memory: Float[Tensor, "B N H"]) -> Float[Tensor, "*T B H"]:
    return torch.einsum("...bn,bnh->...bh", weights, memory)


def _all_new(additive: Mapping[str, Additive], old: State) -> dict[str, Additive]:
    return {name: Additive(keep, keep * old[name] + write, query) for name, (keep, write, query) in additive.items()}


def _inside(name: str, cell: Cell, x: Float[Tensor, "B D"], state: State, t: int) -> dict[str, Any]:
    """The ``gates``, ``looks`` and ``additive`` of one cell's step, under its name."""
    return {
        "gates": lambda: join({name: cell.gates(x, state)}),
        "looks": lambda: join({name: backwards(cell.looks(x, state), t)}),
        "additive": lambda: join({name: cell.additive(x, state)}),
    }
