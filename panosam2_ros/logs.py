"""Shows what Python modules log in the node's log."""

from __future__ import annotations

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger


class NodeLogHandler(logging.Handler):
    """Hands the records of Python loggers to a node's logger."""

    def __init__(self, logger: RcutilsLogger, *names: str) -> None:
        """Starts to forward.

        Args:
            logger: The node's logger.
            names: The Python loggers, such as package names.
        """
        super().__init__(logging.INFO)
        self._logger = logger
        self._sources = [logging.getLogger(name) for name in names]
        for source in self._sources:
            source.addHandler(self)
            source.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Forwards one record.

        Args:
            record: What was logged.
        """
        text = self.format(record)
        # One line of code per level: rclpy refuses two levels from the same line.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def close(self) -> None:
        """Ends forwarding."""
        for source in self._sources:
            source.removeHandler(self)
        super().close()
