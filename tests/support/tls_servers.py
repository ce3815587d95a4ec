"""Services that the proxy speaks TLS to: real servers on loopback; and the files to reach them with, as operators have them."""

from __future__ import annotations

import functools
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.certificates import authority
from support.peers import listening

from egressproxy.config.schema.config import Config
from egressproxy.identities import Identities
from egressproxy.model import Endpoint

HOST = "origin.example.test"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SERVER_WAIT_S = 10.0


class Seen(NamedTuple):
    """What a server has seen of one connection that was secured."""

    server_name: str | None
    resumed: bool
    subject: str | None
    alpn: str | None
    version: str | None


class TlsServer:
    """Secures each connection and answers whatever comes, once. `seen`: the connections that it has answered."""

    def __init__(self, context: ssl.SSLContext, *, host: str = "127.0.0.1") -> None:
        self._names: dict[ssl.SSLObject | ssl.SSLSocket, str | None] = {}
        context.sni_callback = self._note_name
        self._context = context
        self._sock = listening(host=host)
        self.endpoint = Endpoint(*self._sock.getsockname()[:2])
        self.seen: list[Seen] = []
        self._serving: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, name="tls server", daemon=True)

    def _note_name(self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        self._names[tls] = name

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(SERVER_WAIT_S)
        self._sock.close()
        for thread in self._serving:
            thread.join(SERVER_WAIT_S)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            client.settimeout(SERVER_WAIT_S)
            thread = threading.Thread(target=self._answer, args=(client,), name="tls server's client", daemon=True)
            self._serving.append(thread)
            thread.start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                with self._context.wrap_socket(client, server_side=True) as tls:
                    if tls.recv(1000):
                        self.seen.append(self._seen(tls))
                        tls.sendall(ANSWER)
                        tls.recv(1)
            except OSError:
                pass  # the test is told by the other side

    def _seen(self, tls: ssl.SSLSocket) -> Seen:
        subject = dict(pair for (pair,) in (tls.getpeercert() or {}).get("subject", ()))
        return Seen(
            server_name=self._names.pop(tls, None),
            resumed=tls.session_reused or False,
            subject=subject.get("commonName"),
            alpn=tls.selected_alpn_protocol(),
            version=tls.version(),
        )


def server_context(leaf: Any = None, *, version: ssl.TLSVersion | None = None, client_ca: Path | None = None) -> Any:
    """Speaks as HOST, or as the certificate says: of trustme, or a pair of files. `client_ca`: asks for a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if isinstance(leaf, Pair):
        context.load_cert_chain(leaf.certificate, leaf.key)
    else:
        (leaf or origin_certificate()).configure_cert(context)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2", "http/1.1", "http/1.0"])
    return context


@functools.cache
def origin_certificate() -> Any:
    return authority().issue_cert(HOST)


# --- files --------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    certificate: Path
    key: Path


def write_ca(folder: Path, ca: Any = None, name: str = "ca.pem") -> Path:
    path = folder / name
    path.write_bytes((ca or authority()).cert_pem.bytes())
    return path


def write_pair(folder: Path, leaf: Any, names: tuple[str, str] = ("client.pem", "client.key")) -> Pair:
    pair = Pair(*(folder / name for name in names))
    pair.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    pair.key.write_bytes(leaf.private_key_pem.bytes())
    return pair


class Mounted:
    """A secret as Kubernetes mounts it: files are links through `..data`, which is moved to a new folder as a whole."""

    def __init__(self, folder: Path, **files: bytes) -> None:
        self.folder = folder
        self._generation = 0
        folder.mkdir(parents=True)
        self.swap(**files)

    def swap(self, **files: bytes) -> None:
        """Names with `_` for the dot: tls_crt, ca_crt."""
        self._generation += 1
        fresh = self.folder / f"..2026_{self._generation}"
        fresh.mkdir()
        names = {name.replace("_", "."): data for name, data in files.items()}
        for name, data in names.items():
            (fresh / name).write_bytes(data)
        link = self.folder / "..data_tmp"
        link.symlink_to(fresh.name)
        old = (self.folder / "..data").resolve() if (self.folder / "..data").exists() else None
        link.replace(self.folder / "..data")
        for name in names:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        for path in self.folder.iterdir():
            if not path.name.startswith("..") and path.name not in names:
                path.unlink()
        if old is not None:
            shutil.rmtree(old)


def secret_of(leaf: Any = None, ca: Any = None) -> dict[str, bytes]:
    """What a secret holds, for `Mounted`."""
    files = {} if ca is None else {"ca_crt": ca.cert_pem.bytes()}
    if leaf is not None:
        files["tls_crt"] = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        files["tls_key"] = leaf.private_key_pem.bytes()
    return files


class Documented(NamedTuple):
    """Certificates as the documents make them: the leaves are X.509 v1, without names; the server's serial number is 0."""

    ca: Path
    server: Pair
    client: Pair


def documented(folder: Path) -> Documented:
    """Made by the openssl command, which Debian always has."""
    for name, data in _documented().items():
        (folder / name).write_bytes(data)
    pairs = (Pair(folder / f"old-{number}.crt", folder / f"old-{number}.key") for number in range(2))
    return Documented(folder / "old.crt", *pairs)


@functools.cache
def _documented() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _openssl(
            "req -x509 -sha256 -nodes -days 30 -newkey rsa:2048 -subj", "/O=Old Ways/CN=old.example.test",
            "-keyout", f"{folder}/old.key", "-out", f"{folder}/old.crt",
        )  # fmt: skip
        for serial, subject in enumerate((f"/CN={HOST}/O=a server", "/CN=caller.example.test/O=a client")):
            own = f"{folder}/old-{serial}"
            _openssl("req -newkey rsa:2048 -nodes -subj", subject, "-out", f"{own}.csr", "-keyout", f"{own}.key")
            _openssl(
                f"x509 -req -days 30 -set_serial {serial} -CA", f"{folder}/old.crt", "-CAkey", f"{folder}/old.key",
                "-in", f"{own}.csr", "-out", f"{own}.crt",
            )  # fmt: skip
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def signed_by_itself(folder: Path, *extensions: str) -> Pair:
    """For HOST, and no authority. `extensions`: more of them, as the openssl command takes them."""
    pair = Pair(folder / "self.crt", folder / "self.key")
    _openssl(
        "req -x509 -nodes -newkey rsa:2048 -days 2 -addext basicConstraints=critical,CA:FALSE",
        *(word for each in extensions for word in ("-addext", each)),
        "-addext", f"subjectAltName=DNS:{HOST}", "-subj", f"/CN={HOST}",
        "-out", str(pair.certificate), "-keyout", str(pair.key),
    )  # fmt: skip
    return pair


class Expired(NamedTuple):
    """An authority whose time is over, and a certificate for HOST that it has signed, which is good for a while."""

    ca: Path
    alone: Pair
    with_ca: Pair


def expired_authority(folder: Path, not_after: datetime) -> Expired:
    """PEM files in the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "of old times")])
    long_ago = not_after - timedelta(days=30)
    certificates = []
    for is_ca, last_day in ((True, not_after), (False, datetime.now(UTC) + timedelta(days=1))):
        extension = x509.BasicConstraints(True, None) if is_ca else x509.SubjectAlternativeName([x509.DNSName(HOST)])
        subject = name if is_ca else x509.Name([])
        built = x509.CertificateBuilder(
            name, subject, key.public_key(), x509.random_serial_number(), long_ago, last_day
        )
        signed = built.add_extension(extension, critical=True).sign(key, hashes.SHA256())
        certificates.append(signed.public_bytes(serialization.Encoding.PEM))
    own = folder / "expired.key"
    own.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    made = {"expired-ca": certificates[0], "alone": certificates[1], "both": certificates[1] + certificates[0]}
    for stem, data in made.items():
        (folder / f"{stem}.pem").write_bytes(data)
    ca, alone, both = (folder / f"{stem}.pem" for stem in made)
    return Expired(ca, Pair(alone, own), Pair(both, own))


def _openssl(words: str, *arguments: str) -> None:
    subprocess.run(["openssl", *words.split(), *arguments], check=True, capture_output=True, timeout=30)


# --- configurations -----------------------------------------------------------------------------------------------


def config_of(
    *services: dict[str, Any], directory: Path | None = None, inline: dict[str, dict[str, bytes]] | None = None
) -> Config:
    """A configuration with these services, each by what it has beside a host and a port.

    inline  secrets that are written out, as `secret_of` makes them
    """
    secrets: dict[str, Any] = {} if directory is None else {"directory": str(directory)}
    if inline is not None:
        secrets["inline"] = {
            secret: {name.replace("_", "."): data.decode() for name, data in files.items()}
            for secret, files in inline.items()
        }
    return Config.model_validate(
        {
            "listeners": [{"protocol": "http", "address": "127.0.0.1", "port": 8080}],
            "services": [
                {"hosts": [f"s{number}.example.test"], "ports": [{"number": 80, "protocol": "HTTP"}], **service}
                for number, service in enumerate(services)
            ],
            "secrets": secrets,
        }
    )


def tls_of(**settings: Any) -> dict[str, Any]:
    """A service with this `tls`."""
    return {
        "tls": {
            "mode": "simple",
            **{key: str(value) if isinstance(value, Path) else value for key, value in settings.items()},
        }
    }


def identity_of(**settings: Any) -> Any:
    """The identity of the one service with this `tls`."""
    return Identities.load(config_of(tls_of(**settings))).of(0)


def look_until_found(identities: Identities) -> Any:
    """As the refresher does: a change is found by the second look."""
    assert identities.look() == ()
    return identities.take(identities.look())
