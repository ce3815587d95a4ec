"""`python -m egressproxy`: the same as the command `egressproxy`."""

from egressproxy.cli import main

if __name__ == "__main__":
    main()
