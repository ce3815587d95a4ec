"""A process that was forked is where, and what, one that was started from nothing would be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.namespaces import Namespace, need_namespaces
from support.proxy import ROOT, Proxy

Start = Callable[..., Proxy]


def network_of(place: str) -> str:
    return str(Path(f"/proc/{place}/ns/net").readlink())


def ignored_by(process: str) -> str:
    (mask,) = re.findall(r"^SigIgn:\s+(\w+)$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return str(mask)


def links_of(pid: int) -> dict[int, str]:
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(link.name)] = str(link.readlink())
        except FileNotFoundError:
            pass  # the admin connection that has just been answered
    return found


def test_it_is_in_the_network_namespace_of_the_thread_that_asks(tmp_path: Path) -> None:
    need_namespaces()
    with Namespace("host") as host:
        proxy = Proxy(tmp_path)
        host.call(proxy.start)
        try:
            assert network_of(str(proxy.pid)) == host.call(network_of, "thread-self") != network_of("self")
        finally:
            proxy.end()


def test_elsewhere_it_is_where_the_tests_are(start: Start) -> None:
    assert network_of(str(start().pid)) == network_of("self")


@pytest.mark.parametrize("fresh", [True, False], ids=["from nothing", "forked"])
def test_it_has_the_same_descriptors_signals_and_folder(start: Start, fresh: bool) -> None:
    proxy = start(fresh=fresh)
    assert ignored_by(str(proxy.pid)) == ignored_by("self"), "what Python ignores, and what it was started with"
    links = links_of(proxy.pid)
    assert (links[0], links[1], links[2]) == (os.devnull, str(proxy.folder / "stdout"), str(proxy.folder / "stderr"))
    assert not [link for link in links.values() if link.startswith("net:")]
    assert Path(f"/proc/{proxy.pid}/cwd").readlink() == ROOT
