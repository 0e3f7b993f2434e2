"""One thread that works on the newest frame; frames it has no time for are counted, not queued."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Frame = TypeVar("Frame")
Order = TypeVar("Order")

_log = logging.getLogger(__name__)


@dataclass
class Counts:
    """What became of the frames since the worker started.

    Attributes:
        received: Frames that were handed in, unusable ones included.
        processed: Frames that were worked on to the end.
        replaced: Frames that a newer one replaced before their turn came.
        unusable: Frames that were rejected or failed.
        skipped: Frames that were left out on purpose.
    """

    received: int = 0
    processed: int = 0
    replaced: int = 0
    unusable: int = 0
    skipped: int = 0

    @property
    def dropped(self) -> int:
        """Frames without a result."""
        return self.replaced + self.unusable + self.skipped


class UnusableFrameError(Exception):
    """The frame cannot be worked on, and whoever should know that has been told."""


class Worker(Generic[Frame, Order]):
    """Runs a function on the newest frame and the orders that came before it, in its own thread.

    Orders (prompts) are never dropped. When orders come and no new frame does, the last frame is
    worked on again, so that a click on a paused picture is answered.
    """

    def __init__(
        self,
        work: Callable[[Frame | None, list[Order], bool, float], None],
        begin: Callable[[], None] | None = None,
    ) -> None:
        """Starts the thread.

        Args:
            work: Called with the frame (None if there was none yet), the orders, whether the
                frame is new, and the seconds for which it waited. An exception is logged and
                counts the frame as unusable.
            begin: Called before, once, on the thread.
        """
        self.counts = Counts()
        self._work, self._begin = work, begin
        self._wake = threading.Condition()
        self._newest: tuple[Frame, float] | None = None
        self._last: Frame | None = None
        self._orders: deque[Order] = deque()
        self._stopping = self._woken = False
        self._thread = threading.Thread(target=self._run, name="panosam2 worker", daemon=True)
        self._thread.start()

    def put_frame(self, frame: Frame) -> None:
        """Hands in a frame; one that still waits is replaced.

        Args:
            frame: The frame.
        """
        with self._wake:
            self.counts.received += 1
            self.counts.replaced += self._newest is not None
            self._newest = (frame, time.monotonic())
            self._wake.notify()

    def skip_frame(self) -> None:
        """Counts a frame that is left out on purpose."""
        with self._wake:
            self.counts.received += 1
            self.counts.skipped += 1

    def reject_frame(self) -> None:
        """Counts a frame that could not be used at all."""
        with self._wake:
            self.counts.received += 1
            self.counts.unusable += 1

    def put_order(self, order: Order, most: int | None = None) -> bool:
        """Hands in an order.

        Args:
            order: Given to the work together with the newest frame.
            most: Refuse it if so many wait already.

        Returns:
            Whether it was taken.
        """
        with self._wake:
            if most is not None and len(self._orders) >= most:
                return False
            self._orders.append(order)
            self._wake.notify()
        return True

    def wake(self) -> None:
        """Lets the last frame be worked on once more though neither a frame nor an order came."""
        with self._wake:
            self._woken = True
            self._wake.notify()

    def stop(self) -> list[Order]:
        """Ends the thread after the frame it is working on.

        Returns:
            The orders that it did not come to.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        return list(self._orders)

    def _run(self) -> None:
        if self._begin is not None:
            self._begin()
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: self._stopping or self._woken or self._newest or self._orders
                )
                if self._stopping:
                    return
                self._woken = False
                newest, self._newest = self._newest, None
                orders = list(self._orders)
                self._orders.clear()
            self._turn(newest, orders)

    def _turn(self, newest: tuple[Frame, float] | None, orders: list[Order]) -> None:
        waited_s = 0.0
        if newest is not None:
            self._last, arrived = newest
            waited_s = time.monotonic() - arrived
        try:
            self._work(self._last, orders, newest is not None, waited_s)
        except UnusableFrameError:
            done = False
        except Exception:
            # One bad frame must not end the stream; the log and the counts tell of it.
            _log.exception("a frame could not be processed; going on with the next one")
            done = False
        else:
            done = True
        with self._wake:
            self.counts.processed += done and newest is not None
            self.counts.unusable += not done and newest is not None
