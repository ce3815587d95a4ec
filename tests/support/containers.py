"""A container of the manifests at work, as far as that can be had without an image: in a pod of the test's own.

    with Pod("proxy") as pod:
        volumes = Volumes(pod, folder, container, objects.config_maps)
        with Running(pod, folder, container) as proxy:
            print(proxy.execute("tail", "/var/log/squid/access.log").out)

It runs the manifest's own command as the manifest's own user, without capabilities, on a root that is read-only, among volumes
that are laid out as the kubelet lays them out. What an image would add is this machine's: its Python, its `sh` and `tail`.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from scenarios.pods import Pod, copy_of_etc, need_pods
from support.clients import Done, installed
from support.manifests import Container
from support.proxy import ROOT
from support.tls_servers import Mounted
from support.waiting import WAIT_S

_PROGRAMS = "/mnt"
"""Where `egressproxy` stands in the pod. The folder is there on every Linux, and empty."""


class Volumes:
    """The volumes of one pod, in folders of their own, and the files that this machine lends it."""

    def __init__(
        self, pod: Pod, folder: Path, container: Container, config_maps: Mapping[str, Mapping[str, str]]
    ) -> None:
        """`pod`: gets them at their paths, and a root that is read-only."""
        self.folder = folder
        self.mounted: dict[str, Mounted] = {}
        paths = self._paths(container)
        for volume in container.pod["volumes"]:
            place = folder / volume["name"]
            if volume["name"] not in paths:
                continue  # of another container
            if "configMap" in volume:
                files = {key: text.encode() for key, text in config_maps[volume["configMap"]["name"]].items()}
                self.mounted[volume["name"]] = Mounted(place, **files)
            else:
                place.mkdir()
                assert "emptyDir" in volume or volume["secret"]["optional"], volume
                place.chmod(0o777 if "emptyDir" in volume else 0o755)
        etc = copy_of_etc(folder, *(path.removeprefix("/etc/") for path in paths.values() if path.startswith("/etc/")))
        self.hosts = etc / "hosts"
        logs = folder / "logs"
        logs.mkdir()
        for path in paths.values():
            assert path.startswith(("/etc/", "/var/log/")), f"{path}: a place that this test cannot mount to"
            if path.startswith("/var/log/"):
                (logs / path.removeprefix("/var/log/")).mkdir()
        pod.mount(etc, "/etc")
        pod.mount(logs, "/var/log")
        for name, path in paths.items():
            pod.mount(folder / name, path)
        pod.mount(self._programs(), _PROGRAMS)
        _open_ways(pod, folder / "ways")
        pod.run("mount", "-o", "remount,ro,bind", "/")

    def _paths(self, container: Container) -> dict[str, str]:
        return {mount["name"]: mount["mountPath"] for mount in container.spec["volumeMounts"]}

    def _programs(self) -> Path:
        programs = self.folder / "programs"
        programs.mkdir()
        program = programs / "egressproxy"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m egressproxy "$@"\n')
        program.chmod(0o755)
        return programs


def _open_ways(pod: Pod, folder: Path) -> None:
    """Let every user of the pod come to this checkout and its Python, which may stand below a closed folder (root's home)."""
    closed: dict[Path, Path] = {}
    for needed in {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, ROOT)}:
        barred = next((parent for parent in reversed(needed.parents) if not parent.stat().st_mode & stat.S_IXOTH), None)
        if barred is not None:
            stage = closed.setdefault(barred, folder / str(len(closed)))
            way = stage / needed.relative_to(barred)
            way.mkdir(parents=True)
            pod.mount(needed, str(way))
    for barred, stage in closed.items():
        pod.run("mount", "--rbind", stage, barred)


class Running:
    """One container. Leaving the block ends it by SIGTERM and checks that it went in order."""

    def __init__(self, pod: Pod, folder: Path, container: Container, **environment: str) -> None:
        """`folder`: its output. `environment`: in place of what the manifest says."""
        self.pod = pod
        self._container = container
        self._output = folder / f"{container.spec['name']}.out"
        self._errors = folder / f"{container.spec['name']}.err"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def out(self) -> str:
        """What it said on standard output."""
        return self._output.read_text()

    @property
    def err(self) -> str:
        return self._errors.read_text()

    @property
    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def __enter__(self) -> Self:
        spec = self._container.spec
        command = as_container(self._container, *spec["command"], *spec.get("args", ()))
        with self._output.open("wb") as out, self._errors.open("wb") as err:
            # As container runtimes do it: the user may open its own standard output again, by /dev/stdout.
            for stream in (out, err):
                os.fchown(stream.fileno(), self._user, self._user)
            self._process = self.pod.call(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd="/",
                    env=environment_of(self._container) | self._environment,
                )
            )
        return self

    @property
    def _user(self) -> int:
        return user_of(self._container)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        process = self._process
        assert process is not None
        if kind is not None:
            process.kill()
        else:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(WAIT_S)
        finally:
            process.kill()
            process.wait()
        assert kind is not None or code == 0, f"exit code {code}: {self.err}"

    def execute(self, *command: str) -> Done:
        """What `kubectl exec POD -- COMMAND` prints."""
        return self.pod.run(
            *as_container(self._container, *command), folder=Path("/"), variables=environment_of(self._container)
        )


def check(pod: Pod, container: Container) -> Done:
    """What `egressproxy check` says of the configuration that a container runs with."""
    words = " ".join((*container.spec["command"], *container.spec.get("args", ())))
    configs = words.partition("egressproxy run ")[2].split()
    assert configs, words
    command = as_container(container, "egressproxy", "check", *configs)
    return pod.run(*command, folder=Path("/"), variables=environment_of(container), code=None)


def user_of(container: Container) -> int:
    """The user that a container runs as."""
    settings: dict[str, Any] = container.pod.get("securityContext", {}) | container.spec.get("securityContext", {})
    return int(settings["runAsUser"])


def environment_of(container: Container) -> dict[str, str]:
    """The environment of a container."""
    written = {each["name"]: each["value"] for each in container.spec.get("env", ())}
    return {"PATH": f"{_PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **written}


def as_container(container: Container, *command: str) -> list[str]:
    """A command as the container's user, without capabilities or a way to any."""
    user = str(user_of(container))
    rights = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return [installed("setpriv"), "--reuid", user, "--regid", user, "--clear-groups", *rights, "--", *command]


def need_containers() -> None:
    """Skip the test, and say why, where the containers of the manifests cannot be had."""
    need_pods("setpriv", "mount")
