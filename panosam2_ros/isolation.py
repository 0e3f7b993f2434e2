"""Keeps the processes of one run to themselves: own domain, this machine only."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

# Domains above 101 use ports that Linux also hands out to ordinary programs.
_DOMAINS = range(1, 102)


@contextmanager
def isolated_environment() -> Iterator[dict[str, str]]:
    """Reserves a ROS domain that no other run on this machine has reserved.

    Yields:
        The environment for the processes of this run: its domain, discovery on this machine
        only, and the shared-memory profile for large images. The domain is free again when the
        context ends or the process dies.

    Raises:
        RuntimeError: If all domains are taken.
    """
    folder = Path(tempfile.gettempdir(), f"panosam2-domains-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    first = os.getpid() % len(_DOMAINS)
    for domain in (*_DOMAINS[first:], *_DOMAINS[:first]):
        with open(folder / f"{domain}.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield _environment(domain)
            return
    raise RuntimeError(f"all {len(_DOMAINS)} ROS domains are in use; remove {folder}")


def large_image_profile() -> Path:
    """Finds the Fast DDS profile for large images, in a checkout or where it is installed.

    Returns:
        The path of the XML file.
    """
    name = Path("config", "fastdds_one_machine.xml")
    checkout = Path(__file__).resolve().parent.parent / name
    if checkout.is_file():
        return checkout
    return Path(get_package_share_directory("panosam2_ros")) / name


def _environment(domain: int) -> dict[str, str]:
    profile = str(large_image_profile())
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        "ROS_STATIC_PEERS": "",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "PYTHONUNBUFFERED": "1",
    }
