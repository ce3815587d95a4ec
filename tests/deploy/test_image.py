"""The image: built from a base of this machine with the network taken away, then run as a cluster runs it.

buildah builds it and runc starts it: root file system read-only, user 10001, no capability, nothing writable mounted. As
root, with buildah, debootstrap and runc; minutes the first time, so `make image-test` runs it and `make test` does not.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import authority
from support.clients import connect_head, receive, run
from support.dns import DnsServer
from support.origin import NAME, TITLE, TcpOrigin, TlsOrigin, echo
from support.proxy import ROOT, free_port
from support.waiting import eventually

from egressproxy.config.schema.stages import Admin

pytestmark = pytest.mark.image

FOLDER = Path(os.environ.get("EGRESSPROXY_IMAGE_FOLDER", ROOT / ".image"))
"""Base, wheels and layers are kept here: they take minutes to make."""
BUILD_S = 1500.0
NUMBER = 10001
CAPABILITIES = ("bounding", "effective", "permitted", "inheritable", "ambient")


@pytest.fixture(scope="session", autouse=True)
def _means() -> None:
    missing = [name for name in ("buildah", "debootstrap", "runc", "unshare") if shutil.which(name, path=PATHS) is None]
    if sys.platform != "linux" or os.geteuid() != 0 or missing:
        pytest.skip(f"building an image needs root on Linux{', and ' + ', '.join(missing) if missing else ''}")


PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def buildah(*words: str) -> str:
    command = ["buildah", "--root", FOLDER / "storage", "--runroot", FOLDER / "run", "--storage-driver", "vfs", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def image() -> dict[str, Any]:
    """What the image says of itself, once it is built."""
    command = [ROOT / "tools/local-image", FOLDER, sys.executable]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=BUILD_S, check=False, env={**os.environ, "PATH": PATHS}
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(buildah("inspect", "--type", "image", "localhost/egressproxy"))["Docker"]["config"]
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="session")
def root(image: dict[str, Any]) -> Iterator[Path]:
    """The image's files."""
    container = buildah("from", "--pull-never", "localhost/egressproxy").strip()
    try:
        yield Path(buildah("mount", container).strip())
    finally:
        buildah("rm", container)


class Container:
    """One at work, of this image. Its network is this machine's, so that loopback is where the tests are."""

    def __init__(self, folder: Path, root: Path, image: dict[str, Any], mounts: dict[str, Path]) -> None:
        """`mounts`: what is seen where, read-only."""
        self.name = f"egressproxy-test-{secrets.token_hex(6)}"
        self._bundle = folder / "bundle"
        self._state = folder / "runc"
        self.folder = folder
        self._spec = _spec(root, image, mounts)
        self.environment: list[str] = self._spec["process"]["env"]
        self._health: list[str] = image["Healthcheck"]["Test"][1:]
        self._runtime: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        """Its first process: the image's own, or this one."""
        self._bundle.mkdir()
        if arguments:
            self._spec["process"]["args"] = list(arguments)
        (self._bundle / "config.json").write_text(json.dumps(self._spec))
        with (self.folder / "stdout").open("wb") as out, (self.folder / "stderr").open("wb") as err:
            self._runtime = subprocess.Popen(
                self._runc("run", "--bundle", str(self._bundle), self.name),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _runc(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self._state), *words]

    def wait(self) -> int:
        """Until it has ended; its exit code."""
        assert self._runtime is not None
        return self._runtime.wait(60)

    @property
    def pid(self) -> int:
        """Of its first process, as this machine numbers it."""
        done = run(*self._runc("state", self.name), folder=self.folder)
        return int(json.loads(done.out)["pid"])

    @property
    def healthy(self) -> bool:
        """What the image's HEALTHCHECK says, run inside with the same rights."""
        file = self.folder / "process.json"
        file.write_text(json.dumps({**self._spec["process"], "args": self._health}))
        return run(*self._runc("exec", "--process", str(file), self.name), folder=self.folder, code=None).code == 0

    @property
    def output(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def words(self) -> str:
        return (self.folder / "stderr").read_text()

    def end(self) -> None:
        if self._runtime is not None and self._runtime.poll() is None:
            run(*self._runc("kill", self.name, "KILL"), folder=self.folder, code=None)
            self._runtime.wait(60)
        run(*self._runc("delete", "--force", self.name), folder=self.folder, code=None)


def _spec(root: Path, image: dict[str, Any], mounts: dict[str, Path]) -> dict[str, Any]:
    """What Kubernetes makes of an image under the Pod Security Standard `restricted` and readOnlyRootFilesystem."""
    uid, gid = map(int, image["User"].split(":"))
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": [*image["Entrypoint"], *image["Cmd"]],
            "env": image["Env"],
            "cwd": image["WorkingDir"],
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in CAPABILITIES},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "mode=755", "size=64k"],
            },
            *(
                {"destination": inside, "type": "bind", "source": str(outside), "options": ["rbind", "ro"]}
                for inside, outside in mounts.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }


@pytest.fixture
def contained(tmp_path: Path, root: Path, image: dict[str, Any]) -> Iterator[Callable[..., Container]]:
    """Makes a container for one test."""
    made: list[Container] = []

    def make(config: Path | None = None) -> Container:
        made.append(Container(tmp_path, root, image, {} if config is None else {"/etc/egressproxy": config}))
        return made[-1]

    yield make
    for container in made:
        container.end()


# --- what it is ----------------------------------------------------------------------------------------------------


def test_it_says_how_it_is_run(image: dict[str, Any]) -> None:
    assert image["User"] == f"{NUMBER}:{NUMBER}"
    assert (image["Entrypoint"], image["Cmd"]) == (["egressproxy"], ["run", "/etc/egressproxy"])
    assert image["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"][:2] == ["CMD", "python"], "no shell between"
    labels = image["Labels"]
    version = run(sys.executable, "-m", "egressproxy", "--version", folder=ROOT).out.split()[1]
    assert labels["org.opencontainers.image.version"] == version
    revision = run("sh", "-c", "git rev-parse HEAD 2>/dev/null || echo unknown", folder=ROOT).out.strip()
    assert labels["org.opencontainers.image.revision"] == revision
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"org.opencontainers.image.title", "org.opencontainers.image.description"} <= set(labels)


def test_its_health_is_looked_for_where_the_admin_pages_are_by_default(image: dict[str, Any]) -> None:
    assert f"EGRESSPROXY_ADMIN_PORT={Admin().port}" in image["Env"]
    assert image["Healthcheck"]["Interval"] * image["Healthcheck"]["Retries"] == 30e9, "30 s, in nanoseconds"
    assert {f"{port}/tcp" for port in (3128, 8080, 8443, Admin().port)} == set(image["ExposedPorts"])


def test_nothing_is_left_that_builds_or_installs(root: Path) -> None:
    tools = re.compile(
        r"(?:.*-)?(?:pip[0-9.]*|gcc|g\+\+|cc|c\+\+|make|ld|as)(?:-[0-9.]+)?|setuptools|wheel|hatchling|pip-.*"
    )
    places = {"bin", "sbin", "site-packages", "dist-packages"}
    found = [
        str(Path(folder, name).relative_to(root))
        for folder, folders, names in os.walk(root)
        for name in (*folders, *names)
        if (Path(folder).name in places and tools.fullmatch(name)) or name == "ensurepip" or name.endswith(".whl")
    ]
    assert found == []
    assert not (root / "source").exists()
    assert not (root / "etc/pip.conf").exists(), "where packages came from is nobody's business"


# --- how it runs ---------------------------------------------------------------------------------------------------

LOOKS = """
import os, egressproxy.cli
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")), int(status["NoNewPrivs"]))
print(os.getpid(), os.getuid(), os.getgid(), os.getgroups())
writable = []
for folder, folders, names in os.walk("/"):
    if folder == "/":
        folders[:] = set(folders) - {"proc"}
    try:
        name = os.path.join(folder, "written")
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
        writable.append(folder)
    except OSError:
        pass
print(writable)
"""


def test_it_has_no_right_and_no_place_to_write(contained: Callable[..., Container]) -> None:
    container = contained()
    container.start("python", "-c", LOOKS)
    assert container.wait() == 0, container.words
    assert container.output.splitlines() == ["0 0 0 0 0 1", f"1 {NUMBER} {NUMBER} []", "[]"]


def test_its_bytecode_is_there_already(contained: Callable[..., Container]) -> None:
    container = contained()
    container.start("python", "-v", "-c", "import egressproxy.runtime.supervisor, egressproxy.config.load, http.client")
    assert container.wait() == 0, container.words
    sources = re.findall(r"^# code object from (.*)", container.words, re.MULTILINE)
    kept = [source for source in sources if source.startswith("'/opt/egressproxy/bytecode/")]
    assert sorted(set(sources) - set(kept)) == []
    assert any("site-packages/egressproxy/runtime/supervisor" in source for source in kept)


def test_without_a_configuration_it_says_so_and_ends(contained: Callable[..., Container]) -> None:
    container = contained()
    container.start()
    assert container.wait() == 1
    assert "/etc/egressproxy" in container.words


def test_it_serves_curl_reloads_and_drains(contained: Callable[..., Container], tmp_path: Path) -> None:
    folder, port, admin_port = tmp_path / "config", free_port(), free_port()
    folder.mkdir()
    file = folder / "proxy.yaml"
    (tmp_path / "ca.pem").write_bytes(authority().cert_pem.bytes())
    with DnsServer() as dns, TlsOrigin(tmp_path) as origin, TcpOrigin(echo) as echoes:
        dns.add(NAME, "A", "127.0.0.1")
        config = {
            "listeners": [{"protocol": "http-proxy", "address": "127.0.0.1", "port": port}],
            "allow": [f"{NAME}:{origin.port}"],
            "guard": {"allow": ["127.0.0.1/32"]},
            "dns": {"servers": [dns.address]},
            "admin": {"address": "127.0.0.1", "port": admin_port},
            "access_log": [{"format": "squid", "path": "-"}],
        }
        file.write_text(json.dumps(config))
        container = contained(config=folder)
        container.environment.append(f"EGRESSPROXY_ADMIN_PORT={admin_port}")
        container.start()

        def page(path: str) -> str:
            return run("curl", "-sf", f"http://127.0.0.1:{admin_port}{path}", folder=tmp_path, code=None).out

        eventually(lambda: page("/readyz"), "it is ready")
        fetch = ("curl", "-sS", "--proxy", f"http://127.0.0.1:{port}", "--cacert", str(tmp_path / "ca.pem"))
        assert TITLE in run(*fetch, origin.url(), folder=tmp_path).out
        assert run(*fetch, f"https://{NAME}:1/", folder=tmp_path, code=56).code == 56, "refused, by the policy"
        eventually(lambda: "TCP_DENIED/403" in container.output, "both are in the log")
        assert "TCP_TUNNEL/200" in container.output
        assert container.healthy

        config["rules"] = [
            {"name": "echo", "action": "allow", "hosts": ["127.0.0.1"], "ports": [echoes.port], "require_tls": False}
        ]
        file.write_text(json.dumps(config))
        os.kill(container.pid, signal.SIGHUP)
        eventually(lambda: '"generation": 2' in page("/config"), "the first process heard SIGHUP")

        with socket.create_connection(("127.0.0.1", port), 30) as tunnel:
            tunnel.sendall(connect_head(echoes.target))
            assert receive(tunnel, 39).startswith(b"HTTP/1.1 200")
            os.kill(container.pid, signal.SIGTERM)
            eventually(lambda: not page("/readyz"), "it drains")
            assert not container.healthy
            tunnel.sendall(b"still here")
            assert receive(tunnel, 10) == b"still here"
        assert container.wait() == 0
    assert "stopped: no tunnel was cut" in container.words
    assert not re.search("Traceback|WARNING|ERROR|Read-only|denied", container.words), container.words
