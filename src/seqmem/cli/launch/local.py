"""One process a core on this machine."""

from collections.abc import Sequence

from .jobs import Job, Outcome, work


def run_jobs(jobs: Sequence[Job], *, workers: int | str = "auto") -> list[Outcome]:
    assert workers
    return [work(job) for job in jobs]
