"""Tune the learning rate of each cell with the same budget, then compare the cells at their best rates.

Run it with scripts/tune_lr. The searches use a seed that is not compared, so that a rate which suits this seed by luck
has no advantage. A final table lists the rate and the scores of each cell.
"""

import argparse
import statistics
import subprocess
import sys
from hashlib import blake2b
from math import inf, isfinite, isnan, nan
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import seqmem
from seqmem.runs.files import RunError
from seqmem.training.plan import Diverged


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/tune_lr", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of seqmem train; cell=A,B,C: the cells")
    parser.add_argument("--trials", type=int, default=16, help="learning rates that are tried for each cell")
    parser.add_argument("--seeds", type=int, default=6, help="seeds 0 to N-1 at the best one")
    parser.add_argument("--minimize", action="store_true", help="a low score is the better one: task=adding, task=text")
    parser.add_argument("--python", default=sys.executable, help="that has hydra-optuna-sweeper")
    options = parser.parse_intermixed_args()
    if options.trials < 1 or options.seeds < 1:
        parser.error("--trials and --seeds must be at least 1")
    refused = [word for word in options.settings if word.startswith(("seed=", "optimizer.lr="))]
    if refused:
        parser.error(f"{refused[0]}: seeds and rates are what this chooses")
    command = [options.python, "-c", "import hydra_plugins.hydra_optuna_sweeper, seqmem"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        install = f"{options.python} -m pip install 'hydra-optuna-sweeper>=1.2'"
        print(f"scripts/tune_lr: {options.python} has no Optuna sweeper: {install}", file=sys.stderr)
        return 2
    cells = next((word.partition("=")[2] for word in options.settings if word.startswith("cell=")), "lstm").split(",")
    others = [word for word in options.settings if not word.startswith("cell=")]
    if not any(word.startswith("seq_len=") for word in others):
        others.append("seq_len=20")
    rows = []
    for cell in cells:
        rate = search(options.python, cell, others, options.trials, minimize=options.minimize)
        if rate is None:
            return 1
        rows.append((cell, rate, scores(options.python, cell, others, rate, options.seeds)))
    print(f"\n{'cell':<12}{'rate':>12}{'median':>10}{'lowest':>10}{'highest':>10}{'runs':>6}  of {options.seeds}")
    for cell, rate, finished in rows:
        worst = inf if options.minimize else -inf
        ranked = [worst if isnan(score) else score for score in finished]
        numbers = (statistics.median(ranked), min(ranked), max(ranked)) if ranked else (nan,) * 3
        print(f"{cell:<12}{rate:>12.4g}" + "".join(f"{number:>10.4f}" for number in numbers) + f"{len(finished):>6}")
    return 0 if all(sum(map(isfinite, finished)) == options.seeds for *_, finished in rows) else 1


def outputs(settings: list[str]) -> Path:
    return Path(next((word.partition("=")[2] for word in settings if word.startswith("outputs=")), "outputs"))


def search(python: str, cell: str, settings: list[str], trials: int, *, minimize: bool) -> float | None:
    """The best rate for a cell; None, with a message, if there is none. The same search has the same folder."""
    name = blake2b("\n".join([cell, str(trials), *sorted(settings)]).encode(), digest_size=4).hexdigest()
    folder = outputs(settings) / ".sweeps" / f"tune_lr-{name}"
    results = folder / "optimization_results.yaml"
    results.unlink(missing_ok=True)
    print(f"\n{cell}: a search over {trials} rates", flush=True)
    command = [python, "-m", "seqmem", "train", "-m", "experiment=tune_lr", f"cell={cell}", *settings]
    command += ["hydra.sweeper.direction=minimize"] if minimize else []
    done = subprocess.run(
        [*command, f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={folder}"], check=False
    ).returncode  # also 1 if training diverged at some rate, which is a valid result
    if done not in (0, 1) or not results.exists():
        print(f"scripts/tune_lr: the search for {cell} found no rate (exit code {done})", file=sys.stderr)
        return None
    best = OmegaConf.load(results)
    assert isinstance(best, DictConfig)
    return float(best.best_params["optimizer.lr"])


def scores(python: str, cell: str, settings: list[str], rate: float, seeds: int) -> list[float]:
    """Scores of the seeds at that rate; NaN of one that diverged. Others that failed are left out."""
    print(f"\n{cell}: {seeds} seeds at optimizer.lr={rate!r}", flush=True)
    chosen = [f"cell={cell}", f"optimizer.lr={rate!r}", *settings]
    every = ",".join(map(str, range(seeds)))
    subprocess.run([python, "-m", "seqmem", "train", "-m", *chosen, f"seed={every}"], check=False)
    finished = []
    for seed in range(seeds):
        try:
            result = seqmem.train(*chosen, f"seed={seed}", "quiet=true").result()
            finished += [float(result["score"])] if result else []
        except RunError as error:  # reported when it happened
            finished += [nan] if isinstance(error.__cause__, Diverged) else []
    return finished


if __name__ == "__main__":
    sys.exit(main())
