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

LIMITS = {100: 2.5, 20_000: 25.0}
"""Number of runs -> seconds that a report of no more may take."""
MEGABYTES = 600

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


def check(count: int) -> bool:
    """Make the runs, report them, print a line for each promise; True if all are kept."""
    kept = []

    def promise(what: str, value: float, limit: float, unit: str) -> None:
        kept.append(value <= limit)
        print(f"  {'ok  ' if kept[-1] else 'OVER'}  {what:<58} {value:8.2f} {unit}  (limit {limit:g})", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "outputs"
        solved = make(folder, count)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{count} finished runs, {size / 1e6:.0f} MB")
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        report = subprocess.run(
            [sys.executable, "-m", "seqmem", "report", str(folder)], capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - start
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if report.returncode:
            print(f"FAILED: exit code {report.returncode}: {report.stderr}")
            return False
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
    processor = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    print(f"        {seconds:.1f} s, of the processor {processor:.1f} s; the report has {size / 1e6:.1f} MB")
    seconds_limit = next((limit for most, limit in LIMITS.items() if count <= most), None)
    if seconds_limit is not None:
        # On a busy machine the wall time includes waiting; processor time does not, but counts both cores.
        promise(f"a report of {count:,} runs", min(seconds, processor), seconds_limit, "s")
    promise(f"memory of a report of {count:,} runs", memory / 1e6, MEGABYTES, "MB")
    print(*wrong, sep="\n" if wrong else "", end="\n" if wrong else "")
    return all(kept) and not wrong


def main() -> int:
    counts = [int(word) for word in sys.argv[1:]] or [2000]
    kept = [check(count) for count in counts]
    passed = all(kept)
    print("\npassed" if passed else "\nFAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
