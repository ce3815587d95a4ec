class EgressProxy(Proxy):
    """This project, with policy, access log and metrics switched on, run by the interpreter that runs the benchmark."""

    name = "egressproxy"

    @classmethod
    def version(cls) -> str:
        """From the command itself."""
        from egressproxy._version import __version__

        loop = "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
        return f"egressproxy {__version__} ({loop}, Python {sys.version.split()[0]})"

    def prepare(self) -> list[str]:
        """JSON is YAML."""
        self._admin_port = free_port()
        allowed = {"clients": [policy.LOOPBACK_CLIENTS], "hosts": list(policy.ALLOWED_NAMES)}
        builds = {"clients": [policy.BUILD_CLIENTS], "hosts": list(policy.BUILD_NAMES)}
        config = {
            "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": self.port}],
            "rules": [
                {"name": "mail", "action": "deny", "ports": list(policy.MAIL_PORTS)},
                {"name": "builds", "action": "allow", **builds, "ports": [443]},
                {
                    "name": "allowed",
                    "action": "allow",
                    **allowed,
                    "ports": [443, *self.origins.ports],
                    "private_addresses": True,
                },
                {"name": "rest", "action": "deny"},
            ],
            "dns": {"servers": [f"127.0.0.1:{self.origins.dns_port}"]},
            "limits": {"max_tunnels": 20000},
            "timeouts": {"drain_s": 0},
            "access_log": [{"format": "squid", "path": str(self.log)}],
            "admin": {"address": "127.0.0.1", "port": self._admin_port},
        }
        path = self.folder / "egressproxy.yaml"
        path.write_text(json.dumps(config, indent=1))
        return [sys.executable, "-m", "egressproxy", "run", str(path)]

    def check(self) -> None:
        """Metrics as well."""
        super().check()
        with socket.create_connection(("127.0.0.1", self._admin_port), timeout=10) as sock:
            sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        if b" 200 " not in answer.split(b"\r\n")[0] or b"# TYPE egressproxy_" not in answer:
            raise WrongAnswer(f"/metrics answered {answer[:200]!r}")


class Floor(Proxy):
    """The least a proxy in Python can do, without any of the work (`floor.py`): the kernel's part and the language's."""

    name = "floor"
    judges = False

    @classmethod
    def version(cls) -> str:
        """That of the interpreter."""
        return f"bare epoll loop, Python {sys.version.split()[0]}"

    def prepare(self) -> list[str]:
        """No configuration."""
        return [sys.executable, "-m", "benchmarks.support.floor", str(self.port)]


class Direct(Proxy):
    """No proxy at all: how far load and origin get alone. A rate near this one is theirs and not the proxy's."""

    name = "direct"
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
        """Straight to the origin; `host` is not looked at."""
        return Route(("127.0.0.1", port), b"", b"")


PROXIES: dict[str, type[Proxy]] = {proxy.name: proxy for proxy in (EgressProxy, Squid, Floor, Direct)}


