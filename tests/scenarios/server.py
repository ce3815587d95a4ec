"""A server of one's own inside the cluster, run from a scenario's files: its certificates, its mounted secrets, its NGINX."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from scenarios.edition import file
from scenarios.world import SERVER, World
from support.certificates import other_authority
from support.clients import run
from support.waiting import WAIT_S, eventually

GATEWAY_NAMESPACE = "istio-system"

_BASE64 = re.compile(r"@BASE64\(([^)]+)\)@")


def certificates(commands: str, parent: Path) -> Path:
    """A folder below `parent` with what these openssl commands make. Each set of commands is run once."""
    folder = parent / f"certificates-{hashlib.sha256(commands.encode()).hexdigest()[:16]}"
    if not folder.exists():
        folder.mkdir()
        run("sh", "-e", "-c", commands, folder=folder)
    return folder


def filled(template: Path, folder: Path) -> str:
    """Secrets of a template, with the files that it names."""

    def content(found: re.Match[str]) -> str:
        return base64.b64encode((folder / found[1]).read_bytes()).decode()

    return _BASE64.sub(content, template.read_text())


def other_authoritys_pem() -> bytes:
    """An authority that signed nothing here."""
    return other_authority().cert_pem.bytes()


class Scenario:
    """The files of one scenario with a server, and the certificates that its commands make."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.certificates = certificates(file(name, "openssl-commands").read_text(), world.folder)
        self.template = file(name, "secrets.template")
        self.secrets = filled(self.template, self.certificates)

    def secrets_in(self, namespace: str) -> list[dict[str, Any]]:
        """The Secrets of a namespace, as Kubernetes has them."""
        return [each for each in yaml.safe_load_all(self.secrets) if each["metadata"]["namespace"] == namespace]

    def mount(self, mounts: dict[str, str], namespace: str) -> None:
        """Show Secrets of a namespace at these paths, which are below /etc: a file for each of their keys."""
        data = {each["metadata"]["name"]: each["data"] for each in self.secrets_in(namespace)}
        for path, name in mounts.items():
            folder = self.world.etc / Path(path).relative_to("/etc")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for key, text in data[name].items():
                (folder / key).write_bytes(base64.b64decode(text))

    def _deployment(self) -> dict[str, Any]:
        """Of the server."""
        documents = yaml.safe_load_all(file(self.name, "server-service-deployment").read_text())
        (deployment,) = (each for each in documents if each["kind"] == "Deployment")
        return dict(deployment)

    def mounts_of_server(self) -> dict[str, str]:
        """Paths in the server's pod, and the secrets there."""
        pod = self._deployment()["spec"]["template"]["spec"]
        secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
        mounts = pod["containers"][0]["volumeMounts"]
        return {each["mountPath"]: secrets[each["name"]] for each in mounts if each["name"] in secrets}

    def mounts_of_gateway(self) -> dict[str, str]:
        """Paths in the gateway's pod after its patch, and the secrets there."""
        added = [each["value"] for each in json.loads(file(self.name, "gateway-patch").read_text())]
        secrets = {each["name"]: each["secret"]["secretName"] for each in added if "secret" in each}
        return {each["mountPath"]: secrets[each["name"]] for each in added if "mountPath" in each}

    @contextmanager
    def served(self, change: tuple[str, str] = ("", "")) -> Iterator[Path]:
        """Run the server from its published file, a change of which may be asked for; its access log."""
        world = self.world
        self.mount(self.mounts_of_server(), self._deployment()["metadata"]["namespace"])
        text = file(self.name, "server-nginx.conf").read_text()
        assert change[0] in text
        (world.etc / "nginx" / "nginx.conf").write_text(text.replace(*change))
        log = world.logs / "server" / "nginx" / "access.log"
        log.unlink(missing_ok=True)
        pid = world.folder / "server.pid"
        words = ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf", "-g", f"daemon off; pid {pid};"]
        process = world.server.call(subprocess.Popen, words)
        try:
            eventually(self._answers, "the server listens")
            yield log
        finally:
            process.terminate()
            process.wait(WAIT_S)

    def _answers(self) -> bool:
        def dial() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex((SERVER, 443)) == 0

        return self.world.server.call(dial)
