"""Command lines that users mistype and strangers make up, drawn from a grammar with a fixed seed, and their verdict.

``python scripts/fuzz.py [LINES [SEED]]`` answers them in this process, in a temporary folder; ``check_faults`` does so,
too. The tests answer a few.
"""

import io
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TINY = (
    "seq_len=8", "steps=1", "cell.hidden_size=2", "batch_size=2", "embed_size=2", "evaluate.sequences=2",
    "trace.sequences=2", "device=cpu", "quiet=true",
)  # fmt: skip

VALUES = (
    "[[1]]", "[nan]", "[]", "[1,2]", "[-1]", "{}", "{a:1}", "nan", "inf", "-inf", "1e400", "-1e400", "1e30", "1e-400",
    "-1",
    "0", "0.5", "1e3", "99999999999999999999", "-99999999999999999999", "0x10", "1_000", "", "null", "true", "'true'",
    "'1'", "x", "ünïcode", "１", "🙂", "${x}", "${seed}", "${seed", "$${x}", "${oc.env:X}", "${oc.env:HOME,1}", "../..",
    "a/b", "~", "*", "'a b'", "a b", "'", '"', "[", "(", "]", "{", "a:b", "a=b", "%s", "{0}", "__class__", "os.path",
    "a.b",
    ".", "-", "1,2", "range(3)", "choice(1,2)", "glob(*)",
    "interval(0,1)", "range(0)", "range(1,2,0)", "tag(a,1)", "int(x)", "f(1)", "[rnn,lstm]",
    "\x1b[2J", "\u202egnp", "\x9b", "\t",
    "!!python/name:os.system",
    "a" * 300, "???", "\\", "@", "#",
)  # fmt: skip

SETTINGS = (
    "seq_len", "seed", "batch_size", "embed_size", "clip_norm", "tbptt", "dtype", "precision", "compile",
    "train.checkpoint_every_t", "on_nan", "log_every", "evaluate.every", "evaluate.sequences", "evaluate.lengths",
    "trace.every", "trace.sequences", "trace.loss", "device", "kernel", "threads", "deterministic", "checkpoint_every",
    "outputs", "force", "cell", "task", "model", "optimizer", "probe", "experiment", "cell.name", "cell.hidden_size",
    "cell.layers", "cell.params", "cell.init", "cell.forget_bias", "cell.target", "cell.args", "task.name",
    "task.lengths",
    "task.shortest", "task.people", "task.target", "model.name", "model.target", "optimizer.name", "optimizer.lr",
    "optimizer.betas", "optimizer.weight_decay", "optimizer.eps", "probe.gradient", "probe.x", "evaluate", "trace",
    "train", "hydra.verbose", "hydra.sweeper", "hydra/launcher", "hydra.job.name", "a.b", "",
)  # fmt: skip
"""Without ``steps``: a million of them is a right answer that takes an hour."""

FILES = {
    "bare": b"seq_len: 9\n", "bom": b"\xef\xbb\xbf# @package _global_\n", "list": b"# @package _global_\n- a\n",
    "open": b"# @package _global_\nseq_len: [", "tab": b"# @package _global_\nseq_len:\t9", "latin": b"# \xff\n",
    "plain": b"# @package _global_\ndefaults:\n  - cell: gru\n", "word": b"# @package _global_\ncell: gru\n",
    "typo": b"# @package _global_\nseqlen: 9\n", "twice": b"# @package _global_\nseed: 1\nseed: 2\n", "empty": b"",
    "kind": b"# @package _global_\nseq_len: long\n", "over": b"# @package _global_\ndefaults: [override cell: gru]\n",
    "params": b"# @package _global_\nhydra: {sweeper: {params: {cell: [rnn, lstm]}}}\n",
    "strange": b"# @package a b\nhydra: 3\n", "self": b"# @package _global_\ndefaults: [_self_, _self_]\n",
}  # fmt: skip
"""A user's own files, in ``own/experiment``, ``own/cell`` and ``own/probe``."""

CHOICES = (
    "cell=rnn", "cell=gru", "cell=custom", "task=adding", "task=copy", "task=custom", "model=custom", "optimizer=sgd",
)  # fmt: skip

FORMS = ("{0}={1}",) * 8 + (
    "+{0}={1}", "++{0}={1}", "~{0}", "~{0}={1}", "{0}", "={1}", "{0}x={1}", "--{0}={1}", "{0}[0]={1}", "{0}.x={1}",
    "+{0}.x={1}",
    "{0}@{1}={1}", "{1}={0}", "{1}",
)  # fmt: skip

FLAGS = (
    "-m", "--cfg job", "--cfg {1}", "--info {1}", "-p {1}", "--resolve", "-cd {1}", "-cn {1}", "-cp {1}", "--{1}", "-x",
)  # fmt: skip

PATHS = (
    ".", "..", "../..", "", " ", "nowhere", "outputs", "outputs/pronoun", "empty", "file.txt", "broken", "/dev/null",
    "/proc/self/mem",
    "loop", "-", "--", "ü", "🙂", "'", '"', "\x1b[2J", "\u202egnp", "a" * 300, "*", "file.txt/x", "\n", "~", "~none",
)  # fmt: skip

VERBS = {
    "eval": ("seq_len={0}", "sequences={0}", "device={0}", "seed={0}", "--json", "--{0}", "{0}"),
    "show": ("--{0}", "{0}"),
    "read": ("--text {0}", "--seed {0}", "--length {0}", "--json", "--whole", "--speed {0}", "--{0}"),
    "report": ("--out {0}", "--threshold {0}", "--format {0}", "--json", "--{0}"),
    "verify": ("--json", "--{0}"),
    "export": ("--state-dict {0}", "--onnx {0}", "--onnx x.onnx", "--state-dict x.npz", "--{0}"),
    "reproduce": ("--out {0}", "--json", "device={0}", "threads={0}", "kernel={0}", "{0}"),
    "sweep": ("status", "--json", "{0}"),
    "span": ("cell={0}", "seq_len={0}", "seed={0}", "--max {0}", "--{0}", "--json"),
    "check": ("cell={0}", "embed_size={0}", "cell.wrap={0}", "model={0}", "{0}", "--{0}", "--json"),
    "list": ("cells", "{0}", "--json", "--{0}"),
    "playground": ("--out {0}", "--{0}", "nowhere"),
    "watch": ("--{0}", "nowhere", "--port {0}"),
}


def command_lines(seed: int, count: int) -> Iterator[list[str]]:
    """The same ``count`` lines for the same seed: two thirds of ``train``, a third of other verbs."""
    rng = random.Random(seed)
    for _ in range(count):
        draw = rng.random()
        if draw < 0.65:
            yield _training(rng)
        elif draw < 0.97:
            yield _other(rng)
        else:
            yield [rng.choice((*VERBS, *VALUES)), rng.choice(VALUES)]


def _training(rng: random.Random) -> list[str]:
    if rng.random() < 0.1:
        sweep = ["-m"] * rng.choice((0, 0, 1))
        plus = rng.choice(("", "", "", "+"))
        group = rng.choice(("experiment", "experiment", "cell", "probe"))
        return ["train", *TINY, "-cd", "own", *sweep, f"{plus}{group}={rng.choice((*FILES, 'yml'))}"]
    words = ["train", *TINY, *(rng.choice(CHOICES) for _ in range(rng.choice((0, 0, 1, 2))))]
    for _ in range(rng.choice((1, 1, 1, 2))):
        setting = rng.choice(SETTINGS)
        form = rng.choice(FORMS) if rng.random() < 0.9 else rng.choice(FLAGS)
        words += [part.format(setting, rng.choice(VALUES)) for part in form.split(" ")]
    return words


def _other(rng: random.Random) -> list[str]:
    verb = rng.choice(list(VERBS))
    if verb in ("playground", "watch"):  # without a path that is wrong, they train for minutes or wait for a browser
        words = [verb, "nowhere"]
    else:
        words = [verb, *(rng.choice(PATHS) for _ in range(rng.choice((0, 1, 1, 2))))]
    for _ in range(rng.choice((0, 1, 1, 2))):
        option = rng.choice(VERBS[verb])
        words += [part.format(rng.choice((*VALUES, *PATHS))) for part in option.split(" ")]
    return words


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def fault(code: int, out: str, err: str) -> str | None:
    """What is wrong with an answer; None: it succeeded, or one line says why not."""
    if code == 130:  # the signal may have come inside a finalizer, in which Python prints it itself
        return None
    if "Traceback (most recent call last)" in out + err:
        return "a traceback"
    if CONTROLS.search(out + err):
        return "a control character"
    if code == 0:
        return None
    if code not in (1, 2):
        return f"exit code {code}"
    lines = [line for line in err.splitlines() if line.strip()]
    if not lines and out.strip():  # a table, a comparison or a verdict of which something is wrong
        return None
    if len([line for line in lines if not line.startswith("  job ")]) != 1:
        return f"{len(lines)} lines on stderr"
    if re.match(r"seqmem( \w+)?: \w*(Error|Exception|Warning|Interrupt)\b: ", lines[0]):
        return "an error that no one has put into words"
    if any(_HYDRAS.search(line) for line in lines):
        return "an error in Hydra's words"
    return None


_HYDRAS = re.compile(
    "raised while|full_key|object_type|DictConfig|ListConfig|Config[A-Z]\\w+Error|[Dd]efaults [Ll]ist|sweep type|"
    "<locals>|config group|Primary config|hydra\\.cc|OmegaConf|struct"
)


@dataclass
class Verdict:
    """``counts``: lines by what came of them; ``faults``: (line, what is wrong, the answer)."""

    counts: Counter[str]
    faults: list[tuple[str, str, str]]


def judge(
    lines: Iterator[list[str]],
    answer: Callable[[Sequence[str]], tuple[int, str, str]],
    told: Callable[[str, str, str], None] | None = None,
) -> Verdict:
    verdict = Verdict(Counter(), [])
    for line in lines:
        code, out, err = answer(line)
        wrong = fault(code, out, err)
        if wrong is not None:
            verdict.faults.append((shlex.join(line), wrong, (err or out)[-300:]))
            if told is not None:
                told(*verdict.faults[-1])
        kinds = {0: "succeeded", 1: "failed", 2: "refused", 130: "stopped"}
        verdict.counts["faulty" if wrong else kinds[code]] += 1
    return verdict


def prepare(folder: Path) -> Path:
    """The place where the lines are typed, deep enough that ``../..`` is inside ``folder``."""
    place = folder / "a" / "b" / "c"
    (place / "empty").mkdir(parents=True)
    (place / "file.txt").write_text("text")
    (place / "broken" / "run").mkdir(parents=True)
    (place / "broken" / "run" / "config.json").write_text("{")
    (place / "loop").symlink_to("loop")
    for group in ("experiment", "cell", "probe"):
        (place / "own" / group).mkdir(parents=True)
        (place / "own" / group / "yml.yml").write_text("seed: 1")
        for name, content in FILES.items():
            (place / "own" / group / f"{name}.yaml").write_bytes(content)
    return place


def here(line: Sequence[str], seconds: float = 20) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of ``seqmem LINE`` in this process; after ``seconds`` it gets a Ctrl-C."""
    from seqmem.cli.main import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["seqmem", *line], out, err
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        code = main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        err.write(traceback.format_exc())
        code = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.argv, sys.stdout, sys.stderr = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(errors="surrogateescape"))  # pyright: ignore[reportAttributeAccessIssue]
    return code, *texts


def _tell(line: str, wrong: str, answer: str) -> None:
    print(f"{wrong}: {line}\n    {answer!r}", flush=True)


def main() -> int:
    count, seed = (int(word) for word in (*sys.argv[1:], *("1500", "0")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(prefix="seqmem-fuzz-") as name:
        os.chdir(prepare(Path(name)))
        os.environ["XDG_STATE_HOME"] = name
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
        code, out, err = here(["train", *TINY], 60)
        if code != 0:
            print(f"the run that other verbs read is not there: {out}{err}")
            return 1
        verdict = judge(command_lines(seed, count), here, _tell)
        os.chdir("/")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(verdict.counts.items())))
    return 1 if verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
