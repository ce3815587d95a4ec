"""A kernel without IPv6, for one process and what it starts: Python that runs first there, as a `prelude` of `support.proxy`.

A filter of system calls (seccomp) answers each socket(AF_INET6, ...) as such a kernel does, with EAFNOSUPPORT.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PRELUDE = """
import ctypes, errno, platform, socket, struct, sys
LOAD, IS, RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
ALLOW, FAIL = 0x7FFF0000, 0x00050000  # linux/seccomp.h
NUMBER, FIRST_ARGUMENT = 0, 16  # of struct seccomp_data, where a long begins with its lower half
SOCKET = {"x86_64": 41, "aarch64": 198}
steps = [
    (LOAD, 0, 0, NUMBER),
    (IS, 0, 3, SOCKET.get(platform.machine(), 0)),
    (LOAD, 0, 0, FIRST_ARGUMENT),
    (IS, 0, 1, socket.AF_INET6),
    (RETURN, 0, 0, FAIL | errno.EAFNOSUPPORT),
    (RETURN, 0, 0, ALLOW),
]
filter_ = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(filter_)))
prctl = ctypes.CDLL(None).prctl
# PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP with SECCOMP_MODE_FILTER
if platform.machine() not in SOCKET or prctl(38, 1, 0, 0, 0) or prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program))):
    sys.exit(77)
"""


def need_filters() -> None:
    """Skip the test where system calls cannot be filtered."""
    if sys.platform != "linux" or subprocess.run([sys.executable, "-c", PRELUDE], check=False).returncode == 77:
        pytest.skip("system calls cannot be filtered here")
