"""A cell and a model such as users write: no line of seqmem knows them. For tests, and copied to where a user has them.

Axes: B batch, N slots.
"""

from functools import partial

import torch
from torch import nn

from seqmem.cells import Cell, Slots, join, part
from seqmem.models import Model, Step, backwards, entering


class Attention(Cell):
    """One head that looks back at every timestep so far. Its state: their keys and values."""

    source = "Vaswani et al. 2017"

    def __init__(self, input_size: int, hidden_size: int, window: int | None = None):
        super().__init__()
        self.input_size, self.output_size, self.window = input_size, hidden_size, window
        self.project = nn.Linear(input_size, 3 * hidden_size)

    def initial_state(self, batch_size):
        return {"keys": Slots(window=self.window), "values": Slots(window=self.window)}

    def step(self, x, state):
        query, key, value = self.project(x).chunk(3, -1)
        keys, values = state["keys"].append(key), state["values"].append(value)
        seen = (self.shares(query, keys)[..., None] * values.stacked()).sum(0)
        return seen, {"keys": keys, "values": values}

    def looks(self, x, state):
        query, key, _ = self.project(x).chunk(3, -1)
        return {"shares": self.shares(query, state["keys"].append(key)).T[:, None]}

    def shares(self, query, keys):
        return (keys.stacked() * query).sum(-1).div(self.output_size**0.5).softmax(0)


class TwoPhase(Model):
    """An encoder reads the first timesteps and hands its output over, as the context that a decoder goes on with."""

    def __init__(self, task, cell, *, embed_size: int = 32, source: int = 5):
        super().__init__()
        self.source = source
        self.embed, width = task.inputs.embed(embed_size)
        self.encoder = cell(width)
        self.decoder = cell(width + self.encoder.output_size)
        self.readout = nn.Linear(self.decoder.output_size, task.targets.size)
        self.keeps = tuple(f"{name}/{gate}" for name in ("encoder", "decoder") for gate in self.encoder.keeps)

    def initial_state(self, batch_size):
        read = torch.zeros(batch_size, dtype=torch.int64, device=self.readout.weight.device)
        return {"read": read, **join({"encoder": self.encoder.initial_state(batch_size)})}

    def walk(self, inputs, state=None):
        state = self.initial_state(inputs.shape[1]) if state is None else state
        for t, x in enumerate(entering(self.embed(inputs))):
            if "context" not in state:
                name, cell, read, entered = "encoder", self.encoder, state["read"] + 1, x
            else:
                name, cell, read = "decoder", self.decoder, state["read"]
                entered = torch.cat([x, state["context"]], -1)
            old = part(state, name) or cell.initial_state(len(x))
            output, new = cell.step(entered, old)
            state = {**state, "read": read, **join({name: new})}
            if name == "encoder" and int(read[0]) == self.source:
                state["context"] = output
            inside = (name, cell, entered, old)
            looks = partial(looked, *inside, t)
            yield Step(x, output, state, partial(gates, *inside), looks, partial(additive, *inside))

    def read_out(self, outputs):
        return self.readout(outputs)


def gates(name, cell, x, old):
    return join({name: cell.gates(x, old)})


def looked(name, cell, x, old, t):
    return backwards(join({name: cell.looks(x, old)}), t)


def additive(name, cell, x, old):
    return join({name: cell.additive(x, old)})
