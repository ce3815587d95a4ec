"""Give a target to libFuzzer: `python tests/fuzz/run.py client_hello [libFuzzer's options and corpus folders]`.

`make fuzz` does it for a minute, beginning with the recorded hellos (more: `make fuzz ARGS=-max_total_time=3600`). Inputs
that reach something new are kept in the first folder named, `.fuzz/client_hello`. One that breaks the invariant is left as
`.fuzz/crash-*`, and run again with `.venv/bin/python tests/fuzz/run.py client_hello .fuzz/crash-...`; its bytes then go
into `test_client_hello_corpus.py`. Needs the dependency group `fuzz`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).parent.parent

if __name__ == "__main__":
    name = sys.argv.pop(1)
    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=["egressproxy"]):
        target = importlib.import_module(f"fuzz.{name}")
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()
