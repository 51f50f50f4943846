"""Where seqmem's kernels are faster than torch's own layer, by what ``scripts/bench nn --kernels`` measures.

torch loops over timesteps and calls its operations for each, but for the LSTM, which oneDNN computes at one go. So the
kernels win by far over loops of any length, over oneDNN where a batch fills their registers and the weights their
cache. A call of theirs costs some 0.1 ms beside the work, mostly for packing weights.
"""

SHORT = 20
"""Timesteps below which the cost of a call counts."""
WIDEST = {"avx512": 256}
"""Instruction set -> most units of an LSTM up to which the kernels train it faster than oneDNN; others: 128."""


def pays(
    kind: str,
    steps: int,
    batch: int,
    hidden: int,
    *,
    training: bool,
    packed: bool,
    threads: int,
    isa: str,
    projection: int = 0,
) -> bool:
    """True if the kernels are the faster ones for one layer of this size.

    Args:
        kind: of ``kernels.functions.KINDS``.
        steps, batch, hidden: T, B and H.
        training: a backward pass may follow.
        packed: of several lengths, which torch always computes in a loop.
        isa: the kernels' instruction set.
        projection: P, of an LSTM whose h_t is projected; 0: it is not. torch computes it in a loop, with P x 4H numbers
            in each step's product where the kernels have H x 4H.
    """
    if projection:
        fits_cache = hidden <= 64 or (hidden <= 128 and (batch <= 64 or not training))
        return steps >= SHORT and fits_cache and 4 * projection >= hidden and (threads == 1 or hidden < 128)
    if threads > 1 and batch <= 16 and hidden >= 128:
        return False  # torch's products use all threads, the kernels one for each 16 sequences
    if hidden > 256 and batch > 64:
        return False
    if kind != "lstm" or packed:
        if steps >= SHORT:
            return True
        return batch <= 64 if training else kind == "gru torch" and batch > 16 and hidden <= 128
    rows, widest = steps * batch, WIDEST.get(isa, 128)
    if training:
        return steps >= 30 and rows >= 500 and batch >= 8 and hidden <= widest
    if batch < 16:
        return batch * steps >= 500 and batch <= 4 and hidden <= 64
    return rows >= 500 and steps >= (10 if hidden <= 128 else 30) and hidden <= 256
