"""A process that was forked is where, and what, one that was started from nothing would be."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.namespaces import Namespace, need_namespaces
from support.proxy import ROOT, Proxy

Start = Callable[..., Proxy]


def network_of(place: str) -> str:
    return str(Path(f"/proc/{place}/ns/net").readlink())


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
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    ignored = int(re.findall(r"^SigIgn:\s+(\w+)$", status, re.MULTILINE)[0], 16)
    assert {number for number in signal.Signals if ignored >> (number - 1) & 1} == {signal.SIGPIPE, signal.SIGXFSZ}
    links = {link.name: str(link.readlink()) for link in Path(f"/proc/{proxy.pid}/fd").iterdir()}
    assert (links["0"], links["1"], links["2"]) == (
        os.devnull,
        str(proxy.folder / "stdout"),
        str(proxy.folder / "stderr"),
    )
    assert not [link for link in links.values() if link.startswith("net:")]
    assert Path(f"/proc/{proxy.pid}/cwd").readlink() == ROOT
