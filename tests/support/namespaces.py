"""Hosts of the test's own: network namespaces with wires between them, for what cannot be tried on loopback.

    with Namespace("app") as app, Namespace("site") as site:
        connect(app, ["10.201.1.2/24"], site, ["10.201.1.1/24"])
        server = site.call(lambda: socket.create_server(("10.201.1.1", 443)))
        app.run("curl", "http://10.201.1.1:443/", folder=tmp_path)

They have no names in the system, nothing but what refers to them keeps them alive, and their wires end nowhere else: a run
that is killed leaves nothing behind, and nothing in them can reach the outside.

`call` runs a function in a thread that has gone into the namespace. Sockets made there belong to it and may be used
anywhere; threads and programs started there stay in it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import pytest
from support.clients import Done, run
from support.waiting import WAIT_S

T = TypeVar("T")

_CLONE_NEWNET = 0x4000_0000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(10)


class Namespace:
    """One host. A context manager; `name` is for messages only."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = -1

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    def __enter__(self) -> Self:
        self._fd = _in_thread(_new_namespace)
        try:
            for kind in ("all", "default"):  # or IPv6 takes a second to find out that its addresses are nobody else's
                if Path("/proc/sys/net/ipv6").exists():
                    self.set(f"ipv6/conf/{kind}/accept_dad", 0)
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._fd = -1

    @property
    def path(self) -> str:
        """As `ip ... netns PATH` takes it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def call(self, function: Callable[..., T], *arguments: Any, uid: int = 0) -> T:
        """What the function returns or raises, in here. `uid`: the user that sockets made by it belong to."""

        def inside() -> T:
            _check(_libc.setns(self._fd, _CLONE_NEWNET))
            if uid:
                _libc.setfsuid(uid)  # of this thread only
            return function(*arguments)

        return _in_thread(inside)

    def run(
        self, *command: str | Path, folder: Path = Path("/"), stdin: str = "", code: int | None = 0, **options: Any
    ) -> Done:
        """Run a program in here, as `support.clients.run` does."""
        return self.call(lambda: run(*command, folder=folder, stdin=stdin, code=code, **options))

    def ip(self, *words: str) -> str:
        """What `ip` prints."""
        return self.run(_find("ip") or "ip", *words).out

    def set(self, setting: str, value: int) -> None:
        """A setting below /proc/sys/net, as `ipv4/ip_forward`."""
        self.call(Path("/proc/sys/net", setting).write_text, str(value))

    def forward(self) -> None:
        """Become a router."""
        self.set("ipv4/ip_forward", 1)
        self.set("ipv6/conf/all/forwarding", 1)


def connect(one: Namespace, addresses: Sequence[str], other: Namespace, its_addresses: Sequence[str]) -> None:
    """A wire between two hosts, and the addresses (CIDR) of each at its end."""
    # Linux takes ends of the same number for no wire, and may then notice a second late that they are up.
    numbers = next(_numbers), next(_numbers)
    ends = [(host, f"wire{number}") for host, number in zip((one, other), numbers, strict=True)]
    first, second = (("name", end, "index", str(number)) for (_, end), number in zip(ends, numbers, strict=True))
    one.ip("link", "add", *first, "type", "veth", "peer", *second, "netns", other.path)
    for (host, end), own in zip(ends, (addresses, its_addresses), strict=True):
        for address in own:
            host.ip("addr", "add", address, "dev", end, *(["nodad"] if ":" in address else []))
        host.ip("link", "set", end, "up")


class Hosts(NamedTuple):
    """The application's host, the proxy's, and the outside, each wired to the next. The one in the middle does not forward."""

    app: Namespace
    proxy: Namespace
    site: Namespace


APP = {4: "10.201.1.2", 6: "fd01:201:1::2"}
PROXY = {4: "10.201.1.1", 6: "fd01:201:1::1"}
"""On the side of the application."""
PROXY_OUTSIDE = {4: "10.201.2.1", 6: "fd01:201:2::1"}
SITE = {4: "10.201.2.2", 6: "fd01:201:2::2"}
OTHER_SITE = {4: "10.201.2.3", 6: "fd01:201:2::3"}
"""Another address of the same host."""


@contextmanager
def three_hosts() -> Iterator[Hosts]:
    """The three, with addresses and default routes for IPv4 and IPv6."""
    with ExitStack() as stack:
        app, proxy, site = (stack.enter_context(Namespace(name)) for name in ("app", "proxy", "site"))
        connect(app, _with_length(APP), proxy, _with_length(PROXY))
        connect(proxy, _with_length(PROXY_OUTSIDE), site, [*_with_length(SITE), *_with_length(OTHER_SITE)])
        for host, router in ((app, PROXY), (proxy, SITE), (site, PROXY_OUTSIDE)):
            for version, address in router.items():
                host.ip(f"-{version}", "route", "add", "default", "via", address)
        yield Hosts(app, proxy, site)


def _with_length(addresses: dict[int, str]) -> list[str]:
    return [f"{addresses[4]}/24", f"{addresses[6]}/64"]


def need_namespaces(*programs: str) -> None:
    """Skip the test, and say why, where namespaces cannot be made or one of the programs is missing."""
    for program in ("ip", *programs):
        if _find(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    try:
        os.close(_in_thread(_new_namespace))
    except OSError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.strerror}")


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"]))


def _new_namespace() -> int:
    """A descriptor of a new one, which this thread goes into."""
    _check(_libc.unshare(_CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_thread(function: Callable[[], T]) -> T:
    """Run it in a thread of its own: what a thread does to its namespace and user ends with it."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WAIT_S * 4)
    assert not thread.is_alive(), f"not within {WAIT_S * 4:g} s: {function}"
    if errors:
        raise errors[0]
    return results[0]
