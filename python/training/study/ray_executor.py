"""A Ray cluster as the machine of a study. Its machines share the folders of the study and of the data."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

from edgedet.extras import needs_extra
from training.study.executor import Ended, Task, launch

_POLL = 0.2  # seconds


class RayTasks:
    """Each task in a Ray task, which starts the process: a worker of Ray that is lost costs one run."""

    def __init__(self, address: str, *, cpus: int, gpus: bool) -> None:
        """address: of the cluster; "auto" finds one, "local" starts one. cpus: of each task.

        gpus: give each task a GPU, if the cluster has any. Raises Error if Ray is not installed.
        """
        with needs_extra("ray"):
            import ray
        self._ray: Any = ray
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        has = ray.cluster_resources()
        gpus = gpus and has.get("GPU", 0) >= 1
        self.width = max(1, int(has["GPU"] if gpus else has.get("CPU", 1) // cpus))
        # No retries by Ray: a run that failed is for the next call of ablate, when the process of this one is gone.
        self._remote = ray.remote(num_cpus=cpus, num_gpus=int(gpus), max_retries=0)(_run)
        self._how = ("cuda" if gpus else "cpu", cpus)
        self._running: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        """See `Executor.start`."""
        self._running[self._remote.remote(task, *self._how)] = task

    def ended(self) -> list[Ended]:
        """See `Executor.ended`."""
        if not self._running:
            return []
        over, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._ended(reference) for reference in over]

    def _ended(self, reference: Any) -> Ended:
        task = self._running.pop(reference)
        try:
            return Ended(task, int(self._ray.get(reference)))
        except Exception as error:  # Ray's own, of which there are many: the worker died, its machine was lost, …
            return Ended(task, 1, f"{type(error).__name__}: {error}")

    def interrupt(self) -> None:
        """See `Executor.interrupt`."""
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        """See `Executor.close`."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def _run(task: Task, device: str, cores: int) -> int:
    """In a worker of Ray: starts the process and waits; Ray cancels by raising KeyboardInterrupt here."""
    process = launch(task, device=device, cores=cores)
    try:
        return _exit_code(process)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        return _exit_code(process)


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """Waits, in pieces, between which an exception that Ray asks for can be raised."""
    while (code := process.poll()) is None:
        time.sleep(_POLL)
    return code
