from __future__ import annotations

import threading
import time

from panosam2_ros.worker import Worker


class Desk:
    """A worker whose work can be held up."""

    def __init__(self) -> None:
        self.turns: list[tuple[object, list[object], bool]] = []
        self.go = threading.Event()
        self.go.set()
        self.worker: Worker[object, object] = Worker(self.work)

    def work(self, frame: object, orders: list[object], is_new: bool, waited_s: float) -> None:
        assert waited_s >= 0
        self.go.wait()
        self.turns.append((frame, orders, is_new))
        if frame == "bad":
            raise ValueError("bad frame")

    def wait(self, turns: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.turns) < turns and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(self.turns) >= turns

    def settle(self) -> None:
        self.worker.stop()


def test_only_the_newest_frame_is_worked_on_and_the_others_are_counted() -> None:
    desk = Desk()
    desk.go.clear()
    desk.worker.put_frame(1)
    while desk.worker.counts.received == 1 and desk.worker._newest is not None:
        time.sleep(0.005)  # until the worker has taken it
    for frame in (2, 3, 4):
        desk.worker.put_frame(frame)
    desk.go.set()
    desk.wait(2)
    desk.settle()
    assert [frame for frame, *_ in desk.turns] == [1, 4]
    counts = desk.worker.counts
    assert (counts.received, counts.processed, counts.replaced) == (4, 2, 2)
    assert counts.dropped == 2


def test_orders_are_never_lost_and_get_the_last_frame() -> None:
    desk = Desk()
    desk.worker.put_order("early")
    desk.wait(1)
    desk.worker.put_frame(1)
    desk.wait(2)
    desk.worker.put_order("late")
    desk.wait(3)
    desk.settle()
    assert desk.turns == [(None, ["early"], False), (1, [], True), (1, ["late"], False)]
    assert desk.worker.counts.processed == 1


def test_stopping_hands_back_the_orders_that_were_not_begun() -> None:
    desk = Desk()
    desk.go.clear()
    desk.worker.put_order("begun")
    while desk.worker._orders:
        time.sleep(0.005)
    desk.worker.put_order("left")
    threading.Timer(0.05, desk.go.set).start()
    with desk.worker._wake:
        desk.worker._stopping = True
    assert desk.worker.stop() == ["left"]
    assert desk.turns == [(None, ["begun"], False)]


def test_a_failure_is_counted_and_the_next_frame_is_worked_on() -> None:
    desk = Desk()
    desk.worker.put_frame("bad")
    desk.wait(1)
    desk.worker.put_frame("good")
    desk.wait(2)
    desk.worker.reject_frame()
    desk.settle()
    counts = desk.worker.counts
    assert (counts.received, counts.processed, counts.unusable) == (3, 1, 2)


def test_a_worker_that_is_woken_looks_at_the_last_frame_once_more() -> None:
    desk = Desk()
    desk.worker.put_frame(1)
    desk.wait(1)
    desk.worker.wake()
    desk.wait(2)
    time.sleep(0.05)
    desk.settle()
    assert desk.turns == [(1, [], True), (1, [], False)]
    assert desk.worker.counts.processed == 1
