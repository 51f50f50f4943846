"""Time, memory and correctness of ``seqmem report`` over thousands of made-up finished runs."""

import csv
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SECONDS, BYTES = 20.0, 1e9

CELLS = {"rnn": 10, "lstm": 50, "gru": 100, "lstm1": 20, "mut1": 200}
"""Cell -> the longest length that most of its seeds solve."""

LENGTHS = (10, 20, 50, 100, 200)
TRACES, STATES = 11, ("hidden", "input")


def make(folder: Path, count: int) -> dict[tuple[str, int], int]:
    """Write ``count`` runs into ``folder``; returns (cell, length) -> how many of its runs are solved."""
    rng = np.random.default_rng(0)
    solved: dict[tuple[str, int], int] = {}
    for i in range(count):
        cell, length = list(CELLS)[i % 5], LENGTHS[i // 5 % 5]
        seed = i // 25
        solves = rng.random() < (0.9 if length <= CELLS[cell] else 0.1)
        score = float(1 - 0.005 * rng.random() if solves else 0.25 + 0.1 * rng.random())
        solved[cell, length] = solved.get((cell, length), 0) + (score >= 0.99)
        run = folder / "pronoun" / cell / f"len{length}-seed{seed}"
        run.mkdir(parents=True)
        config = {
            "cell": {"name": cell, "hidden_size": 64, "layers": 1},
            "task": {"name": "pronoun", "usual_seq_len": 50, "lengths": "fixed", "people": 8},
            "optimizer": {"name": "adam", "lr": 0.003},
            "seq_len": length, "seed": seed, "steps": 1000, "batch_size": 64,
        }  # fmt: skip
        tested = sorted({5, length // 2, length, 2 * length, 4 * length})
        decay = {
            "log10_arrives": -1.0, "half_life": 5.0, "horizon": "inf", "log10_least": -1.0, "least_at": length - 1.0,
            "log10_most": 0.0, "most_at": 1.0, "factor": 0.87, "points": 9, "r2": 0.9, "underflowed": 0,
        }  # fmt: skip
        result = {
            "task": "pronoun", "cell": cell, "seq_len": length, "seed": seed, "hidden_size": 64, "layers": 1,
            "parameters": 17000, "steps": 1000, "device": "cpu", "baseline_loss": 1.4, "metric": "accuracy",
            "higher_is_better": True, "score": score, "chance": 0.25, "loss": 0.1, "solved_at": 0.99, "solved": solves,
            "steps_to_solve": int(rng.integers(1, 20)) * 50 if solves else None,
            "by_length": [{"seq_len": at, "score": score, "loss": 0.1, "sequences": 1000} for at in tested],
            "gradient": {when: dict.fromkeys(("state", *STATES), decay) for when in ("start", "end")},
            "seconds": 7.0, "steps_per_second": 140.0, "versions": {"seqmem": "0.1.0"},
        }  # fmt: skip
        environment = {"seqmem": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "command": ["seqmem", "train"]}
        for name, value in {"config": config, "result": result, "environment": environment}.items():
            (run / f"{name}.json").write_text(json.dumps(value, indent=1))
        decays = 10.0 ** -(np.arange(length)[::-1] / CELLS[cell])[None, :, None]
        norms = {f"norm/{name}": decays * rng.random((TRACES, 1, 32)) for name in STATES}
        np.savez(run / "gradients.npz", step=np.arange(TRACES) * 100, answered_at=np.full(32, length - 1), **norms)
    return solved


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "outputs"
        solved = make(folder, count)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{count} finished runs, {size / 1e6:.0f} MB")
        start = time.monotonic()
        report = subprocess.run(
            [sys.executable, "-m", "seqmem", "report", str(folder)], capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - start
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(report.stdout)
        if report.returncode:
            print(f"FAILED: exit code {report.returncode}: {report.stderr}")
            return 1
        wrong = []
        summary = " ".join(report.stdout.split())  # its lines are wrapped: "20: 9/10" may stand on two
        for (cell, length), runs in solved.items():
            if not re.search(rf"\b{length}: {runs}/", summary):
                wrong.append(f"{cell} at {length}: {runs} solved are not in the summary")
        with (folder / "report" / "groups.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        wrong += [
            f"{row['label']} at {row['seq_len']}: {row['solved']} solved in groups.csv"
            for row in rows
            if int(row["solved"]) != solved[row["label"], int(row["seq_len"])]
        ]
        if sum(int(row["seeds"]) for row in rows) != count:
            wrong.append(f"{sum(int(row['seeds']) for row in rows)} runs in groups.csv")
        size = sum(path.stat().st_size for path in (folder / "report").rglob("*") if path.is_file())
    processor = usage.ru_utime + usage.ru_stime
    print(f"time         {seconds:6.1f} s, of the processor {processor:.1f} s (limit {SECONDS:.0f} s)")
    print(f"memory       {memory / 1e6:6.0f} MB (limit {BYTES / 1e6:.0f} MB)")
    print(f"the report   {size / 1e6:6.1f} MB")
    # On a busy machine the wall time includes waiting; processor time does not.
    if min(seconds, processor) > SECONDS:
        wrong.append("it takes too long")
    if memory > BYTES:
        wrong.append("it takes too much memory")
    print(*wrong, sep="\n" if wrong else "", end="\n" if wrong else "")
    print("FAILED" if wrong else "passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
