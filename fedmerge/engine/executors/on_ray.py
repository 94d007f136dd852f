"""Tasks on Ray: a task of Ray each, on any node; artifacts travel through Ray's object store.

No file system needs to be shared. A node gets what a task needs as values, does the task in a store of its
own that ends with it, and returns its folder. What a task made stays in the object store for the tasks that
need it, and is written into the study's store here. A task whose node or process died is done again elsewhere
by Ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmerge.cluster.attach import ray_initialised
from fedmerge.cluster.config import BackendConfig
from fedmerge.cluster.head import Head
from fedmerge.cluster.room import capacity, first_line
from fedmerge.engine.attempt import do, function_of
from fedmerge.engine.executors import Executor
from fedmerge.engine.executors.packing import Packed, pack, unpack
from fedmerge.engine.store import Store, StoreStopped, said
from fedmerge.engine.task import Assignment, Outcome

TRIES = 3  # times that Ray does a task again whose node or process died


@contextmanager
def ray_executor(backend: BackendConfig, device: str, alike: str) -> Iterator[OnRay]:
    """Attach to Ray or start it, and yield an executor; a Ray started here ends with the block.

    device: where a CUDA device is named, tasks share the GPUs. alike: a function, ``module:name``, whose
    mapping of texts, such as versions, must be the same on every node. Raises FedMergeError where there is no
    room.
    """
    with ray_initialised(backend):
        executor = OnRay(backend, device, alike)
        try:
            yield executor
        finally:
            executor.close()


class OnRay(Executor):
    """``slots`` tasks at a time, each with its share of CPUs and GPUs."""

    def __init__(self, backend: BackendConfig, device: str, alike: str) -> None:
        import ray

        self._ray = ray
        self.slots, gpus = capacity(backend, device)
        self.on_gpu = bool(gpus)
        self._alike = alike, function_of(alike)()
        self._head = Head.of(backend)
        remote: Any = ray.remote
        self._do = remote(
            num_returns=2, num_cpus=backend.cpus, num_gpus=gpus, max_retries=TRIES, retry_exceptions=False
        )(_do_there)
        self._threads = ThreadPoolExecutor(self.slots)
        self._artifacts: dict[str, Any] = {}
        self._running: set[Any] = set()

    def submit(self, assignment: Assignment) -> Future[Outcome]:
        """Send a task and what it needs to the cluster."""
        store = Store(assignment.store)
        needs = [self._artifact(store, name) for name in assignment.task.needs]
        outcome, artifact = self._do.remote(assignment, self._alike, *needs)
        self._running.add(outcome)
        return self._threads.submit(self._receive, assignment, store, outcome, artifact)

    def wait(self, running: Collection[Future[Outcome]], seconds: float) -> Collection[Future[Outcome]]:
        """See ``Executor``. Raises HeadLost where the cluster's head does not answer any more."""
        self._head.check()
        return super().wait(running, seconds)

    def forget(self, name: str) -> None:
        """Let Ray free a task's artifact."""
        self._artifacts.pop(name, None)

    def close(self) -> None:
        """Stop the running tasks at once."""
        for reference in list(self._running):
            self._ray.cancel(reference, force=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _artifact(self, store: Store, name: str) -> Any:
        """Return Ray's reference to a finished task's folder; that of an earlier process is put there."""
        if name not in self._artifacts:
            self._artifacts[name] = self._ray.put(pack(store.jobs / name))
        return self._artifacts[name]

    def _receive(self, assignment: Assignment, store: Store, reference: Any, artifact: Any) -> Outcome:
        """Wait for a task, and write what it made into the store."""
        name = assignment.task.name
        try:
            outcome: Outcome = self._ray.get(reference)
            if not outcome.stop:
                with said(store.folder):
                    part = store.part(name)
                    unpack(self._ray.get(artifact), part)
                    store.adopt(name, part)
            if outcome.status == "done":
                self._artifacts[name] = artifact
        except StoreStopped as error:
            return Outcome(name, "stopped", stop=str(error))
        except Exception as error:  # of Ray: its kinds differ from version to version
            return Outcome(name, "lost", f"Ray could not finish it ({first_line(error)})")
        finally:
            self._running.discard(reference)
        return outcome


def _do_there(assignment: Assignment, alike: tuple[str, Any], *needs: Packed) -> tuple[Outcome, Packed]:
    """Do a task on a node, in a store that ends with it; return its outcome and its folder."""
    name = assignment.task.name
    function, expected = alike
    for key, value in function_of(function)().items():
        if value != expected.get(key):
            stop = (
                f"a node of the Ray cluster has {key} {value}, this machine {expected.get(key)}: install the "
                "same version on every node, because others would not give the same bits."
            )
            return Outcome(name, "stopped", stop=stop), {}
    with tempfile.TemporaryDirectory(prefix="fedmerge-task-") as folder:
        store = Store(Path(folder))
        for need, packed in zip(assignment.task.needs, needs, strict=True):
            unpack(packed, store.jobs / need)
        outcome = do(replace(assignment, store=store.folder, resumes=False))
        if outcome.stop:
            return replace(outcome, stop=f"on a node of the Ray cluster: {outcome.stop}"), {}
        return outcome, pack(store.jobs / name)
