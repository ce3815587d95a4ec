"""A certificate authority for one run, and the certificate of the TLS origin."""

from __future__ import annotations

from pathlib import Path

from benchmarks.support.errors import Unavailable


def write_certificates(folder: Path, host: str) -> tuple[Path, Path]:
    """The authority's certificate, and the chain with its key of an origin called `host`. Raises Unavailable."""
    try:
        import trustme
    except ImportError as error:
        raise Unavailable(
            "trustme, which makes the TLS origin's certificate, is not installed (pip install trustme)"
        ) from error
    authority, chain = folder / "ca.pem", folder / "origin.pem"
    maker = trustme.CA()
    maker.cert_pem.write_to_path(authority)
    maker.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(chain)
    return authority, chain
