"""What cannot fit into memory is refused before any is taken; what runs today is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from commandline import TINY, Completed, composed, only_run
from seqmem import cores
from seqmem.cells.base import cells_in
from seqmem.cli.config import memory
from seqmem.cli.config.build import build
from seqmem.cli.config.errors import ConfigError, is_out_of_memory, one_line

Typed = Callable[..., Completed]
GB = 10**9


@pytest.fixture
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 4 * GB)


@pytest.mark.usefixtures("_small_machine")
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        (
            "seq_len=10000000",
            "seq_len=10000000 with batch_size=64 needs at least 169 GB of memory, and 4 GB are free: ",
        ),
        ("evaluate.lengths=[1000000000]", "evaluate.lengths=[1000000000] needs at least 264 GB of memory, and 4 GB"),
        ("cell.hidden_size=100000", "cell.hidden_size=100000 needs at least 320 GB of memory, and 4 GB are free"),
        ("cell.params=1000000000000", "cell.params=1000000000000 needs at least 8 TB of memory"),
        ("batch_size=100000000", "seq_len=50 with batch_size=100000000 needs at least 1.32 TB of memory"),
    ],
)
def test_what_cannot_fit_is_refused(setting: str, line: str, typed: Typed) -> None:
    typed("train", setting).refuses(line, code=2)


@pytest.mark.usefixtures("_small_machine")
def test_what_is_advised_is_accepted() -> None:
    """Whatever the line proposes is not refused in turn."""
    config = composed("seq_len=10000000")
    with pytest.raises(ConfigError) as refused:
        memory.refuse(config, 4 * GB, lambda size: size)
    length = int(str(refused.value).partition(": seq_len=")[2].split()[0])
    assert length > 1000
    memory.refuse(replace(config, seq_len=length, batch_size=1), 4 * GB, lambda size: size)
    config = replace(config, seq_len=1_000_000)
    with pytest.raises(ConfigError) as refused:
        memory.refuse(config, 4 * GB, lambda size: size)
    batch = int(str(refused.value).partition(": batch_size=")[2].split()[0])
    assert batch > 1
    memory.refuse(replace(config, batch_size=batch), 4 * GB, lambda size: size)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("saving", [{}, {"tbptt": 10}])
def test_bounds_are_below_what_a_training_allocates(cell: str, saving: dict[str, int]) -> None:
    """Against the bytes of tensors that are alive after a forward pass, and of the weights with Adam's state."""
    config = replace(composed(f"cell={cell}"), seq_len=200, **saving)
    needs = {what.partition("=")[0]: need for what, need, _ in memory._needs(config, lambda _: 0)}
    built = build(replace(config, seq_len=20))
    batch = built.task.sample(64, 200, torch.Generator().manual_seed(0)).to("cpu", torch.float32)
    kept = sum(value.nbytes for value in vars(batch).values())
    outputs = 200 * 64 * 64 * 4  # of the one layer, of which a backward pass needs all
    assert needs["seq_len"] <= kept + outputs
    assert needs["evaluate.lengths"] <= (kept + outputs) / 64 + 8 * 200


def test_weights_are_counted_exactly() -> None:
    def count(size: int) -> int:
        return sum(weight.numel() for weight in torch.nn.LSTM(32, size).parameters()) + size * 4 + 4

    assert memory._at(1500, count) == count(1500)


@pytest.mark.usefixtures("_small_machine")
def test_a_cell_that_small_sizes_do_not_suit_is_not_refused() -> None:
    def count(size: int) -> int:
        raise ConfigError(f"cell.hidden_size={size}: must be a multiple of 4")

    assert memory.refuse(composed("cell.hidden_size=1024", "batch_size=1"), 4 * GB, count) == []


def test_a_doubtful_run_is_warned_of_and_runs(typed: Typed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "available", lambda: 3_000)
    done = typed("train", *TINY, "evaluate.lengths=[8]")
    assert (done.code, done.err) == (0, "")
    assert "seq_len=8 with batch_size=4 may need more than the 3 kB of memory that are free" in done.out
    assert only_run(tmp_path)


def test_eval_refuses_a_length_that_cannot_fit(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed("train", *TINY, "quiet=true").code == 0
    monkeypatch.setattr(memory, "available", lambda: 4 * GB)
    line = "seq_len=1000000000 needs at least 24 GB of memory, and 4 GB are free"
    typed("eval", str(only_run(tmp_path)), "seq_len=1000000000").refuses(line, code=2, verb="eval")


def test_limits_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's limit, of which a part is taken, counts like the machine's free memory."""
    monkeypatch.setattr(cores, "ROOT", tmp_path)
    group = tmp_path / "sys/fs/cgroup"
    for folder in (group, tmp_path / "proc/self"):
        folder.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    assert memory._control_groups() == []
    (group / "memory.max").write_text(f"{3 * GB}\n")
    (group / "memory.current").write_text(f"{GB}\n")
    assert memory._control_groups() == [2 * GB]
    (group / "memory.stat").write_text(f"anon 5\nactive_file {GB // 4}\ninactive_file {GB // 4}\n")
    assert memory._control_groups() == [2 * GB + GB // 2]  # cached files are given back on demand
    free = memory.available()
    assert free is None or free > 0


def test_running_out_of_memory_is_one_line() -> None:
    errors: list[BaseException] = [MemoryError()]
    for make in (lambda: torch.empty(1 << 60), lambda: bytearray(1 << 62)):
        with pytest.raises((RuntimeError, MemoryError)) as raised:
            make()
        errors.append(raised.value)
    for error in errors:
        assert is_out_of_memory(error)
        assert one_line(error).startswith("out of memory")
    assert not is_out_of_memory(RuntimeError("size mismatch"))


def test_cells_that_keep_more_than_their_outputs_say_so() -> None:
    """Attention keeps keys and values, mamba what enters its states: against what autograd saves."""
    for cell in ("attention", "mamba"):
        config = replace(composed(f"cell={cell}"), seq_len=200)
        built = build(replace(config, seq_len=20))
        (layer,) = [part for part in cells_in(built.model) if len(cells_in(part)) == 1]
        seen: dict[int, int] = {}

        def save(tensor: torch.Tensor, seen: dict[int, int] = seen) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            layer(torch.randn(200, 3, layer.input_size, requires_grad=True))
        assert 200 * layer.output_size < layer.kept(200) <= sum(seen.values()) / 4 / 3


@pytest.mark.usefixtures("_small_machine")
def test_attention_is_refused_by_what_it_keeps() -> None:
    config = composed("cell=attention", "seq_len=200000", "batch_size=64")
    with pytest.raises(ConfigError, match=r"seq_len=200000 with batch_size=64 needs at least 6\.66 GB"):
        build(config)
