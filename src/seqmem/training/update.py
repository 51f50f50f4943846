"""One update of the weights: read a batch (in segments), differentiate, clip, step the optimizer.

Everything stays on the model's device: nothing here is a GPU sync point.
Axes: T time, B batch, K outputs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, _foreach_mul_, _foreach_norm, nn  # pyright: ignore[reportPrivateImportUsage]

from ..cells.state import State, map_leaves
from ..models.base import Differentiated, loss_and_gradient
from ..signals import Batch
from ..tasks.base import Task
from .omega import Omega, Penalised


def update(
    model: Callable[..., tuple[Tensor, State]],
    task: Task,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    batch: Batch,
    state: State | None,
    clip_norm: float | None,
    *,
    tbptt: int | None = None,
    weighted: slice | None = None,
    precision: str = "float32",
    noise: Callable[[], AbstractContextManager[None]] = nullcontext,
    omega: Omega | None = None,
) -> tuple[Float[Tensor, " N"], State]:
    """One training step: (its numbers, the state at the end of the batch).

    The numbers are the loss, the norm of the gradient before and after clipping, and with ``omega`` the regulariser.

    Args:
        model: a Model, or its compiled form.
        state: the state before the batch; None: the initial one.
        tbptt, precision: as in ``Plan``.
        weighted: ``batch.weighted``, the span of timesteps with a weight; None: all timesteps may have one. (Asking
            the batch itself would be a sync point.)
        noise: seeds the global generators; entered at most once, before something that may draw from them.
        omega: adds its gradient to that of the loss. It goes with ``tbptt=None`` and ``precision="float32"``.
    """
    device, dtype, seq_len = parameters[0].device, parameters[0].dtype, len(batch.weights)
    once = weighted is not None and weighted.stop - weighted.start == 1
    total, losses, penalties = None if once else batch.weights.sum(0), [], []
    # The compiled form has no pass of its own.
    differentiated: Callable[..., Differentiated | None] = getattr(model, "differentiated", _never)
    for parameter in parameters:  # optimizer.zero_grad() does the same, and first informs a profiler
        parameter.grad = None
    with ExitStack() as stack:
        seed = _Once(lambda: stack.enter_context(noise()))
        if getattr(optimizer, "draws", True):
            seed()
        if precision == "tf32":
            stack.enter_context(_tf32())
        for start, stop, counted in segments(seq_len, tbptt, weighted):
            inputs = batch.inputs[start:stop]
            # A segment without a weight has no loss to differentiate: only its final state is needed.
            weighs = counted.start < counted.stop
            with torch.set_grad_enabled(weighs), _autocast(device, on=precision == "bf16"):
                passed: Differentiated | None = None
                if omega is not None and weighs:
                    seed()
                    passed = omega.forward(inputs, state, counted)
                elif weighs:
                    passed = differentiated(inputs, state, counted)
                if passed is None:
                    seed()
                    every = counted == slice(0, stop - start)
                    passed = _ByAutograd(*model(inputs, state, **({} if every else {"at": counted})))
            state = map_leaves(partial(_detached, dtype=dtype), passed.final)
            if weighs:
                part = batch.part(start + counted.start, start + counted.stop)
                loss, gradient = loss_and_gradient(task, passed.predicted.detach().to(dtype), part, total)
                passed.backward(gradient)
                losses.append(loss)
                if isinstance(passed, Penalised):
                    penalties.append(passed.omega)
            del passed  # free this segment's graph before the next one is built
        norm = clip([parameter.grad for parameter in parameters if parameter.grad is not None], clip_norm)
        optimizer.step()
    clipped = norm if clip_norm is None else norm.clamp(max=clip_norm)
    loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    numbers = torch.stack([loss, norm, clipped, *penalties])
    return numbers, state or {}


def _never(*_: object) -> None:
    return None


class _Once:
    """Does something at the first call alone."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what: Callable[[], object] | None = what

    def __call__(self) -> None:
        if self._what is not None:
            self._what, what = None, self._what
            what()


class _ByAutograd:
    """A forward pass with autograd's graph."""

    def __init__(self, predicted: Float[Tensor, "A B K"], final: State) -> None:
        self.predicted, self.final = predicted, final

    def backward(self, predicted: Float[Tensor, "A B K"]) -> None:
        # The sum of products, because torch imports a computer algebra for a gradient that is given: 35 MB.
        (self.predicted * predicted.to(self.predicted.dtype)).sum().backward()


def clip(gradients: list[Tensor], most: float | None) -> Float[Tensor, ""]:
    """Scale gradients in place so that their joint L2 norm is at most ``most`` (None: any); return the norm before.

    Bit for bit ``torch.nn.utils.clip_grad_norm_``, without its checks of each gradient's type and device at every
    step.
    """
    norm = torch.linalg.vector_norm(torch.stack(_foreach_norm(gradients)))
    if most is not None:
        _foreach_mul_(gradients, torch.clamp(most / (norm + 1e-6), max=1.0))
    return norm


def segments(seq_len: int, tbptt: int | None, weighted: slice | None) -> Iterator[tuple[int, int, slice]]:
    """For each segment of ``tbptt`` timesteps: its start, its stop, and its timesteps inside ``weighted`` as a slice
    that counts from the segment's start (empty: none)."""
    weighted = slice(0, seq_len) if weighted is None else weighted
    length = seq_len if tbptt is None else tbptt
    for start in range(0, seq_len, length):
        stop = min(start + length, seq_len)
        first, last = max(weighted.start, start), min(weighted.stop, stop)
        yield start, stop, slice(first - start, last - start) if first < last else slice(0, 0)


def _detached(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Detach a state, back in the model's dtype: under autocast it may be in half precision."""
    return value.detach().to(dtype) if value.dtype == torch.bfloat16 else value.detach()


def _autocast(device: torch.device, *, on: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if on else nullcontext()


@contextmanager
def _tf32() -> Iterator[None]:
    """Inside, CUDA may multiply float32 in TF32 (8 bits of exponent, 10 of mantissa)."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn
