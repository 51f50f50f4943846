"""The Slurm launcher without Slurm: shell scripts replace its commands and print what the real ones print.

scripts/check_slurm runs the same on a real cluster.
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
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import RunConfig, from_mapping
from seqmem.cli.launch import jobs, slurm
from seqmem.runs.files import RunError, write_json

CELL = '''\
import os
import signal
from pathlib import Path
from seqmem.cells import LSTM

class Signalled(LSTM):
    """An lstm that sends itself the signal named in the file `signal` at its next step."""
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
    """Fake commands at the front of PATH; a file beside each holds its output, another logs its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "squeue", "scontrol", "sacct"):
        replace_output(folder, name, "")
    replace_output(folder, "sbatch", "Submitted batch job 41")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(slurm, "GRACE", 0.0)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)}
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


def replace_output(folder: Path, name: str, message: str, *, code: int = 0) -> None:
    (folder / f"{name}.output").write_text(message)
    script = folder / name
    here = '"$(dirname "$0")"'
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{here}/{name}.arguments\ncat {here}/{name}.output{" >&2" * bool(code)}\nexit {code}\n'
    )
    script.chmod(0o755)


def arguments_of(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.arguments"
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
    """The output of ``squeue --format=%i|%T|%j|%N|%r`` for rows of (id, state, node, reason)."""
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
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=r"hydra\.launcher") as error:
        slurm.run_jobs([], **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_yaml_and_options_agree() -> None:
    with own_hydra():
        whole = compose("train", overrides=["hydra/launcher=slurm"], return_hydra_config=True)
    options = OmegaConf.to_container(whole.hydra.launcher)
    assert isinstance(options, dict)
    del options["_target_"]
    assert slurm.checked_options({str(key): value for key, value in options.items()}) == slurm.Options()
    assert list(options) == list(slurm.Options.__dataclass_fields__)


def test_without_slurm(typed: Callable[..., Completed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ("hydra.launcher.sbatch={nodelist: n1}", "hydra.launcher.setup=[module load python]")
    completed = typed("train", "-m", "hydra/launcher=slurm", *options, *TINY)
    completed.refuses(
        "there is no sbatch here; start it where Slurm's commands are, or use hydra/launcher=local", code=1
    )


def test_without_submitit(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"needs submitit: \S+python\S* -m pip install 'submitit>="):
        slurm.run_jobs(some_jobs(1))


def test_sbatch_refuses(cluster: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error repeats sbatch's own words (as of Slurm 22.05) once."""
    words = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition\n"
    )
    replace_output(cluster, "sbatch", words, code=1)
    with pytest.raises(RunError, match=r"^sbatch refused: invalid partition specified: x; Batch job submission failed"):
        slurm.run_jobs(some_jobs(2), partition="x")
    assert capfd.readouterr() == ("", "")
    replace_output(
        cluster, "squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", code=1
    )
    with pytest.raises(RunError, match=r"^Slurm does not answer: Unable to contact slurm controller"):
        slurm.run_jobs(some_jobs(2))


def test_only_unfinished_jobs_are_submitted(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Job 0 has finished already and job 2 duplicates job 1: one array of two jobs. Then everything has finished."""
    one, two, _, four = sweep = some_jobs(4)
    sweep[2] = jobs.Job(2, 4, two.title, two.overrides, two.settings, two.folder, two.path)
    finish(one, 0.5)
    replace_output(cluster, "squeue", squeue(("41_0", "COMPLETED", "n1", "None"), ("41_1", "COMPLETED", "n1", "None")))
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
        sweep, partition="long", timeout_min=90, mem_gb=1.5, cpus_per_task=2, gpus_per_node=1, account="lab",
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
    assert any(" -P -u -m submitit" in line for line in batch)  # -P: not with the user's random.py
    assert batch.index("module load python") < next(i for i, line in enumerate(batch) if line.startswith("srun "))
    tasks = [pickle.loads((folder / f"41_{i}_submitted.pkl").read_bytes()).function.job for i in (0, 1)]
    assert tasks == [two, four]
    records = [json.loads(line) for line in (folder / "jobs.jsonl").read_text().splitlines()]
    assert [(r["run"], r["job"]) for r in records] == [(str(two.run.path), "41_0"), (str(four.run.path), "41_1")]
    assert "2 jobs submitted: Slurm job 41 " in capsys.readouterr().out

    assert [o.skipped for o in slurm.run_jobs(sweep)] == [True] * 4
    assert len(arguments_of(cluster, "sbatch")) == 1
    assert capsys.readouterr().out == "nothing is left to do: nothing is submitted to Slurm\n"


def test_queued_jobs_are_not_submitted_again(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four jobs were submitted: one is queued, one ended, one's id belongs to another job now, one line is cut."""
    sweep = some_jobs(4)
    folder = Path("outputs/.sweeps/slurm")
    folder.mkdir(parents=True)
    lines = [json.dumps({"run": str(job.run.path), "job": f"7_{job.number}", "name": "seqmem-abc"}) for job in sweep]
    (folder / "jobs.jsonl").write_text("\n".join([*lines[:3], lines[3][:20]]) + "\n")
    queue = squeue(("7_0", "PENDING", "", "Priority"), ("7_1", "FAILED", "n1", "NonZeroExitCode"))
    queue += squeue(("7_2", "RUNNING", "n1", "None"), name="other") + squeue(("7_3", "RUNNING", "n1", "None"))
    replace_output(cluster, "squeue", queue)
    options = slurm.Options()
    submitted, refusals = slurm.submit({slurm.directory_of(job): job for job in sweep}, options, folder.absolute())
    assert refusals == {}
    assert {one.job.number: one.slurm_id for one in submitted} == {0: "7_0", 1: "41_0", 2: "41_1", 3: "41_2"}
    assert capsys.readouterr().out.startswith(
        "1 of 4 jobs are in Slurm already, and not submitted again\n3 jobs submitted"
    )


def test_more_jobs_than_an_array_holds(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five jobs, at most two in an array and four at once; Slurm refuses a third array."""
    replace_output(cluster, "scontrol", "ControlMachine          = n1\nMaxArraySize            = 3\n")
    script = cluster / "sbatch"
    script.write_text(
        '#!/bin/sh\ncd "$(dirname "$0")"\necho x >>sbatch.count; n=$(wc -l <sbatch.count)\n'
        "[ $n -le 2 ] || { echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }\n"
        "echo Submitted batch job 4$n\n"
    )
    sweep = some_jobs(5)
    submitted, refusals = slurm.submit(
        {slurm.directory_of(job): job for job in sweep}, slurm.Options(array_parallelism=4), Path("logs").absolute()
    )
    assert [(one.job.number, one.slurm_id) for one in submitted] == [(0, "41_0"), (1, "41_1"), (2, "42_0"), (3, "42_1")]
    assert [(o.number, o.error) for o in refusals.values()] == [
        (4, "not started: sbatch refused: QOSMaxSubmitJobPerUserLimit")
    ]
    assert "#SBATCH --array=0-1%1\n" in Path("logs/42_submission.sh").read_text()
    assert capsys.readouterr().err == "1 of 5 jobs are not submitted: sbatch refused: QOSMaxSubmitJobPerUserLimit\n"
    assert len(Path("logs/jobs.jsonl").read_text().splitlines()) == 4


def watch(sweep: list[jobs.Job]) -> slurm._Watch:
    folder = Path("logs").absolute()
    folder.mkdir()
    return slurm._Watch([slurm._Watched(job, f"7_{job.number}", folder) for job in sweep], folder, 0.01)


def write_outcome(job: jobs.Job, outcome: jobs.Outcome) -> None:
    Path(f"logs/7_{job.number}_0_result.pkl").write_bytes(pickle.dumps(("success", outcome)))


def test_a_job_from_start_to_end(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pending, held, running, requeued, running, cancelled and requeued from outside, running, finished."""
    (job,) = some_jobs(1)
    watcher = watch([job])
    prefix = job.prefix

    def check(state: str, reason: str, message: str) -> None:
        replace_output(cluster, "squeue", squeue(("7_0", state, "n1", reason)))
        watcher.look(0.0)
        assert capsys.readouterr().out == message

    check("PENDING", "Resources", "")
    check("PENDING", "JobHeldUser", "Slurm job 7_0 waits: JobHeldUser\n")
    check("PENDING", "JobHeldUser", "")
    check("RUNNING", "None", f"{prefix}started: Slurm job 7_0 on n1\n")
    check("RUNNING", "None", "")
    job.run.path.mkdir(parents=True)
    job.run.set_status("interrupted", step=4)
    check("PENDING", "BeginTime", f"{prefix}requeued, saved at step 4: goes on when Slurm starts it again\n")
    check("RUNNING", "None", f"{prefix}started: Slurm job 7_0 on n1\n")
    write_outcome(job, jobs.Outcome(0, "stopped", error="saved"))
    check("COMPLETING", "None", "")
    check("PENDING", "BeginTime", f"{prefix}requeued, saved at step 4: goes on when Slurm starts it again\n")
    replace_output(cluster, "squeue", "slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    watcher.look(10.0)
    watcher.look(20.0)
    captured = capsys.readouterr()
    assert captured.err == "Slurm does not answer (Unable to contact slurm controller): waiting on\n"
    write_outcome(job, jobs.Outcome(0, "finished", score=1.0))
    check("RUNNING", "None", f"Slurm answers again, after -10 s\n{prefix}started: Slurm job 7_0 on n1\n")
    finish(job, 0.75)  # the result in the directory takes precedence
    check("COMPLETED", "None", f"{prefix}finished: score 0.75\n")
    assert watcher.wait() == {slurm.directory_of(job): jobs.Outcome(0, "finished", score=0.75)}


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
def test_lost_jobs_have_a_reason(cluster: Path, scontrol: str, sacct: str, row: bool, why: str) -> None:
    """The reason stands in the outcome and in the run's status, with and without accounting."""
    (job,) = some_jobs(1)
    job.run.path.mkdir(parents=True)
    job.run.set_status("running", step=2)
    watcher = watch([job])
    missing = "slurm_load_jobs error: Invalid job id specified\n"
    replace_output(cluster, "scontrol", scontrol or missing, code=0 if scontrol else 1)
    replace_output(cluster, "sacct", sacct or "Slurm accounting storage is disabled\n", code=0 if sacct else 1)
    replace_output(cluster, "squeue", squeue(("7_0", "FAILED", "n1", "NonZeroExitCode")) if row else "")
    (outcome,) = watcher.wait().values()
    assert (outcome.state, outcome.error) == ("lost", why)
    status = job.run.status()
    assert status is not None
    assert (status.state, status.step, status.error) == ("failed", 2, why)


def test_an_earlier_failure_is_not_this_jobs_cause(cluster: Path) -> None:
    """A status from an earlier start does not explain the end of this job."""
    earlier, failing, raised = sweep = some_jobs(3)
    for job in sweep:
        job.run.path.mkdir(parents=True)
        job.run.set_status("failed", step=1, error="long ago")
    watcher = watch(sweep)
    failing.run.set_status("failed", step=3, error="just now")
    Path(f"logs/7_{raised.number}_0_result.pkl").write_bytes(
        pickle.dumps(("error", "Traceback\n  ...\nImportError: x\n"))
    )
    outcomes = {outcome.number: outcome for outcome in watcher.wait().values()}
    assert outcomes[earlier.number].state == "lost"
    assert (outcomes[failing.number].state, outcomes[failing.number].error) == ("failed", "just now")
    assert outcomes[raised.number].error == "ImportError: x; its log: logs/7_2_0_log.out"


def test_ctrl_c(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: slurm._Watch, now: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm._Watch, "look", interrupt)
    with pytest.raises(KeyboardInterrupt) as error:
        slurm.run_jobs(some_jobs(2))
    assert getattr(error.value, "exit_code", None) == 130
    assert "squeue --jobs=41 shows them, scancel 41 ends them" in str(error.value)


class Node:
    """The job's side: the task in its process, with submitit's own signal handlers."""

    def __init__(self, task: slurm.ArrayTask, timeouts: int) -> None:
        self.task, self.timeouts = task, timeouts

    def run(self) -> jobs.Outcome:
        env = JobEnvironment()
        paths = JobPaths(self.task.folder, job_id=env.job_id)
        delayed = DelayedSubmission(self.task)
        delayed.set_timeout(1, self.timeouts)
        env._handle_signals(paths, delayed)
        return delayed.result()


@pytest.fixture
def node(cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Node]:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "signalled.py").write_text(CELL)
    (tmp_path / "logs").mkdir()

    def make(*overrides: str, timeouts: int = 1) -> Node:
        cell = ("cell=custom", "cell.target=signalled.Signalled", "checkpoint_every=1000")
        (job,) = some_jobs(1, *cell, *overrides)
        return Node(slurm.ArrayTask(job, timeouts, str(tmp_path / "logs")), timeouts)

    return make


def test_signals_save_the_run_and_requeue_it(node: Callable[..., Node], cluster: Path, tmp_path: Path) -> None:
    """Time-outs up to the limit, a cancellation, a preemption; then bitwise the numbers of an undisturbed run."""
    replace_output(cluster, "scontrol", "JobId=7 JobState=RUNNING")

    def steps(node: Node) -> int:
        status = node.task.job.run.status()
        assert status is not None
        return status.step

    interrupted = node("force=true")
    finish(interrupted.task.job, 0.5)  # force=true discards it
    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    with pytest.raises(SystemExit):
        interrupted.run()
    assert steps(interrupted) == 1
    assert arguments_of(cluster, "scontrol") == ["requeue 7"]
    assert (tmp_path / "logs" / "7_submitted.pkl").exists()  # the task for after the requeue, with one time-out less

    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    interrupted.timeouts = 0
    outcome = interrupted.run()
    assert outcome.state == "stopped"
    assert (outcome.error or "").startswith(
        "out of time more than max_num_timeout=1 times; stopped at step 2 of 6, saved"
    )

    replace_output(cluster, "scontrol", "JobId=7 JobState=CANCELLED")
    (tmp_path / "signal").write_text(str(int(signal.SIGTERM)))
    outcome = interrupted.run()
    assert (outcome.error or "").startswith("ended by Slurm; stopped at step 3 of 6, saved")
    assert outcome.exit_code is None
    assert arguments_of(cluster, "scontrol")[1:] == ["--oneliner show job 7"]

    replace_output(cluster, "scontrol", "JobId=7 JobState=RUNNING")
    interrupted.timeouts = 1
    (tmp_path / "signal").write_text(str(int(signal.SIGTERM)))
    with pytest.raises(SystemExit):
        interrupted.run()
    assert steps(interrupted) == 4
    assert arguments_of(cluster, "scontrol")[-1] == "requeue 7"

    outcome = interrupted.run()
    assert outcome.state == "finished"
    assert outcome.score != 0.5
    undisturbed = node("outputs=undisturbed")
    assert undisturbed.run().state == "finished"
    assert_same_numbers(interrupted.task.job.run.path, undisturbed.task.job.run.path)


def test_a_refused_requeue_stops_the_job(node: Callable[..., Node], cluster: Path, tmp_path: Path) -> None:
    interrupted = node()
    replace_output(cluster, "scontrol", "Requested operation is presently disabled for job 7\n", code=1)
    (tmp_path / "signal").write_text(str(int(signal.SIGUSR2)))
    outcome = interrupted.run()
    assert outcome.state == "stopped"
    assert "Slurm would not requeue it" in (outcome.error or "")
