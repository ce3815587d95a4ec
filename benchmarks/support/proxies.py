"""egressproxy, the least that its language can do, and no proxy at all; and every proxy by its name.

A new peer is one more class in `peers` and one more word in `PROXIES`; the benchmarks stay as they are.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from typing import Any

from benchmarks.support import policy
from benchmarks.support.envoy import Envoy
from benchmarks.support.errors import WrongAnswer
from benchmarks.support.hello import client_hello
from benchmarks.support.messages import Exchange, body, request
from benchmarks.support.peers import HAProxy, Nginx, Squid
from benchmarks.support.proxy import HTTP_PORT, TUNNELS, Proxy, Route, Way, free_port, receive


class EgressProxy(Proxy):
    """This project, with policy, access log and metrics switched on, run by the interpreter that runs the benchmark."""

    name = "egressproxy"
    ways = tuple(Way)

    @classmethod
    def version(cls) -> str:
        """From the command itself."""
        from egressproxy._version import __version__

        loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
        return f"egressproxy {__version__} ({loop}, Python {sys.version.split()[0]})"

    def prepare(self) -> list[str]:
        """JSON is YAML."""
        self._admin_port = free_port({self.port, *self.sni_ports.values()})
        allowed = {"clients": [policy.LOOPBACK_CLIENTS], "hosts": list(policy.ALLOWED_NAMES)}
        builds = {"clients": [policy.BUILD_CLIENTS], "hosts": list(policy.BUILD_NAMES)}
        config: dict[str, Any] = {
            "listeners": self._listeners(),
            "rules": [
                {"name": "mail", "action": "deny", "ports": list(policy.MAIL_PORTS)},
                {"name": "builds", "action": "allow", **builds, "ports": [443]},
                {
                    "name": "allowed",
                    "action": "allow",
                    **allowed,
                    "ports": list(self.allowed_ports),
                    "private_addresses": True,
                },
                {"name": "rest", "action": "deny"},
            ],
            "dns": {"servers": [f"127.0.0.1:{self.origins.dns_port}"]},
            "limits": {"max_tunnels": 20000},
            "timeouts": {"drain_s": 0},
            "access_log": [{"format": "nginx-stream" if self.way is Way.SNI else "squid", "path": str(self.log)}],
            "admin": {"address": "127.0.0.1", "port": self._admin_port},
        }
        if self.way is Way.CONNECT_TLS:
            config["sni_check"] = "enforce"
        if self.way is Way.ORIGINATION:
            config["services"] = [self._service(host) for host in (policy.ORIGIN, policy.UNPROVEN)]
        path = self.folder / "egressproxy.yaml"
        path.write_text(json.dumps(config, indent=1))
        return [sys.executable, "-m", "egressproxy", "run", str(path)]

    def _listeners(self) -> list[dict[str, Any]]:
        if self.way is Way.ORIGINATION:
            return [{"protocol": "http", "address": "127.0.0.1", "port": self.port, "service_port": HTTP_PORT}]
        if self.way is not Way.SNI:
            return [{"protocol": "http-proxy", "address": "127.0.0.1", "port": self.port}]
        return [
            {"protocol": "sni", "address": "127.0.0.1", "port": port, "service_port": service_port}
            for service_port, port in self.sni_ports.items()
        ]

    def _service(self, host: str) -> dict[str, Any]:
        port, authority = self.origins.tls
        return {
            "hosts": [host],
            "ports": [{"number": HTTP_PORT, "protocol": "HTTP", "target_port": port}],
            "private_addresses": True,
            "tls": {"mode": "simple", "ca": str(authority)},
        }

    def log_shows(self) -> tuple[str, ...]:
        """As Squid's or NGINX's own."""
        if self.way is Way.SNI:
            return f"[{policy.REFUSED}]403 ", f"[{policy.ORIGIN}]200 "
        return super().log_shows()

    def check(self) -> None:
        """Metrics as well, and what is inside a CONNECT where that is looked at."""
        super().check()
        if self.way is Way.CONNECT_TLS:
            self._check_inside()
        with socket.create_connection(("127.0.0.1", self._admin_port), timeout=10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        if b" 200 " not in answer.split(b"\r\n")[0] or b"# TYPE egressproxy_" not in answer:
            raise WrongAnswer(f"/metrics answered {answer[:200]!r}")

    def _check_inside(self) -> None:
        before, other = self.logged(), client_hello(policy.REFUSED)
        with self.connect(self.origins.echo_ports[0]) as sock:
            sock.sendall(other)
            if receive(sock, len(other)) == other:
                raise WrongAnswer(f"{self.name} let TLS to {policy.REFUSED} pass in a tunnel to {policy.ORIGIN}")
        self.wait_until_logged(before + 1)


class Floor(Proxy):
    """The least a proxy in Python can do, without any of the work (`floor.py`): the kernel's part and the language's."""

    name = "floor"
    ways = TUNNELS
    judges = False

    @classmethod
    def version(cls) -> str:
        """That of the interpreter."""
        return f"bare epoll loop, Python {sys.version.split()[0]}"

    def prepare(self) -> list[str]:
        """No configuration."""
        doors = [str(self.port)]
        if self.way is Way.SNI:
            doors = [f"{port}:{service_port}" for service_port, port in self.sni_ports.items()]
        return [sys.executable, "-m", "benchmarks.support.floor", *doors]


class Direct(Proxy):
    """No proxy at all: how far load and origin get alone. A rate near this one is theirs and not the proxy's."""

    name = "direct"
    ways = (*TUNNELS, Way.REQUESTS)
    judges = False

    @classmethod
    def version(cls) -> str:
        """There is nothing to version."""
        return "no proxy"

    def prepare(self) -> list[str]:
        """Never called."""
        raise AssertionError

    def start(self) -> None:
        """Nothing to start."""

    def route(self, host: str, port: int) -> Route:
        """Straight to the origin; `host` is only in the ClientHello, if that is the way."""
        hello = client_hello(host) if self.way is Way.SNI else b""
        return Route(("127.0.0.1", port), hello, hello)

    def exchange(self, target: str, host: str = policy.ORIGIN) -> Exchange:
        """Straight to the plain origin."""
        port = self.origins.http_port
        head = request(f"{host}:{port}", target, absolute=False)
        return Exchange(("127.0.0.1", port), head, body(target.encode()))


PROXIES: dict[str, type[Proxy]] = {
    proxy.name: proxy for proxy in (EgressProxy, Squid, Nginx, HAProxy, Envoy, Floor, Direct)
}
