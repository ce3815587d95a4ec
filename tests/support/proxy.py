"""The proxy as people run it: a child process with a configuration file, logs in files and an admin port.

    with Proxy(folder, {"outbound": "allow_any"}) as proxy:
        ...                                      # HTTPS_PROXY=proxy.url
        (record,) = proxy.settled().records      # every connection has ended and is in the logs

Leaving the block ends it by SIGTERM and checks that it went in order and had no complaint of its own on standard error.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families
from support import nursery
from support.waiting import WAIT_S, eventually

ROOT = Path(__file__).parents[2]
"""Of the checkout: where `python -m egressproxy` finds the package."""

SQUID_LINE = re.compile(
    r"\d{10}\.\d{3} +\d+ \S+ [A-Z_]+/\d{3} \d+ \S+ \S+ - "
    r"(?:(?:HIER_DIRECT|FIRSTUP_PARENT)/\S+|HIER_NONE/-) (?:-|[a-z]+/[a-z+.-]+)"
)
"""Any line of the Squid log, field by field."""

DEFECTS = re.compile(r"Traceback|a defect, |ResourceWarning|Exception ignored|never retrieved|never awaited")
"""What a healthy proxy never writes to its standard error."""

STARTED: list[Proxy] = []
"""Those whose output a failing test shows (see the e2e conftest)."""

_WITHOUT_MEANS = """
import ctypes, os, resource, sys
CAP_SYS_RESOURCE, PR_CAPBSET_DROP = 24, 24  # root without it cannot raise its own limit again
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Logged(NamedTuple):
    """What the access logs say: the same connections, in the order in which they ended."""

    records: list[dict[str, Any]]
    squid: list[str]


class Proxy:
    """One child process. Its ports are free ones, its logs `access.log` (Squid) and `access.json` in its folder."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any] | None = None,
        *,
        arguments: tuple[str, ...] | None = None,
        descriptors: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        prelude: str = "",
        watch: bool = False,
        fresh: bool = False,
    ) -> None:
        """`config`: native configuration; listeners, their ports, logs and admin port are filled in where they are left out.

        arguments       of `egressproxy run`; default: the configuration file
        descriptors     limit of open files, which the child cannot raise
        stdout, stderr  descriptors for standard output and error; default: files
        prelude         Python that runs in the child first
        watch           changes of the configuration are put into force without SIGHUP
        fresh           a new interpreter, in the network namespace of the thread that starts it; so it is with arguments,
                        descriptors or a prelude too. Otherwise a fork of one that has imported everything already
        """
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.config_file = folder / "egressproxy.yaml"
        self.squid_log, self.json_log = folder / "access.log", folder / "access.json"
        self._arguments = (str(self.config_file),) if arguments is None else arguments
        self._watch = watch
        self._descriptors = descriptors
        self._stdout = stdout
        self._stderr = stderr
        self._prelude = prelude
        self._fresh = fresh or arguments is not None or descriptors is not None or bool(prelude)
        self._process: subprocess.Popen[bytes] | nursery.Child | None = None
        self._marks = (0, 0)
        self.write_config(config or {})

    # --- its configuration ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """As HTTPS_PROXY takes it."""
        return f"http://127.0.0.1:{self.port}"

    def write_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the configuration file, whole at once; what was written."""
        whole = copy.deepcopy(config)
        for listener in whole.setdefault("listeners", [{"protocol": "http-proxy"}]):
            listener.setdefault("address", "127.0.0.1")
            listener.setdefault("port", self.port)
        whole.setdefault("admin", {"address": "127.0.0.1", "port": self.admin_port})
        whole.setdefault(
            "access_log",
            [{"format": "squid", "path": str(self.squid_log)}, {"format": "json", "path": str(self.json_log)}],
        )
        self.config = whole
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(json.dumps(whole, indent=1))  # JSON is YAML
        fresh.replace(self.config_file)
        return whole

    def reload(self, config: dict[str, Any]) -> bool:
        """SIGHUP with this configuration; whether it was taken."""
        self.write_config(config)
        return self.reload_as_written()

    def reload_as_written(self) -> bool:
        """SIGHUP with the file as it is; whether it was taken."""
        before = self.metric("config_generation"), self.metric("config_reload_failures_total")
        self.signal(signal.SIGHUP)

        def looked_at() -> bool:
            return (self.metric("config_generation"), self.metric("config_reload_failures_total")) != before

        eventually(looked_at, "the reload is done or refused")
        return self.metric("config_generation") > before[0]

    # --- its life -------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start, and wait until it is ready."""
        self.spawn()
        eventually(lambda: self.has_ended or self.ready, "the proxy is ready")
        assert self.has_ended is False, f"ended with {self.exit_code} at its start: {self.stderr}"
        return self

    def spawn(self) -> Self:
        """Start, and do not wait."""
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            stdout = out.fileno() if self._stdout is None else self._stdout
            stderr = err.fileno() if self._stderr is None else self._stderr
            if self._fresh:
                self._process = subprocess.Popen(
                    [sys.executable, *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    cwd=ROOT,
                    env=environment,
                )
            else:
                self._process = nursery.spawn(self._words(), environment, stdout, stderr)
        STARTED.append(self)
        return self

    def _words(self) -> list[str]:
        """What egressproxy is given."""
        return ["run", *self._arguments, *(() if self._watch else ("--no-watch",))]

    def _command(self) -> list[str]:
        """What the interpreter is given."""
        program = (
            ["-c", f"{self._prelude}\nfrom egressproxy.cli import main; main()"]
            if self._prelude
            else ["-m", "egressproxy"]
        )
        command = ["-W", "always::ResourceWarning", *program, *self._words()]
        if self._descriptors is not None:
            command = ["-c", _WITHOUT_MEANS, str(self._descriptors), *command]
        return command

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes] | nursery.Child:
        assert self._process is not None, "not started"
        return self._process

    @property
    def ready(self) -> bool:
        """What /readyz says; False while nobody answers there."""
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    @property
    def has_ended(self) -> bool:
        return self._running.poll() is not None

    @property
    def exit_code(self) -> int | None:
        return self._running.returncode

    def signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Wait until it has ended; the exit code."""
        return self._running.wait(timeout_s)

    def stop(self) -> int:
        """SIGTERM, and the exit code. What still runs after a while is killed, and that is a failure."""
        if not self.has_ended:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        finally:
            self._kill()

    def _kill(self) -> None:
        if not self.has_ended:
            self._running.kill()
            self._running.wait(WAIT_S)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            if self._process is not None:
                self._kill()
            raise

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._kill()
        else:
            self.end()

    def end(self) -> None:
        """Stop it, and check that it went in order, whoever asked for that, and had nothing to complain of."""
        assert self.stop() in (0, 130), f"exit code {self.exit_code}: {self.stderr}"
        assert not DEFECTS.search(self.stderr), self.stderr

    # --- what it says ---------------------------------------------------------------------------------------------

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        """Status and body of a page of the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=WAIT_S)
        try:
            connection.request("GET", path, headers={"Connection": "close", "Accept": accept})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def get_json(self, path: str) -> Any:
        """A page that is JSON."""
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name, `egressproxy_` left out, that have these labels."""
        return self._sums(labels, name)[0]

    def _sums(self, labels: dict[str, str], *names: str) -> list[float]:
        """The same of several names, at one moment."""
        sums = dict.fromkeys((f"egressproxy_{name}" for name in names), 0.0)
        text = self.get("/metrics")[1]
        lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] in sums]
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            for sample in family.samples:
                if labels.items() <= sample.labels.items():
                    sums[sample.name] += sample.value
        return list(sums.values())

    # --- what it logged -------------------------------------------------------------------------------------------

    def logged(self) -> Logged:
        """All lines of both logs so far."""
        return Logged([json.loads(line) for line in _lines(self.json_log)], _lines(self.squid_log))

    def settled(self) -> Logged:
        """Wait until no connection is open and all are in the logs, once each; the lines since the last time."""

        def all_are_in() -> bool:
            open_now, dropped, connections, requests = self._sums(
                {}, "connections_open", "log_lines_dropped_total", "connections_total", "requests_total"
            )
            if open_now or dropped:
                return False
            logged = self.logged()
            lines = [record for record in logged.records if record["event"] != "open"]
            # A connection with plain requests is counted with the first of them, and each of those has a line.
            firsts = sum(record.get("request") == 1 for record in lines)
            ended = connections + requests - firsts
            closed = len(lines)
            assert max(closed, len(logged.squid)) <= ended, f"{ended:g} lines are due, and more are in the logs"
            return bool(closed == len(logged.squid) == ended)

        eventually(all_are_in, "every connection has ended and is in both logs")
        logged = self.logged()
        (records, squid), self._marks = self._marks, (len(logged.records), len(logged.squid))
        new = Logged(logged.records[records:], logged.squid[squid:])
        for line in new.squid:
            assert SQUID_LINE.fullmatch(line), line
        return new

    def records(self, count: int) -> list[dict[str, Any]]:
        """Wait until the JSON log has this many lines; all of them. For logs that grow while tunnels stay open."""
        eventually(lambda: len(_lines(self.json_log)) >= count, f"{count} lines in {self.json_log.name}")
        return self.logged().records

    # --- what it takes --------------------------------------------------------------------------------------------

    def descriptors(self) -> int:
        """How many are open. An admin connection that has just been answered may still be among them."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names only

    def rss_kib(self) -> int:
        """Resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found, status
        return int(found[1])

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def listening(self) -> set[tuple[str, int]]:
        """Address, in hexadecimal as /proc has it, and port of every TCP socket that it listens on."""
        inodes = set()
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                inodes.add(str(entry.readlink()))
            except OSError:
                pass  # closed meanwhile
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    address, _, port = fields[1].partition(":")
                    found.add((address, int(port, 16)))
        return found

    def wait_at_rest(self, descriptors: int) -> None:
        """Wait until no connection is open and no more descriptors are than these."""
        eventually(lambda: self.metric("connections_open") == 0, "no connection is open")
        eventually(lambda: self.descriptors() <= descriptors, f"no more than {descriptors} descriptors are open")


def _lines(file: Path) -> list[str]:
    """The complete lines of a file; none if there is no file."""
    if not file.exists():
        return []
    text = file.read_text()
    return text[: text.rfind("\n") + 1].splitlines()


_KEPT: deque[int] = deque()
_MOST_KEPT = 32


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections.

    It is kept for a while: bound, but not listened on, by a socket that lets those bind to it who set SO_REUSEADDR, as the
    proxy does, and nobody who looks for a free one. Two test runs at once would else now and then find the same.
    """
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as keeper:
            try:
                keeper.bind((address, port))
            except OSError:
                continue
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # from now on, so that looking is still strict
            _KEPT.append(keeper.detach())
        if len(_KEPT) > _MOST_KEPT:
            os.close(_KEPT.popleft())
        return port
