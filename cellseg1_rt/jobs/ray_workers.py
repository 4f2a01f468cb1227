"""A job's device workers as actors of a Ray cluster: one a card, or one a machine on its CPU.

Ray starts, places, restarts and calls them; here is only what is this job's: an image goes to a
worker that has room, an image whose worker died goes to another one, and only the driver writes the
journal. Is handed ray's module by ``ray_cluster``.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.jobs.faults import JobEndedError, as_failure, with_retries
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.places import Places
from cellseg1_rt.jobs.ray_cluster import (
    IN_FLIGHT,
    about_workers,
    answers_of,
    connect,
    lines_of_error,
    start_workers,
)
from cellseg1_rt.jobs.remote import About, ImageWorker, Plan, Work, require_alike
from cellseg1_rt.jobs.stages import Stage, run_stages
from cellseg1_rt.jobs.store import JobStore

__all__ = ["TRIES", "RayDevices"]

TRIES = 3
"""Workers that an image may take down before it counts as failed."""


class RayDevices:
    """Workers on a cluster, loaded and alike. Use it as a context: the workers end with it.

    Parameters
    ----------
    address : of the cluster, as ``ray.init`` takes it; ``auto`` finds the one of this machine.
    plan : what each worker loads and does.
    workers : on each machine; None is one a card, or one on its CPU.
    worker_class : what the actors are.

    Attributes
    ----------
    settings : of the job, which all workers agree on.
    told : a line a worker: its machine and its runtime.

    Raises
    ------
    MissingExtraError : if ray is not installed.
    RuntimeUnavailableError : if there is no cluster there, or a worker does not start.
    ConfigError : if workers would give different results.
    """

    def __init__(
        self,
        address: str,
        plan: Plan,
        workers: int | None = None,
        worker_class: type[ImageWorker] = ImageWorker,
    ) -> None:
        self._open = ExitStack()
        # Ray tells of lost workers on standard output, which is for results.
        self._open.enter_context(redirect_stdout(sys.stderr))
        try:
            self._ray = connect(address)
            # With it end the actors, which belong to this driver.
            self._open.callback(self._ray.shutdown)
            self._actors = start_workers(self._ray, plan, workers, worker_class)
            abouts = about_workers(self._ray, self._actors)
            self.settings = require_alike(abouts)
        except BaseException:
            self._open.close()
            raise
        self.told = [f"{about.machine}: runtime {about.runtime}" for about in abouts]

    def __len__(self) -> int:
        return len(self._actors)

    def __enter__(self) -> RayDevices:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run_tasks(
        self, tasks: Sequence[Task], store: JobStore, *, workers: int, stop: threading.Event
    ) -> Generator[Outcome]:
        """Work through tasks; see ``batch.run_tasks``.

        Parameters
        ----------
        workers : threads that look for what is done already, and that keep outputs.

        Raises
        ------
        ConfigError : if a machine does not see the job's folder, on a full disk, or when no worker
            is left.
        """
        self._require_shared(store)
        places = Places(self._actors, IN_FLIGHT, stop, self._revive)
        line = _Line(self._ray, places, store, stop)
        stages = [
            Stage("check", [line.check] * workers, room=2 * len(self)),
            Stage("remote", [line.segment] * len(places), 2 * workers, drops_on_stop=True),
            Stage("keep", [line.keep] * workers, room=2 * workers),
        ]
        try:
            for outcome in run_stages(tasks, stages, stop):
                if outcome is not None:  # was waiting for a worker when the job was stopped
                    yield outcome
        finally:
            for actor in self._actors:  # whatever they still do, it is not written any more
                self._ray.kill(actor)

    def _revive(self, actor: Any, then: Callable[[bool], None]) -> None:
        """Call ``then`` once Ray has started an actor again, or has given it up."""
        answer = actor.describe.options(max_task_retries=-1).remote().future()
        answer.add_done_callback(
            lambda done: then(done.exception() is None and isinstance(done.result(), About))
        )

    def _require_shared(self, store: JobStore) -> None:
        """Each machine must see a file that was just written into the job's hidden folder."""
        probe, text = store.place(Path("shared.txt")), secrets.token_hex(16)
        probe.write_text(text, encoding="ascii")
        seen = answers_of(self._ray, [each.sees.remote(probe.absolute()) for each in self._actors])
        for told, found in zip(self.told, seen, strict=True):
            if found != text:
                raise ConfigError(
                    "a machine of the cluster does not see the job's folder",
                    where=told.partition(":")[0],
                    got="another folder of that name" if found else "no such folder",
                    expected=probe.parent.absolute(),
                    fix="keep bundle, images and results on storage that all machines share, "
                    "under one path",
                )
        probe.unlink()


class _Line:
    """The driver's three steps of an image."""

    def __init__(self, ray: Any, places: Places, store: JobStore, stop: threading.Event) -> None:
        self._ray, self._places, self._store, self._stop = ray, places, store, stop
        self._hidden = store.place(Path("x")).absolute().parent

    def check(self, task: Task) -> Task | Outcome:
        """Skip what is done."""
        try:
            cells = with_retries(lambda: self._store.cells_before(task), self._stop)
        except Exception as error:
            return Outcome(task, None, 0, as_failure(error, task.where, "cannot be read"), None, {})
        return task if cells is None else Outcome(task, None, cells, None, None, {})

    def segment(self, item: Task | Outcome) -> tuple[Task, Work] | Outcome | None:
        """Have a worker do it; another one if that is lost."""
        if isinstance(item, Outcome):
            return item
        reasons: list[str] = []
        while len(reasons) < TRIES:
            place = self._places.take(alone=bool(reasons))
            if place is None:
                return None
            try:
                call = place.worker.process.remote(_absolute(item), self._hidden)
                work: Work = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                self._places.give_back(place)
                failure = as_failure(error, item.where, "cannot be segmented")
                return Outcome(item, None, 0, failure, None, {})
            except self._ray.exceptions.RayError as error:
                reasons.append(lines_of_error(error)[0])
                self._places.give_up(place)
                continue
            if not work.is_lost:
                self._places.give_back(place)
                return item, work
            reasons.append("" if work.error is None else str(work.error.error()))
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(place.worker, no_restart=False)  # started afresh it may be in order
            self._places.give_up(place)
        return Outcome(item, None, 0, _took_down(item, reasons), None, {})

    def keep(self, item: tuple[Task, Work] | Outcome | None) -> Outcome | None:
        """Write the line and give outputs their names, or say why there are none."""
        if item is None:
            return None
        outcome = item if isinstance(item, Outcome) else self._kept(*item)
        if outcome.error is not None:
            self._store.fail(outcome)
        return outcome

    def _kept(self, task: Task, work: Work) -> Outcome:
        error = None if work.error is None else work.error.error()
        if error is not None and work.ends_job:
            raise JobEndedError(error.what, where=error.where, got=error.got, fix=error.fix)
        outcome = Outcome(task, None, work.cells, error, work.file, work.seconds)
        if error is None:
            self._store.adopt(outcome, self._hidden / work.folder)
        return outcome


def _absolute(task: Task) -> Task:
    """With a path that holds in every process."""
    return replace(task, source=task.source.absolute())


def _took_down(task: Task, reasons: list[str]) -> InputError:
    return InputError(
        f"cannot be segmented: {len(reasons)} workers were lost while they had it",
        where=task.where,
        got=reasons[-1],
        fix="try it alone; a worker that runs out of memory is killed by the system",
    )
