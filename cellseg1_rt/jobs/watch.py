"""A device that fails image after image is tested, and given up if it is the device's fault.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import CellSeg1RtError, InputError, RuntimeUnavailableError
from cellseg1_rt.jobs.faults import JobEndedError, as_failure
from cellseg1_rt.results import Result

__all__ = ["FAILURES_IN_A_ROW", "DeviceLostError", "Watched"]

FAILURES_IN_A_ROW = 3
"""Images in a row that a device may fail before it is tested."""


class DeviceLostError(Exception):
    """A device that fails whatever it is given.

    Parameters
    ----------
    name : which one.
    reason : what it said last.
    """

    def __init__(self, name: str, reason: Exception) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def of_image(self, image: Path) -> CellSeg1RtError:
        """The failure of the image that was its last."""
        failure = as_failure(self.reason, image, "cannot be segmented")
        return RuntimeUnavailableError(
            f"cannot be segmented, and {self.name} is given up: it fails a test picture too",
            where=image,
            got=failure.got or failure.what,
            fix="look at that device, then run the same command again",
        )

    def of_job(self) -> JobEndedError:
        """What ends the job where no other device is left."""
        return JobEndedError(
            "no device is left that works, so the job ends here",
            where=self.name,
            got=f"{type(self.reason).__name__}: {self.reason}",
            expected="a device that segments a test picture",
            fix="look at that device, then run the same command again: what is done is kept",
        )


class Watched:
    """A device that is tested when it fails several images in a row.

    Errors that are an image's own (``InputError``, no memory for it) do not count. After
    ``FAILURES_IN_A_ROW`` others the device gets a small picture that is known to be good. If that
    goes well, the reason was the images, and it goes on.

    Parameters
    ----------
    segmenter : the device. Used by one thread at a time.
    name : what errors call it.
    """

    def __init__(self, segmenter: Callable[[NDArray[np.uint8]], Result], name: str) -> None:
        self._segmenter, self._name, self._failures = segmenter, name, 0

    def __call__(self, rgb: NDArray[np.uint8]) -> Result:
        """Segment an image; raises ``DeviceLostError`` from the reason, or the image's error."""
        try:
            result = self._segmenter(rgb)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW and not self._works():
                raise DeviceLostError(self._name, error) from error
            raise
        self._failures = 0
        return result

    def _works(self) -> bool:
        self._failures = 0
        try:
            self._segmenter(_test_picture())
        except Exception:  # whatever it is: the picture is good
            return False
        return True


def _test_picture() -> NDArray[np.uint8]:
    """Four bright squares, uint8 [61, 67, 3]."""
    picture = np.zeros((61, 67, 3), np.uint8)
    for y in (11, 37):
        for x in (13, 41):
            picture[y : y + 11, x : x + 13] = 255
    return picture
