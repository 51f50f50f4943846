"""Optimizers: each equals torch's, bit for bit or step for step."""

from functools import partial
from typing import Any

import pytest
import torch

from seqmem.optimizers import OPTIMIZERS, _uncompiled
from seqmem.randomness import generator


@pytest.mark.parametrize(("ours", "torchs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_an_update_in_one_call_is_torchs(ours: str, torchs: type[torch.optim.Adam]):
    """Bit for bit, also where a parameter has no gradient, where types differ, and after loading a state."""
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    plain = _uncompiled(torchs)  # or torch would import its compiler: seconds
    for dtypes in ((torch.float32, torch.float32, torch.float32), (torch.float32, torch.float64, torch.float32)):
        sides = []
        for make in (OPTIMIZERS[ours], partial(plain, fused=True)):
            parameters = [
                torch.nn.Parameter(torch.randn(5, 3, generator=generator(0, "start", i)).to(dtype))
                for i, dtype in enumerate(dtypes)
            ]
            optimizer = make(parameters, **settings)
            for step in range(6):
                if step == 3:
                    state = optimizer.state_dict()
                    optimizer = make(parameters, **settings)
                    optimizer.load_state_dict(state)
                for i, parameter in enumerate(parameters):
                    drawn = torch.randn(5, 3, generator=generator(step, "gradient", i)).to(parameter.dtype)
                    parameter.grad = None if i == 2 and step % 2 else drawn
                optimizer.step()
            sides.append((parameters, optimizer.state_dict()))
        (mine, my_state), (theirs, their_state) = sides
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        torch.testing.assert_close(my_state["state"], their_state["state"], rtol=0, atol=0)
        assert float(my_state["state"][0]["step"]) == 6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str):
    point = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[name]([point], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        point.square().sum().backward()
        optimizer.step()
    assert point.detach().norm().item() < 0.3


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_must_be_positive(name: str, lr: float):
    with pytest.raises(ValueError, match=r"^lr=.*: must be positive$"):
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("adam", {"weight_decay": 0.1}, torch.optim.Adam),
        ("adamw", {"weight_decay": 0.1}, torch.optim.AdamW),
        ("rmsprop", {"momentum": 0.5, "alpha": 0.8}, torch.optim.RMSprop),
        ("sgd", {"momentum": 0.5, "nesterov": True}, torch.optim.SGD),
    ],
)
def test_every_optimizer_is_torchs_own_step_for_step(name: str, options: dict[str, Any], theirs: Any):
    def points() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.randn(5, generator=generator(0, "p", i))) for i in range(2)]

    ours, twins = points(), points()
    mine, other = OPTIMIZERS[name](ours, lr=0.01, **options), theirs(twins, lr=0.01, **options)
    for step in range(20):
        if step == 10:  # through a saved state
            state, mine = mine.state_dict(), OPTIMIZERS[name](ours, lr=0.5)
            mine.load_state_dict(state)
        for parameters, optimizer in ((ours, mine), (twins, other)):
            optimizer.zero_grad()
            sum(p.pow(4).sum() for p in parameters).backward()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
    torch.testing.assert_close(ours, twins, rtol=1e-6, atol=1e-7)
