"""Many independent fits: one after another in this process, or on the workers of a dask cluster."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from neuroattn._checks import check_range
from neuroattn._extras import import_extra
from neuroattn.analyses.fits import run_fit

RETRIES = 10  # deaths of workers that one fit survives
ANSWER_SECONDS = 5


class Spec(Protocol):
    """Everything that decides a fit; it travels to any worker."""

    @property
    def folder(self) -> Path:
        """Written whole or not at all; a fit whose folder exists is done."""


class Job(NamedTuple):
    """A fit, with its data for the case that it runs in this process."""

    spec: Spec
    data: Any = None


def run_fits(
    jobs: Sequence[Job],
    *,
    run: Callable[..., None] = run_fit,
    workers: int = 0,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Run fits that are not done yet, each of which leaves its own folder.

    Parameters
    ----------
    jobs : sequence of Job
        Run in this order where there is one process.
    run : callable, default run_fit
        Called with a spec, and in this process with its data as well; it must be importable on the workers.
    workers : int, default 0
        Start so many processes of one thread each on this machine, and fit on them; 0 fits in this process.
    scheduler : str, optional
        Address of a dask scheduler, whose workers see the same files, to fit there instead. A worker that dies loses
        nothing: its fits run again elsewhere, networks from their last checkpoint.
    progress : callable, optional
        Called with the number of fits done and of all fits.

    Raises
    ------
    OSError
        If the scheduler does not answer, or workers died with one fit again and again.

    Examples
    --------
    >>> run_fits([], progress=print)
    0 0
    """
    check_range("workers", workers, 0)
    if scheduler is not None and workers:
        raise ValueError(f"workers must be 0 where a scheduler is given, got {workers}")
    report = progress or (lambda done, total: None)
    waiting = [job for job in jobs if not job.spec.folder.is_dir()]
    done = len(jobs) - len(waiting)
    report(done, len(jobs))
    if not waiting:
        return
    if not workers and scheduler is None:
        for job in waiting:
            run(job.spec, job.data)
            report(done := done + 1, len(jobs))
        return
    distributed = import_extra("distributed", "dask", "fitting on workers")
    with cluster(workers, scheduler) as client:
        futures = [
            client.submit(run, job.spec, key=f"fit-{job.spec.folder}", pure=False, retries=0)
            for job in waiting
        ]
        try:
            for future in distributed.as_completed(futures):
                future.result()
                report(done := done + 1, len(jobs))
        except distributed.KilledWorker as error:
            raise OSError(
                f"a fit lost its worker {RETRIES} times, the last at {error.last_worker.address}; is memory enough?"
            ) from None
        finally:
            client.cancel(futures)


def check_workers(workers: int, scheduler: str | None) -> None:
    """Refuse what cannot work before anything is written: dask is missing, or nobody answers.

    Examples
    --------
    >>> check_workers(0, None)
    >>> check_workers(0, "tcp://127.0.0.1:1")
    Traceback (most recent call last):
    OSError: scheduler tcp://127.0.0.1:1 does not answer within 5 s; start one with 'dask scheduler'
    """
    check_range("workers", workers, 0)
    if workers:
        import_extra("distributed", "dask", "fitting on workers")
    if scheduler is not None:
        import_extra("distributed", "dask", "fitting on workers")
        _knock(scheduler)


@contextmanager
def cluster(workers: int, scheduler: str | None) -> Iterator[Any]:
    """Yield a client of the scheduler at an address, or of a cluster of processes that ends with the block."""
    distributed = import_extra("distributed", "dask", "fitting on workers")
    dask: Any = import_extra("dask", "dask", "fitting on workers")
    if scheduler is not None:
        _knock(scheduler)
        with distributed.Client(scheduler, timeout=ANSWER_SECONDS) as client:
            yield client
        return
    settings = {
        "distributed.scheduler.allowed-failures": RETRIES,
        # dask has freed memory returned at once, which makes training up to twice as slow.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


def _knock(address: str) -> None:
    """Open and close a connection; a dask client that fails to connect would complain at length."""
    try:
        parts = urlsplit(address)
        where = (parts.hostname or "", parts.port or 0)
    except ValueError:
        where = ("", 0)
    if not all(where):
        raise ValueError(f"scheduler must be an address such as tcp://host:8786, got {address!r}")
    try:
        socket.create_connection(where, timeout=ANSWER_SECONDS).close()
    except OSError:
        raise OSError(
            f"scheduler {address} does not answer within {ANSWER_SECONDS} s; start one with 'dask scheduler'"
        ) from None
