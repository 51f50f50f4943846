"""States and their leaves: slots share what was appended, and what a step wrote is told by identity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seqmem.cells.state import (
    Slots,
    concatenate,
    detach,
    from_plain,
    join,
    leaves,
    map_leaves,
    newest,
    part,
    repeat,
    select,
    to_plain,
    written,
)  # fmt: skip


def numbered(*values: float) -> list[Tensor]:
    return [torch.full((2, 3), float(value)) for value in values]


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=30), st.none() | st.integers(1, 4))
def test_slots_are_lists_that_never_change(appends: list[tuple[int, bool]], window: int | None) -> None:
    """Against plain lists: each append goes to the newest sequence or to any older one."""
    model: list[list[int]] = [[]]
    real = [Slots(window=window)]
    for value, (place, branch) in enumerate(appends):
        at = place % len(model) if branch else -1
        model.append([*model[at], value] if window is None else [*model[at], value][-window:])
        real.append(real[at].append(torch.full((2,), value)))
    for expected, slots in zip(model, real, strict=True):
        assert [int(item[0]) for item in slots] == expected == [int(slots[i][0]) for i in range(len(expected))]
        assert len(slots) == len(expected)


def test_appending_shares_the_tensors_and_costs_no_copy() -> None:
    slots = Slots()
    items = numbered(*range(100))
    views = [slots := slots.append(item) for item in items]
    assert all(view[0] is items[0] for view in views)
    assert len({id(view._items) for view in views}) == 1


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a slot of shape \(3,\) does not go with others of \(2,\)"):
        Slots([torch.zeros(2)]).append(torch.zeros(3))
    with pytest.raises(ValueError, match="window=0: must be at least 1, or None"):
        Slots(window=0)
    with pytest.raises(ValueError, match="empty slots cannot be stacked"):
        Slots().stacked()


def test_what_a_step_wrote() -> None:
    a, b, c = numbered(1, 2, 3)
    old = {"same": a, "new": b, "slots": Slots([a]), "idle": (idle := Slots([b]))}
    new = {"same": a, "new": c, "slots": old["slots"].append(b).append(c), "idle": idle, "fresh": a}
    assert {name: [id(x) for x in tensors] for name, tensors in written(old, new).items()} == {
        "same": [], "new": [id(c)], "slots": [id(b), id(c)], "idle": [], "fresh": [id(a)],
    }  # fmt: skip
    turning = Slots([a, b], window=2)
    assert [id(x) for x in written({"s": turning}, {"s": turning.append(c)})["s"]] == [id(c)]
    assert written({"s": Slots()}, {"s": Slots([a, b])})["s"] == (a, b)
    # Leaves that change places are written: each name is compared with itself.
    assert written({"x": a, "y": b}, {"x": b, "y": a}) == {"x": (b,), "y": (a,)}
    assert written({}, {}) == {}


def test_every_leaf_at_once() -> None:
    a, b = (value.requires_grad_() for value in numbered(1, 2))
    state = {"hidden": a * 2, "slots": Slots([a, b], window=5), "empty": Slots()}
    assert len(list(leaves(state))) == 3
    assert not any(leaf.requires_grad for leaf in leaves(detach(state)))
    doubled = map_leaves(lambda leaf: leaf * 2, state)
    assert (doubled["slots"].window, [float(item.detach()[0, 0]) for item in doubled["slots"]]) == (5, [2, 4])
    assert {name: tuple(row.shape) for name, row in newest(state).items()} == {"hidden": (2, 3), "slots": (2, 3)}
    assert torch.equal(newest({"clock": torch.arange(2)})["clock"], torch.tensor([[0], [1]]))


def test_rows_of_a_batch() -> None:
    a, b = numbered(1, 2)
    state = {"hidden": a, "clock": torch.arange(2), "slots": Slots([a, b])}
    twice = repeat(state, 2)
    assert torch.equal(twice["clock"], torch.tensor([0, 1, 0, 1]))
    assert [tuple(item.shape) for item in twice["slots"]] == [(4, 3), (4, 3)]
    again = concatenate([state, state])
    assert again is not None
    torch.testing.assert_close(again, twice)
    torch.testing.assert_close(select(twice, slice(0, 2)), state)
    torch.testing.assert_close(select(twice, torch.tensor([1]))["clock"], torch.tensor([1]))


@pytest.mark.parametrize(
    "other",
    [
        {"slots": Slots(numbered(1, 2))},
        {"slots": Slots()},
        {"slots": torch.zeros(2, 3)},
        {"slots": Slots([torch.zeros(2, 4)])},
        {"slots": Slots(numbered(1)), "more": torch.zeros(2)},
    ],
    ids=["longer", "empty", "a tensor", "wider", "another name"],
)
def test_states_that_fit_in_no_batch(other: dict[str, Slots | Tensor]) -> None:
    assert concatenate([{"slots": Slots(numbered(1))}, other]) is None
    assert concatenate([other, {"slots": Slots(numbered(1))}]) is None


def test_slots_count_what_their_window_has_let_go() -> None:
    slots = Slots(numbered(1), window=2).append(numbered(2)[0])
    assert slots.dropped == 0
    longer = slots.append(numbered(3)[0]).extend(numbered(4, 5))
    assert (len(longer), longer.dropped) == (2, 3)
    assert longer.map(torch.neg).dropped == 3
    twice = concatenate([{"slots": longer}, {"slots": longer}])
    assert twice is not None
    assert twice["slots"].dropped == 3
    assert concatenate([{"slots": longer}, {"slots": slots}]) is None  # the same number of slots, of other timesteps


def test_states_inside_states() -> None:
    inner = {"0": {"hidden": torch.zeros(1)}, "1": {"a/b": torch.ones(1)}, "2": {}}
    whole = join(inner)
    assert list(whole) == ["0/hidden", "1/a/b"]
    assert {name: part(whole, name) for name in inner} == inner


def test_files_hold_no_classes(tmp_path) -> None:
    state = {"hidden": torch.rand(2, 3), "slots": Slots(numbered(1, 2), window=4), "empty": Slots(window=2)}
    torch.save(to_plain(state), tmp_path / "state.pt")
    again = from_plain(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(again, state, rtol=0, atol=0)
    full = from_plain(to_plain({"full": Slots(numbered(1, 2, 3), window=2)}))["full"]
    assert (len(full), full.dropped) == (2, 1)
    assert (again["slots"].window, again["empty"].window, len(again["empty"])) == (4, 2, 0)
