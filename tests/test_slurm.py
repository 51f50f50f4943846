"""The Slurm launcher without a Slurm: its commands are shell scripts that print what a real one prints.

scripts/check_slurm tries the same on a real one.
"""

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
from hydra import compose
from omegaconf import OmegaConf
from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, JobPaths

from commandline import TINY, Completed, assert_same_numbers
from made_up import stored_result
from seqmem.cli.config.compose import own_hydra
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.schema import RunConfig, from_mapping
from seqmem.cli.launch import jobs, slurm
from seqmem.runs.files import RunError, write_json

CELL = '''\
import os
import signal
from pathlib import Path
from seqmem.cells import LSTM

class Signalled(LSTM):
    """An lstm that gets the signal named in the file `signal` at its next step."""
    def forward(self, xs, state=None):
        note = Path(__file__).with_name("signal")
        if note.exists() and self.training:
            number = int(note.read_text())
            note.unlink()
            os.kill(os.getpid(), number)
        return super().forward(xs, state)
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Commands in front of the PATH; beside each stands what it prints, and what it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scontrol", "sacct"):
        says(folder, name, "")
    says(folder, "sbatch", "Submitted batch job 41")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "GRACE", 0.0)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def says(folder: Path, name: str, message: str, *, code: int = 0) -> None:
    (folder / f"{name}.says").write_text(message)
    script = folder / name
    here = '"$(dirname "$0")"'
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{here}/{name}.asked\ncat {here}/{name}.says{" >&2" * bool(code)}\nexit {code}\n'
    )
    script.chmod(0o755)


def asked(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.asked"
    return path.read_text().splitlines() if path.exists() else []


@lru_cache
def composed(*overrides: str) -> RunConfig:
    with own_hydra():
        return from_mapping(compose("train", overrides=[*TINY, *overrides]))


def some_jobs(count: int, *overrides: str) -> list[jobs.Job]:
    config = composed(*overrides)
    return [jobs.job_of(number, count, [f"seed={number}"], replace(config, seed=number)) for number in range(count)]


def finish(job: jobs.Job, score: float) -> None:
    job.run.path.mkdir(parents=True, exist_ok=True)
    write_json(job.run.file("result.json"), stored_result(job.settings, score))


def squeue(*rows: tuple[str, str, str, str], name: str = "seqmem-abc") -> str:
    """As ``squeue --format=%i|%T|%j|%N|%r`` prints (id, state, node, reason)."""
    return "".join(f"{slurm_id}|{state}|{name}|{node}|{reason}\n" for slurm_id, state, node, reason in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitoin": "a"}, "Did you mean 'partition'"),
        ({"timeout_min": 0}, "hydra.launcher.timeout_min=0: must be a whole number, at least 1"),
        ({"cpus_per_task": 1.5}, "hydra.launcher.cpus_per_task=1.5"),
        ({"mem_gb": -1}, "hydra.launcher.mem_gb=-1: must be a number above 0"),
        ({"setup": "module load x"}, "hydra.launcher.setup: must be a list"),
        ({"sbatch": {"a": [1]}}, "hydra.launcher.sbatch: must be options"),
        ({"timeout_min": 1, "signal_delay_s": 60}, "signal_delay_s=60: must be less than the whole time"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher") as refused:
        slurm.run_jobs([], **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_yaml_and_options_agree() -> None:
    with own_hydra():
        whole = compose("train", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
    options = OmegaConf.to_container(whole.hydra.launcher)
    assert isinstance(options, dict)
    del options["_target_"]
    assert slurm._options({str(key): value for key, value in options.items()}) == slurm.Options()
    assert list(options) == list(slurm.Options.__dataclass_fields__)


def test_where_there_is_no_slurm(
    typed: Callable[..., Completed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ("hydra.launcher.sbatch={nodelist: n1}", "hydra.launcher.setup=[module load python]")
    completed = typed("train", "-m", "hydra/launcher=slurm", *options, *TINY)
    completed.refuses(
        "there is no sbatch here; start it where Slurm's commands are, or use hydra/launcher=local", code=1
    )


def test_without_submitit(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit: pip install seqmem\[slurm\]"):
        slurm.run_jobs(some_jobs(1))


def test_sbatch_refuses(cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its words as 22.05 writes them, once."""
    words = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition\n"
    )
    says(cluster, "sbatch", words, code=1)
    with pytest.raises(RunError, match=r"^sbatch refused: invalid partition specified: x; Batch job submission failed"):
        slurm.run_jobs(some_jobs(2), partition="x")
    assert capfd.readouterr() == ("", "")
    says(cluster, "squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", code=1)
    with pytest.raises(RunError, match=r"^Slurm does not answer: Unable to contact slurm controller"):
        slurm.run_jobs(some_jobs(2))


def test_an_array_of_what_is_left(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Job 0 is finished already, 2 is the same run as 1: one array of two. Then everything is finished."""
    one, two, _, four = expected = some_jobs(4)
    expected[2] = jobs.Job(2, 4, two.title, two.overrides, two.settings, two.folder, two.path)
    finish(one, 0.5)
    says(cluster, "squeue", squeue(("41_0", "COMPLETED", "n1", "None"), ("41_1", "COMPLETED", "n1", "None")))
    # The jobs "run" when they are submitted.
    script = cluster / "sbatch"
    script.write_text(
        script.read_text().replace(
            "exit 0", "".join(
                f"mkdir -p {j.run.path}; echo '{json.dumps(stored_result(j.settings, s))}' >{j.run.path}/result.json\n"
                for j, s in ((two, 0.25), (four, 1.0))
            )
        )
    )  # fmt: skip
    outcomes = slurm.run_jobs(
        expected, partition="long", timeout_min=90, mem_gb=1.5, cpus_per_task=2, gpus_per_node=1, account="lab",
        setup=["module load python"], sbatch={"nodelist": "n1", "exclusive": True, "licenses": None}, poll_s=0.01,
    )  # fmt: skip
    assert [(o.number, o.score, o.skipped) for o in outcomes] == [
        (0, 0.5, True), (1, 0.25, False), (2, 0.25, False), (3, 1.0, False)
    ]  # fmt: skip
    assert {o.state for o in outcomes} == {"finished"}
    folder = Path("outputs/.sweeps/slurm")
    batch = (folder / "41_submission.sh").read_text().splitlines()
    for flag in (
        "array=0-1%2", "partition=long", "time=90", "mem=1536M", "cpus-per-task=2", "gpus-per-node=1", "account=lab",
        "nodelist=n1", "exclusive", "requeue", "signal=USR2@90", "open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH --{flag}" in batch
    assert not any("licenses" in line or "qos" in line or "wckey" in line for line in batch)
    assert batch.index("module load python") < next(i for i, line in enumerate(batch) if line.startswith("srun "))
    tasks = [pickle.loads((folder / f"41_{i}_submitted.pkl").read_bytes()).function.job for i in (0, 1)]
    assert tasks == [two, four]
    records = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    assert [(r["run"], r["job"]) for r in records] == [(str(two.run.path), "41_0"), (str(four.run.path), "41_1")]
    assert "2 jobs submitted: Slurm job 41 " in capsys.readouterr().out

    assert [o.skipped for o in slurm.run_jobs(expected)] == [True] * 4
    assert len(asked(cluster, "sbatch")) == 1
    assert capsys.readouterr().out == "nothing is left to do: nothing is submitted to Slurm\n"


def test_what_is_still_queued_is_not_submitted_again(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four jobs were submitted: one is queued, one ended, one's id belongs to another job now, one line is cut."""
    expected = some_jobs(4)
    folder = Path("outputs/.sweeps/slurm")
    folder.mkdir(parents=True)
    lines = [json.dumps({"run": str(job.run.path), "job": f"7_{job.number}", "name": "seqmem-abc"}) for job in expected]
    (folder / "jobs.jsonl").write_text("\n".join([*lines[:3], lines[3][:20]]) + "\n")
    queue = squeue(("7_0", "PENDING", "", "Priority"), ("7_1", "FAILED", "n1", "NonZeroExitCode"))
    queue += squeue(("7_2", "RUNNING", "n1", "None"), name="other") + squeue(("7_3", "RUNNING", "n1", "None"))
    says(cluster, "squeue", queue)
    options = slurm.Options()
    watched, refused = slurm._submit({slurm._place(job): job for job in expected}, options, folder.absolute())
    assert refused == {}
    assert {one.job.number: one.slurm_id for one in watched} == {0: "7_0", 1: "41_0", 2: "41_1", 3: "41_2"}
    assert capsys.readouterr().out.startswith(
        "1 of 4 jobs are in Slurm already, and not submitted again\n3 jobs submitted"
    )


def test_more_than_an_array_holds(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five jobs where an array holds two, and four may run at once; Slurm takes no third array."""
    says(cluster, "scontrol", "ControlMachine          = n1\nMaxArraySize            = 3\n")
    script = cluster / "sbatch"
    script.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\necho x >>sbatch.count; n=$(wc -l <sbatch.count)\n'
        "[ $n -le 2 ] || { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }\n"
        "echo Submitted batch job 4$n\n"
    )
    expected = some_jobs(5)
    watched, refused = slurm._submit(
        {slurm._place(job): job for job in expected}, slurm.Options(array_parallelism=4), Path("logs").absolute()
    )
    assert [(one.job.number, one.slurm_id) for one in watched] == [(0, "41_0"), (1, "41_1"), (2, "42_0"), (3, "42_1")]
    assert [(o.number, o.error) for o in refused.values()] == [
        (4, "not started: sbatch refused: QOSMaxSubmitJobPerUserLimit")
    ]
    assert "#SBATCH --array=0-1%1\n" in Path("logs/42_submission.sh").read_text()
    assert capsys.readouterr().err == "1 of 5 jobs are not submitted: sbatch refused: QOSMaxSubmitJobPerUserLimit\n"
    assert len(Path("logs/jobs.jsonl").read_text().splitlines()) == 4


def watch(expected: list[jobs.Job]) -> slurm._Watch:
    folder = Path("logs").absolute()
    folder.mkdir()
    return slurm._Watch([slurm._Watched(job, f"7_{job.number}", folder) for job in expected], folder, 0.01)


def returned(job: jobs.Job, outcome: jobs.Outcome) -> None:
    Path(f"logs/7_{job.number}_0_result.pkl").write_bytes(pickle.dumps(("success", outcome)))


def test_a_job_from_start_to_end(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Waiting, held, running, requeued, running, cancelled and requeued by someone else, running, finished."""
    (job,) = some_jobs(1)
    looking = watch([job])
    prefix = job.prefix

    def then(state: str, reason: str, message: str) -> None:
        says(cluster, "squeue", squeue(("7_0", state, "n1", reason)))
        looking.look(0.0)
        assert capsys.readouterr().out == message

    then("PENDING", "Resources", "")
    then("PENDING", "JobHeldUser", "Slurm job 7_0 waits: JobHeldUser\n")
    then("PENDING", "JobHeldUser", "")
    then("RUNNING", "None", f"{prefix}started: Slurm job 7_0 on n1\n")
    then("RUNNING", "None", "")
    job.run.path.mkdir(parents=True)
    job.run.set_status("interrupted", step=4)
    then("PENDING", "BeginTime", f"{prefix}requeued, saved at step 4: goes on when Slurm starts it again\n")
    then("RUNNING", "None", f"{prefix}started: Slurm job 7_0 on n1\n")
    returned(job, jobs.Outcome(0, "stopped", error="saved"))
    then("COMPLETING", "None", "")
    then("PENDING", "BeginTime", f"{prefix}requeued, saved at step 4: goes on when Slurm starts it again\n")
    says(cluster, "squeue", "slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    looking.look(10.0)
    looking.look(20.0)
    silent = capsys.readouterr()
    assert silent.err == "Slurm does not answer (Unable to contact slurm controller): waiting on\n"
    returned(job, jobs.Outcome(0, "finished", score=1.0))
    then("RUNNING", "None", f"Slurm answers again, after -10 s\n{prefix}started: Slurm job 7_0 on n1\n")
    finish(job, 0.75)  # what the directory says counts
    then("COMPLETED", "None", f"{prefix}finished: score 0.75\n")
    assert looking.wait() == {slurm._place(job): jobs.Outcome(0, "finished", score=0.75)}


@pytest.mark.parametrize(
    ("scontrol", "sacct", "row", "why"),
    [
        ("JobId=7 JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:125 NodeList=n1 X", "", True,
         "Slurm job 7_0 OUT_OF_MEMORY, OutOfMemory, signal 125, on n1"),
        ("JobId=7 JobState=FAILED Reason=NonZeroExitCode ExitCode=137:0 NodeList=n1", "", True,
         "Slurm job 7_0 FAILED, signal 9, on n1"),
        ("", "NODE_FAIL|1:0|n2\n", False, "Slurm job 7_0 NODE_FAIL, exit code 1, on n2"),
        ("", "CANCELLED by 0|0:15|None assigned\n", False, "Slurm job 7_0 CANCELLED, signal 15"),
        ("", "", True, "Slurm job 7_0 FAILED, on n1"),
        ("", "", False, "Slurm job 7_0 is gone: Slurm no longer knows it"),
    ],
)  # fmt: skip
def test_lost(cluster: Path, scontrol: str, sacct: str, row: bool, why: str) -> None:
    """With accounting and without: why it ended stands in the outcome and in the run's directory."""
    (job,) = some_jobs(1)
    job.run.path.mkdir(parents=True)
    job.run.set_status("running", step=2)
    looking = watch([job])
    missing = "slurm_load_jobs error: Invalid job id specified\n"
    says(cluster, "scontrol", scontrol or missing, code=0 if scontrol else 1)
    says(cluster, "sacct", sacct or "Slurm accounting storage is disabled\n", code=0 if sacct else 1)
    says(cluster, "squeue", squeue(("7_0", "FAILED", "n1", "NonZeroExitCode")) if row else "")
    (outcome,) = looking.wait().values()
    assert (outcome.state, outcome.error) == ("lost", why)
    status = job.run.status()
    assert status is not None
    assert (status.state, status.step, status.error) == ("failed", 2, why)


def test_failures_of_now_and_of_then(cluster: Path) -> None:
    """What a former start wrote into the directory is not this job's cause."""
    before, now, raised = expected = some_jobs(3)
    for job in expected:
        job.run.path.mkdir(parents=True)
        job.run.set_status("failed", step=1, error="long ago")
    looking = watch(expected)
    now.run.set_status("failed", step=3, error="just now")
    Path(f"logs/7_{raised.number}_0_result.pkl").write_bytes(
        pickle.dumps(("error", "Traceback\n  ...\nImportError: x\n"))
    )
    outcomes = {outcome.number: outcome for outcome in looking.wait().values()}
    assert outcomes[before.number].state == "lost"
    assert (outcomes[now.number].state, outcomes[now.number].error) == ("failed", "just now")
    assert outcomes[raised.number].error == "ImportError: x; its log: logs/7_2_0_log.out"


def test_ctrl_c(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: slurm._Watch, now: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm._Watch, "look", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        slurm.run_jobs(some_jobs(2))
    assert getattr(stopped.value, "exit_code", None) == 130
    assert "squeue --jobs=41 shows them, scancel 41 ends them" in str(stopped.value)


class Node:
    """The other side: what runs in a job, with submitit's own handlers."""

    def __init__(self, task: slurm.ArrayTask, timeouts: int) -> None:
        self._task, self._timeouts = task, timeouts

    def run(self) -> jobs.Outcome:
        env = JobEnvironment()
        paths = JobPaths(self._task.folder, job_id=env.job_id)
        delayed = DelayedSubmission(self._task)
        delayed.set_timeout(1, self._timeouts)
        env._handle_signals(paths, delayed)
        return delayed.result()


@pytest.fixture
def node(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Node]:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "signalled", raising=False)
    (tmp_path / "signalled.py").write_text(CELL)
    (tmp_path / "logs").mkdir()

    def make(*overrides: str, timeouts: int = 1) -> Node:
        cell = ("cell=custom", "cell.target=signalled.Signalled", "checkpoint_every=1000")
        (job,) = some_jobs(1, *cell, *overrides)
        return Node(slurm.ArrayTask(job, timeouts, str(tmp_path / "logs")), timeouts)

    return make


def test_signals_save_the_run_and_requeue_it(node: Callable[..., Node], cluster: Path, tmp_path: Path) -> None:
    """Out of time, once too often in the end; cancelled; pre-empted; then bitwise as if nothing had been."""
    says(cluster, "scontrol", "JobId=7 JobState=RUNNING")

    def steps(of: Node) -> int:
        status = of._task.job.run.status()
        assert status is not None
        return status.step

    here = node("force=true")
    finish(here._task.job, 0.5)  # which force=true forgets
    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    with pytest.raises(SystemExit):
        here.run()
    assert steps(here) == 1
    assert asked(cluster, "scontrol") == ["requeue 7"]
    assert (tmp_path / "logs" / "7_submitted.pkl").exists()  # what runs after the requeue, with one time-out less

    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    here._timeouts = 0
    outcome = here.run()
    assert outcome.state == "stopped"
    assert (outcome.error or "").startswith(
        "out of time more than max_num_timeout=1 times; stopped at step 2 of 6, saved"
    )

    says(cluster, "scontrol", "JobId=7 JobState=CANCELLED")
    (tmp_path / "signal").write_text(str(int(signal.SIGTERM)))
    outcome = here.run()
    assert (outcome.error or "").startswith("ended by Slurm; stopped at step 3 of 6, saved")
    assert outcome.exit_code is None
    assert asked(cluster, "scontrol")[1:] == ["--oneliner show job 7"]

    says(cluster, "scontrol", "JobId=7 JobState=RUNNING")
    here._timeouts = 1
    (tmp_path / "signal").write_text(str(int(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        here.run()
    assert steps(here) == 4
    assert asked(cluster, "scontrol")[-1] == "requeue 7"

    outcome = here.run()
    assert outcome.state == "finished"
    assert outcome.score != 0.5
    calm = node("outputs=calm")
    assert calm.run().state == "finished"
    assert_same_numbers(here._task.job.run.path, calm._task.job.run.path)


def test_what_may_not_be_requeued(node: Callable[..., Node], cluster: Path, tmp_path: Path) -> None:
    here = node()
    says(cluster, "scontrol", "Requested operation is presently disabled for job 7\n", code=1)
    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    outcome = here.run()
    assert outcome.state == "stopped"
    assert "Slurm would not requeue it" in (outcome.error or "")
