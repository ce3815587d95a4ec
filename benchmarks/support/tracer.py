"""Runs egressproxy as its command does and, from SIGUSR2 on, counts the bytecodes and calls of every Python function.

    python -m benchmarks.support.tracer COUNTS.json run proxy.yaml

Counting is exact and makes everything some thirty times slower: for counts, never for times. The counts are written at the
end, as a list of [file, function, bytecodes, calls].
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

_bytecodes: Counter[tuple[str, str]] = Counter()
_calls: Counter[tuple[str, str]] = Counter()


def _step(frame: FrameType, event: str, _: Any) -> Any:
    if event == "opcode":
        code = frame.f_code
        _bytecodes[code.co_filename, code.co_name] += 1
    return _step


def _enter(frame: FrameType, _event: str, _: Any) -> Any:
    code = frame.f_code
    if "/benchmarks/" in code.co_filename:
        return None
    frame.f_trace_opcodes = True
    frame.f_trace_lines = False
    _calls[code.co_filename, code.co_name] += 1
    return _step


def main() -> None:
    """Run, and write the counts whatever happens."""
    from egressproxy import cli

    out = Path(sys.argv[1])
    sys.argv[1:2] = []
    signal.signal(signal.SIGUSR2, lambda *_: sys.settrace(_enter))
    try:
        cli.main()
    finally:
        sys.settrace(None)
        rows = [[file, name, count, _calls[file, name]] for (file, name), count in _bytecodes.items()]
        out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
