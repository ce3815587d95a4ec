"""Pods: hosts of the test's own, as in support.namespaces, that have files of their own as well.

    with Pod("proxy") as pod:
        pod.mount(folder, "/var/log/nginx")
        pod.run("nginx", folder=folder)         # logs into that folder

Published configurations name the paths at which their pods see mounted files: /etc/nginx-server-certs, /var/log/nginx. Here
they find them there, and the machine's own /etc and /var/log are not touched: what is mounted is seen in the pod only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest
from support.namespaces import Namespace, need_namespaces

T = TypeVar("T")

# linux/sched.h and linux/mount.h
_CLONE_FS = 0x200
_CLONE_NEWNS = 0x2_0000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class Pod(Namespace):
    """One pod. A context manager, as a Namespace is."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._files = -1

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._files = super().call(_new_mounts)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        if self._files >= 0:
            os.close(self._files)
            self._files = -1
        super().__exit__(*details)

    def call(self, function: Callable[..., T], *arguments: Any, uid: int = 0) -> T:
        """What the function returns or raises, among the network and the files of the pod."""
        if self._files < 0:
            return super().call(function, *arguments, uid=uid)

        def inside() -> T:
            _check(_libc.unshare(_CLONE_FS))  # this thread's own root, or the kernel would move all of the process
            _check(_libc.setns(self._files, _CLONE_NEWNS))
            return function(*arguments)

        return super().call(inside, uid=uid)

    def mount(self, source: Path, target: str, *, read_only: bool = False) -> None:
        """Show a file or folder at a path, which must exist, to the programs of this pod."""

        def bind() -> None:
            _mount(str(source), target, _MS_BIND)
            if read_only:
                _mount("none", target, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)

        self.call(bind)


def need_pods(*programs: str) -> None:
    """Skip the test, and say why, where pods cannot be made or one of the programs is missing."""
    need_namespaces(*programs)
    try:
        with Namespace("trial") as trial:
            os.close(trial.call(_new_mounts))
    except OSError as error:
        pytest.skip(f"mount namespaces cannot be made here: {error.strerror}")


def copy_of_etc(folder: Path, *empty: str) -> Path:
    """A copy of this machine's /etc in the folder, to be mounted in its place, with empty folders of these names below it."""
    etc = folder / "etc"
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    for name in empty:
        shutil.rmtree(etc / name, ignore_errors=True)
        (etc / name).mkdir(parents=True)
    return etc


def _new_mounts() -> int:
    """A descriptor of a new set of mounts, which this thread goes into."""
    _check(_libc.unshare(_CLONE_NEWNS))
    _mount("none", "/", _MS_REC | _MS_PRIVATE)  # what is mounted in it is seen by nobody else
    return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def _mount(source: str, target: str, flags: int) -> None:
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def _check(result: int, name: str | None = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
