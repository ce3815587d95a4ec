"""Put the rules of `redirect` into the kernel, and take them out again, by the programs `nft` and `ip`.

Both work in the network namespace that this process is in, and both may be done twice.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from egressproxy.redirect import removal, routing, routing_removal, rules

if TYPE_CHECKING:
    from egressproxy.redirect import Capture

TIMEOUT_S = 30.0
"""For one call of a program. They take milliseconds; a kernel that loads a module takes longer."""

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_PACKAGES = {"nft": "nftables", "ip": "iproute2"}
_MOST_LINES = 5  # of a program's complaint: enough for its first

_THERE_ALREADY = "File exists"
# Of a rule; of a route; of a route in a table without any; of the rest, where the kernel is without IPv6.
_NOT_THERE = ("No such file or directory", "No such process", "FIB table does not exist", "not supported")


class CaptureFailed(Exception):
    """The rules could not be put in place or removed. The message names the program, what it said, and the next step."""


def apply(capture: Capture) -> list[str]:
    """Capture, in place of whatever was captured before; what is worth knowing. Raises CaptureFailed.

    The rules come into force in one step, and last: a failure before leaves what was there as it was.
    """
    said: list[str] = []
    text = rules(capture)
    if capture.mode == "tproxy":
        _nft("--check", text)
        for family in ("-4", "-6"):
            if family == "-6" and not _loopback_has_ipv6():
                said.append("IPv6 is off on the loopback interface: connections over IPv6 are stopped, not captured")
                continue
            for command in routing(family):
                _run(command, well=(_THERE_ALREADY,))
    _nft(None, text)
    if capture.mode != "tproxy":
        _remove_routing()
    return said


def remove() -> None:
    """Capture nothing any more; harmless where nothing is. Raises CaptureFailed."""
    _nft(None, removal())
    _remove_routing()


def _remove_routing() -> None:
    if shutil.which("ip", path=_PATH) is None:
        return  # then it was not put there either
    for family in ("-4", "-6"):
        if family == "-6" and not Path("/proc/sys/net/ipv6").exists():
            continue
        for command in routing_removal(family):
            while _run(command, well=_NOT_THERE):
                pass  # the same rule may be there more than once, if others put it there


def _loopback_has_ipv6() -> bool:
    try:
        return Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def _nft(option: str | None, text: str) -> None:
    _run(("nft", *([option] if option else []), "-f", "-"), text)


def _run(command: tuple[str, ...], stdin: str = "", well: tuple[str, ...] = ()) -> bool:
    """Run a program; whether it succeeded. False only where it failed with one of the words in `well`."""
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise CaptureFailed(f"{command[0]} is not installed (Debian: apt-get install {_PACKAGES[command[0]]})")
    said = " ".join(command)
    try:
        done = subprocess.run(
            [program, *command[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            env={"PATH": _PATH, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise CaptureFailed(f"{said}: no answer within {TIMEOUT_S:g} s") from error
    except OSError as error:
        raise CaptureFailed(f"{said}: {error.strerror}") from error
    if done.returncode == 0:
        return True
    complaint = done.stderr.strip() or f"exit code {done.returncode}"
    if any(word in complaint for word in well):
        return False
    if "not permitted" in complaint or "Permission denied" in complaint:
        raise CaptureFailed(f"{said}: not permitted; this needs root, or CAP_NET_ADMIN in this network namespace")
    raise CaptureFailed(f"{said}: " + "\n".join(complaint.splitlines()[:_MOST_LINES]))
