"""Every benchmark in one go, and the pages that show them. Run it with scripts/bench all.

What each benchmark prints is shown, and kept in outputs/.bench/NAME.txt, from where `scripts/bench report` takes it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from bench_kernels import RESULTS, find_jax

SCRIPTS = Path(__file__).resolve().parent
BENCHMARKS = {
    "runner": ("bench.py",),
    "start": ("bench_start.py",),
    "sweep": ("bench_sweep.py", "--rounds", "1"),
    "reports": ("check_report.py", "100", "20000"),
    "training": ("bench_training.py",),
    "kernels": ("bench_kernels.py",),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench all", description="all benchmarks, one after another, then docs/performance.md and more"
    )
    parser.add_argument("--jax", metavar="PYTHON", help="a Python that has JAX, if this one has not")
    parser.add_argument("--without", action="append", default=[], choices=tuple(BENCHMARKS), help="leave this one out")
    options = parser.parse_args()
    python, start, over = find_jax(options.jax), time.monotonic(), []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, (file, *words) in BENCHMARKS.items():
        if name in options.without:
            continue
        if python is not None and name in ("training", "kernels"):
            words.append(f"--jax={python}")
        print(f"\n{name}: {file} {' '.join(words)}\n", flush=True)
        command = [sys.executable, str(SCRIPTS / file), *words]
        part = RESULTS / f"{name}.part"
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, part.open("w") as kept:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                kept.write(line)
        if process.returncode not in (0, 1):  # 1: a limit is missed, which the pages show
            print(f"scripts/bench all: {file} failed", file=sys.stderr)
            return 2
        part.rename(RESULTS / f"{name}.txt")
        if process.returncode:
            over.append(name)
    minutes = (time.monotonic() - start) / 60
    print(f"\n{minutes:.0f} minutes; a limit is missed in: {', '.join(over) or 'none'}", flush=True)
    return subprocess.run([sys.executable, str(SCRIPTS / "bench_report.py")], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
