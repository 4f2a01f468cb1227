"""A device worker in a process of its own, maybe on another machine: reads, segments, writes.

It works in the job's hidden folder, which it must be able to reach, and in there in a folder that
is its own, so what two workers write never meets. The journal and the outputs' names are the
driver's. Knows nothing of how it is called: that is ``ray_workers``.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import CellSeg1RtError, ConfigError, InputError
from cellseg1_rt.jobs.batch import Segmenter, Steps, segmenter_of
from cellseg1_rt.jobs.faults import JobEndedError
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.large import LargeImages
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.jobs.stages import RetiredError
from cellseg1_rt.jobs.staging import remove
from cellseg1_rt.jobs.watch import Watched

__all__ = ["About", "ImageWorker", "Plan", "Told", "Work", "require_alike"]


@dataclass(frozen=True)
class Plan:
    """What every worker of a job loads and does.

    Attributes
    ----------
    bundle : a folder that every machine can reach, or ``tiny``.
    options : the further arguments of ``cellseg1_rt.load``, without ``threads``.
    job : the further arguments of ``settings_of_job``: formats, resize, channels, tile.
    threads : CPU threads of all workers of a machine together; 0 is all of its cores.
    on_card : each worker has a card, so a runtime on the CPU would be a mistake.
    """

    bundle: str
    options: dict[str, Any]
    job: dict[str, Any]
    threads: int = 0
    on_card: bool = False


@dataclass(frozen=True)
class About:
    """A worker: the machine it is on, the runtime and why, and the settings of the job."""

    machine: str
    runtime: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Told:
    """An error as it travels: the fields of ``CellSeg1RtError`` as text."""

    what: str
    where: str | None
    got: str | None
    expected: str | None
    fix: str | None

    @classmethod
    def of(cls, error: CellSeg1RtError) -> Told:
        """The fields of an error."""
        where, got, expected = (
            None if x is None else str(x) for x in (error.where, error.got, error.expected)
        )
        return cls(error.what, where, got, expected, error.fix)

    def error(self) -> InputError:
        """The error as an image's own."""
        return InputError(
            self.what, where=self.where, got=self.got, expected=self.expected, fix=self.fix
        )


@dataclass(frozen=True)
class Work:
    """What a worker tells of one image.

    Attributes
    ----------
    folder : where its outputs are, below the job's hidden folder.
    cells : number found.
    error : why it failed; None if it did not.
    file : the image's file as it was read, if it was.
    seconds : by stage.
    ends_job : the error would happen to every image, as a full disk does.
    is_lost : this worker cannot do any image, so it is to be done elsewhere.
    """

    folder: str
    cells: int
    error: Told | None
    file: InputFile | None
    seconds: dict[str, float]
    ends_job: bool = False
    is_lost: bool = False


@dataclass
class _OwnFolder:
    """The ``Store`` of a worker: a folder below the hidden one."""

    path: Path
    is_made: bool = field(default=False, init=False)

    def cells_before(self, task: Task) -> int | None:
        """The driver asks for nothing that is done."""
        return None

    def describe(self, task: Task) -> InputFile | None:
        """Size, time of change and hash of the image."""
        return InputFile.of(task.source, task.plane)

    def place(self, output: Path) -> Path:
        """In the folder, which is made first; the hidden folder must be there."""
        self.path.mkdir(exist_ok=True)
        return self.path / output.name

    def keep(self, outcome: Outcome) -> None:
        """The driver will."""

    def fail(self, outcome: Outcome) -> None:
        """Nothing of a failed image stays."""
        for output in outcome.task.outputs.values():
            remove(self.path / output.name)


class ImageWorker:
    """One device, its model, and what it does to an image.

    Several images may be given at a time, by threads: while one is segmented others are read and
    written.

    Parameters
    ----------
    plan : what to load and do.
    threads : CPU threads of this worker.
    """

    def __init__(self, plan: Plan, threads: int) -> None:
        self._plan = plan
        self._token = f"worker-{secrets.token_hex(8)}"
        self._device = threading.Lock()
        self._large: LargeImages | None = None
        self._about: About | Told
        try:
            self._about, segmenter = self._load(plan, threads)
        except CellSeg1RtError as error:  # told when somebody asks: a constructor cannot answer
            self._about = Told.of(error)
        else:
            self._segmenter = Watched(segmenter, f"the device on {self._about.machine}")

    def describe(self) -> About | Told:
        """Who it is and what it loaded, or why it could not."""
        return self._about

    def sees(self, file: Path) -> str | None:
        """What a file holds, as seen from here; None if it cannot be read."""
        try:
            return file.read_text(encoding="ascii")
        except (OSError, ValueError):
            return None

    def process(self, task: Task, hidden: Path) -> Work:
        """Read, segment and write one image into a folder of this worker's in ``hidden``."""
        if not hidden.is_dir():  # a worker may be started again on another machine
            unseen = InputError("this machine does not see the job's folder", where=hidden)
            return self._told(Outcome(task, None, 0, unseen, None, {}), is_lost=True)
        store = _OwnFolder(hidden / self._token)
        steps = Steps(store, self._plan.job["resize"], threading.Event(), self._large)
        try:
            item: Any = steps.read(task)
            segment = steps.segment_on(self._segmenter)
            with self._device:
                item = segment(item)
            outcome = steps.write(item)
        except RetiredError as lost:
            return self._told(lost.value, is_lost=True)
        except JobEndedError as error:
            return self._told(Outcome(task, None, 0, error, None, {}), ends_job=True)
        return self._told(outcome)

    def _told(self, outcome: Outcome, **flags: bool) -> Work:
        error = None if outcome.error is None else Told.of(outcome.error)
        return Work(self._token, outcome.cells, error, outcome.file, outcome.seconds, **flags)

    def _load(self, plan: Plan, threads: int) -> tuple[About, Segmenter]:
        from cellseg1_rt.backends.choose import RUNTIMES
        from cellseg1_rt.jobs.identity import settings_of_job
        from cellseg1_rt.runtime.model import load

        model = load(plan.bundle, threads=threads, **plan.options)
        choice, machine = model.choice, socket.gethostname()
        if plan.on_card and not RUNTIMES[choice.runtime].on_card:
            raise ConfigError(
                "a worker with a card would run on the CPU",
                where=machine,
                got=f"{choice.runtime}, {choice.reason}",
                fix="build engines for this card, or pass --runtime onnxruntime",
            )
        told = f"{choice.runtime}, {choice.precision}: {choice.reason}"
        about = About(machine, told, settings_of_job(model, **plan.job))
        self._large = LargeImages.of_model(model, plan.job.get("tile", "none"))
        return about, segmenter_of(model)


def require_alike(workers: Iterable[About]) -> dict[str, Any]:
    """The settings that all workers have.

    Raises
    ------
    ConfigError : if two differ: other versions or another runtime would give other labels.
    """
    first, *others = workers
    for other in others:
        names = [
            name
            for name in {**first.settings, **other.settings}
            if first.settings.get(name) != other.settings.get(name)
        ]
        if names:
            raise ConfigError(
                "two machines would not give the same results",
                where=other.machine,
                got=", ".join(f"{name} {other.settings.get(name)}" for name in names),
                expected=", ".join(f"{name} {first.settings.get(name)}" for name in names)
                + f", as on {first.machine}",
                fix="install the same versions on both, and name the --runtime",
            )
    return first.settings
