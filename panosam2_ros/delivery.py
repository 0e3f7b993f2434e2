"""How many of the images that were published arrived, over the last seconds."""

from __future__ import annotations

from collections import deque


class Delivery:
    """Counts arrivals and losses in a window of time.

    The middleware tells of losses by the numbers of the messages (of the fragments of one, where
    it is cut up), so they are known also when nothing at all arrives. An image that a newer one
    replaced before it was read counts neither as arrived nor as lost.

    Args:
        window_s: Length of the window, in seconds.
        now_s: When counting begins; any clock that never goes back, in seconds.
    """

    def __init__(self, window_s: float, now_s: float) -> None:
        self.window_s = window_s
        self.begin(now_s)

    def begin(self, now_s: float) -> None:
        """Forgets everything: nobody publishes, or another subscription was made.

        Args:
            now_s: Time, in seconds.
        """
        self.arrived = self.lost = 0
        self._since_s = now_s
        self._events: deque[tuple[float, int, int]] = deque()

    def add(self, now_s: float, *, arrived: int = 0, lost: int = 0) -> None:
        """Counts images.

        Args:
            now_s: Time, in seconds.
            arrived: How many arrived.
            lost: How many got lost.
        """
        self.arrived += arrived
        self.lost += lost
        self._events.append((now_s, arrived, lost))
        self._forget(now_s)

    def starving(self, now_s: float) -> bool:
        """Whether no more images arrived than are known to be lost, nor any if none is.

        Args:
            now_s: Time, in seconds.

        Returns:
            False in the first window, in which too little is known.
        """
        self._forget(now_s)
        return now_s - self._since_s > self.window_s and self.arrived <= self.lost

    def _forget(self, now_s: float) -> None:
        while self._events and now_s - self._events[0][0] > self.window_s:
            _, arrived, lost = self._events.popleft()
            self.arrived -= arrived
            self.lost -= lost
