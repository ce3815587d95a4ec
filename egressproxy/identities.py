"""Identities: how the proxy speaks TLS with each service, and the values of header fields that services get.

Both are made of files: certificates, keys, authorities, secrets as Kubernetes mounts them. An identity is immutable; when its
files change it is replaced whole, so connections that were made with the old one go on, and new ones have the new one. A secret
that is written out in the configuration changes with that; OpenSSL reads it out of memory, and no disk has it.

A certificate, key or authority that the configuration names must be good at the start (one that is out of date is warned
of, and used), and the file of a value must be there. A secret, and what is in the file of a value, may come later: until then
its service is answered with `CredentialMissing`, and nothing is sent. How changes are noticed is told in `watched`.

Nothing here logs, and no message holds what is in a key or in a value.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from egressproxy.certificates import facts_of_all
from egressproxy.errors import CredentialMissing
from egressproxy.sessions import Sessions
from egressproxy.tls import Authorities, TlsSettingsError, system_authorities, upstream_context
from egressproxy.watched import Change, Dates, Findings, Unusable, Watched

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

    from egressproxy.config.faults import Finding
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.services import HeaderValue, UpstreamTls
    from egressproxy.watched import Roles

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Of a certificate, key or authorities. Those of a whole system take 250 KB."""
MAX_VALUE_BYTES = 16_384
"""Of a header field's value. Servers take 8 KiB, rarely more."""

# The names that a secret's parts go by: as Kubernetes has them, and as Istio had them first.
_PAIRS = (("tls.crt", "tls.key"), ("cert", "key"))
_CA_INSIDE = ("ca.crt", "cacert")
_CA_ALONE = ("cacert", "ca.crt", "tls.crt")

_VALUE = re.compile(rb"[!-~](?:[ -~\t]*[!-~])?")  # RFC 9110 section 5.5, without obs-text


@dataclass(frozen=True, slots=True, eq=False)
class UpstreamIdentity:
    """How the proxy speaks TLS with one service; immutable, replaced whole when its files change. Equal only to itself.

    verified  the certificate must come from a trusted authority and be for the server name, or for one of `names`
    checked   it must come from a trusted authority, whomever it is for
    sni       server name to ask for; None: the host of the request
    names     the certificate must have one of these, whatever the server name; empty: the one in `sni`
    alpn      protocols that are offered
    trust     the authorities, as messages name them
    shows     the certificate that the proxy shows, as messages name it; None: it has none
    sessions  to resume
    """

    context: ssl.SSLContext
    verified: bool
    checked: bool
    sni: str | None
    names: tuple[str, ...]
    alpn: tuple[str, ...]
    trust: str
    shows: str | None
    sessions: Sessions


_Inline = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Secrets that are written out: for each its name, and names and texts of its files."""


class _Written(NamedTuple):
    """A file of a secret that is written out."""

    label: str
    content: bytes

    @contextmanager
    def readable(self) -> Iterator[Path]:
        """A path that OpenSSL can read it from for a while; it reads from files only."""
        if not hasattr(os, "memfd_create"):  # no Linux
            with tempfile.NamedTemporaryFile() as file:  # which nobody else may read
                file.write(self.content)
                file.flush()
                yield Path(file.name)
            return
        descriptor = os.memfd_create("secret")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(self.content)
            yield Path(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


class _Secret:
    """One secret: written out in the configuration, or a folder with its files, or neither."""

    def __init__(self, name: str, written: Mapping[str, Sequence[tuple[str, str]]], directory: Path | None) -> None:
        self.name = name
        self._files = dict(written[name]) if name in written else None
        self._folder = None if self._files is not None or directory is None else directory / name

    def __str__(self) -> str:
        """Where it is, as messages tell it."""
        return f"secrets.inline.{self.name}" if self._folder is None else str(self._folder)

    def paths(self, *names: str) -> list[Path]:
        """Where these files of it would be; none where no file is looked for."""
        return [] if self._folder is None else [self._folder / name for name in names]

    def find(self, name: str) -> Path | _Written | None:
        """One file of it. None where it is not there."""
        if self._folder is not None:
            path = self._folder / name
            return path if path.exists() else None
        text = (self._files or {}).get(name)
        return None if text is None else _Written(f"{self}.{name}", text.encode())


class _TlsFiles:
    """The files of one `tls` in the configuration, however many services have the same."""

    longest = MAX_FILE_BYTES

    def __init__(self, settings: UpstreamTls, directory: Path | None, inline: _Inline = ()) -> None:
        self._settings = settings
        self._needs_pair = settings.mode == "mutual"
        self._needs_ca = settings.verify is not False
        self._asks_the_system = self._needs_ca and settings.ca is None and settings.credential is None
        self._secret: _Secret | None = None
        self.optional = settings.credential is not None
        if settings.credential is not None:
            written = dict(inline)
            self._secret = _Secret(settings.credential, written, directory)
            self._ca_alone = _Secret(f"{settings.credential}-cacert", written, directory)
            self.label = settings.credential
            self.paths = [
                *self._secret.paths(*_PAIRS[0], *_PAIRS[1], *_CA_INSIDE),
                *self._ca_alone.paths(*_CA_ALONE),
            ]
        else:
            self.paths = [each for each in (settings.ca, settings.certificate, settings.key) if each is not None]
            self.label = str(settings.certificate or settings.ca or "system")
            if self._asks_the_system and (file := self._system_file()) is not None:
                self.paths.append(file)

    def choose(self) -> Roles:
        settings = self._settings
        chosen: Roles = {}
        if self._secret is not None:
            return {role: each for role, each in self._of_secret(self._secret).items() if isinstance(each, Path)}
        for role, path in (("certificate", settings.certificate), ("key", settings.key), ("ca", settings.ca)):
            if path is not None:
                chosen[role] = path
        if self._asks_the_system and (file := self._system_file()) is not None:
            chosen["system"] = file
        return chosen

    def _system_file(self) -> Path | None:
        """With the authorities of the system, where they are in one file, or there are any: `make` says if not."""
        try:
            return system_authorities().file
        except TlsSettingsError:
            return None

    def _of_secret(self, secret: _Secret) -> dict[str, Path | _Written]:
        """What counts in a secret, by what it is for."""
        chosen: dict[str, Path | _Written] = {}
        if self._needs_pair:
            chosen |= self._pair(secret)
        if self._needs_ca:
            chosen["ca"] = self._ca(secret)
        return chosen

    def _pair(self, secret: _Secret) -> dict[str, Path | _Written]:
        for names in _PAIRS:
            certificate, key = (secret.find(name) for name in names)
            if certificate is not None and key is not None:
                return {"certificate": certificate, "key": key}
            if certificate is not None or key is not None:
                missing = names[0] if certificate is None else names[1]
                where = next((str(path) for path in secret.paths(missing)), f"{secret}.{missing}")
                raise Unusable(f"secret {secret.name}: {where} is missing")
        raise Unusable(f"secret {secret.name}: no tls.crt and tls.key (nor cert and key) in {secret}")

    def _ca(self, secret: _Secret) -> Path | _Written:
        """The file with the authorities. A secret without any never means the system's: trust would change by omission."""
        for place, names in ((self._ca_alone, _CA_ALONE), (secret, _CA_INSIDE)):
            for name in names:
                if (found := place.find(name)) is not None:
                    return found
        raise Unusable(f"secret {secret.name}: no ca.crt (nor cacert) in {secret} or {self._ca_alone}")

    def make(self, chosen: Roles, contents: dict[str, bytes]) -> tuple[UpstreamIdentity, dict[str, Dates]]:
        names = {role: str(path) for role, path in chosen.items()}
        with ExitStack() as stack:
            if self._secret is None:
                return self._make(chosen, contents, names)
            for role, each in self._of_secret(self._secret).items():
                if isinstance(each, _Written):
                    chosen = {**chosen, role: stack.enter_context(each.readable())}
                    contents = {**contents, role: each.content}
                    names[role] = each.label
            return self._make(chosen, contents, names)

    def _make(
        self, chosen: Roles, contents: dict[str, bytes], names: dict[str, str]
    ) -> tuple[UpstreamIdentity, dict[str, Dates]]:
        """The same, with all files where they can be read, and `names` by which messages tell them."""
        settings = self._settings
        authorities = Authorities(chosen["ca"]) if "ca" in chosen else None
        certificate, key = chosen.get("certificate"), chosen.get("key")
        try:
            if self._asks_the_system:
                authorities = system_authorities()
            context = upstream_context(settings, authorities, certificate, key)
        except TlsSettingsError as error:
            text = str(error)
            for role, path in chosen.items():
                text = text.replace(str(path), names[role])
            raise Unusable(text) from error
        dates: dict[str, Dates] = {}
        # A chain is of use while all of its certificates are, a list of authorities while one of them is.
        for role, begin_of, end_of in (("certificate", max, min), ("ca", min, max)):
            found = facts_of_all(contents.get(role, b""))
            if found:
                begins = begin_of(each.not_before for each in found)
                dates[names[role]] = Dates(begins, end_of(each.not_after for each in found))
        identity = UpstreamIdentity(
            context=context,
            verified=settings.verify is True,
            checked=authorities is not None,
            sni=settings.sni,
            names=settings.subject_alt_names,
            alpn=settings.alpn,
            trust=names.get("ca") or str(authorities),
            shows=names.get("certificate"),
            sessions=Sessions(),
        )
        return identity, dates


class _ValueFile:
    """The file with the value of a header field."""

    longest = MAX_VALUE_BYTES
    optional = True

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.paths = [path]

    def choose(self) -> Roles:
        return {"value": self.paths[0]}

    def make(self, chosen: Roles, contents: dict[str, bytes]) -> tuple[bytes, dict[str, Dates]]:
        value = contents["value"].strip(b" \t\r\n")
        if not value:
            raise Unusable(f"{chosen['value']}: holds no value")
        if not _VALUE.fullmatch(value):
            raise Unusable(f"{chosen['value']}: holds something else than one line of visible ASCII")
        return value, {}


class IdentityProblems(Exception):
    """Files that the configuration names cannot be used. `problems`: for each the way to its setting, and what is wrong."""

    def __init__(self, problems: Sequence[Finding]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = tuple(problems)


class Identities:
    """The identities of all services of one configuration, and the values of their header fields.

    refusals    how often changed files were refused, by the name of the secret or the path of the file; over reloads
    unverified  names of the services whose certificate is not checked at all (`verify: false`)
    notes       what is worth a line at the start: the way to a setting, and what is to be known of it
    watches     there are files that may change
    """

    def __init__(self) -> None:
        """See `load`."""
        self.refusals: dict[str, int] = {}
        self.unverified: tuple[str, ...] = ()
        self.notes: tuple[Finding, ...] = ()
        self._names: list[str] = []  # of services
        self._of_service: list[Watched[UpstreamIdentity] | None] = []
        self._tls: dict[tuple[UpstreamTls, Path | None, _Inline], Watched[UpstreamIdentity]] = {}
        self._values: dict[Path, Watched[bytes]] = {}
        self._fields: dict[int, dict[str, HeaderValue]] = {}
        self._lines: dict[int, bytes | None] = {}  # of services with fields; None: a value is missing

    @classmethod
    def load(cls, config: Config, before: Identities | None = None) -> Identities:
        """Read all files that the services need; blocks.

        Identities of `before` whose settings and files are the same are taken over, and with them their connections and
        sessions. Raises IdentityProblems for files that the configuration names. A secret or value that is not there, or not
        good, is a note, and so is `verify: false`.
        """
        self = cls()
        self.refusals = {} if before is None else before.refusals
        problems: list[Finding] = []
        notes: list[Finding] = []
        unverified: list[str] = []
        noted: set[object] = set()
        for index, service in enumerate(config.services):
            name = service.label
            self._names.append(name)
            tls = service.tls
            if tls is None or tls.mode == "disable":
                self._of_service.append(None)
                continue
            key = tls, config.secrets.directory if tls.credential is not None else None, _inline(config, tls.credential)
            held = self._tls.get(key)
            if held is None:
                held = Watched(_TlsFiles(*key), None if before is None else before._tls.get(key))
                self._tls[key] = held
                if held.problem is not None and not held.source.optional:
                    problems.append((("services", index, "tls"), held.problem))
                elif held.problem is not None:
                    notes.append((("services", index, "tls", "credential"), _later(held)))
            self._of_service.append(held)
            if tls.verify is False:
                unverified.append(name)
                notes.append(
                    (
                        ("services", index, "tls", "verify"),
                        f"false: {name} may be anybody, its certificate is not checked",
                    )
                )
            if service.set_headers:
                self._fields[index] = service.set_headers
            for field, source in service.set_headers.items():
                value = self._values.get(source.file)
                if value is None:
                    value = Watched(
                        _ValueFile(source.file), None if before is None else before._values.get(source.file)
                    )
                    self._values[source.file] = value
                if value.problem is not None and source.file not in noted:
                    noted.add(source.file)
                    notes.append((("services", index, "set_headers", field), _later(value)))
        if problems:
            raise IdentityProblems(problems)
        self.notes = tuple(notes)
        self.unverified = tuple(unverified)
        self._write_lines()
        return self

    def __len__(self) -> int:
        return len(self._tls) + len(self._values)

    @property
    def watches(self) -> bool:
        """There are files that may change."""
        return any(held.source.paths for held in self._all())

    def of(self, service: int) -> UpstreamIdentity:
        """How to speak TLS with the service of this index, one that has `tls`. Hot: once per request.

        Raises CredentialMissing.
        """
        held = self._of_service[service]
        assert held is not None, "a service without tls"
        made = held.made
        if made is None:
            raise CredentialMissing(f"no TLS with {self._names[service]} yet: {held.problem}")
        return made.value

    def header_lines(self, service: int) -> bytes:
        """The field lines that its requests get, each with its CRLF. Hot: once per request. Raises CredentialMissing."""
        lines = self._lines.get(service, b"")
        if lines is None:
            missing = [
                f"{field}: {held.problem}"
                for field, source in self._fields[service].items()
                if (held := self._values[source.file]).made is None
            ]
            raise CredentialMissing(f"no request to {self._names[service]} yet without its {'; '.join(missing)}")
        return lines

    def look(self) -> Findings:
        """Which files have changed, and what they hold now: for `take`. Blocks; for one thread at a time.

        A change is found when it has been the same for two calls, and once.
        """
        return tuple(found for held in self._all() if (found := held.look()) is not None)

    def take(self, findings: Findings) -> Sequence[Change]:
        """Put to use what is good of it, in the event loop; the changes, for the log."""
        changes = [found.take() for found in findings]
        for change in changes:
            if not change.good:
                self.refusals[change.label] = self.refusals.get(change.label, 0) + 1
        if changes:
            self._write_lines()
        return changes

    def expiries(self) -> dict[str, float]:
        """Unix time at which the files in use expire, by path: a chain with its first certificate, authorities with
        their last."""
        found: dict[str, float] = {}
        for held in self._all():
            if held.made is not None:
                found.update((path, dates.ends) for path, dates in held.made.dates.items())
        return found

    def _all(self) -> Iterator[Watched[UpstreamIdentity] | Watched[bytes]]:
        yield from self._tls.values()
        yield from self._values.values()

    def _write_lines(self) -> None:
        self._lines = {service: self._lines_of(fields) for service, fields in self._fields.items()}

    def _lines_of(self, fields: dict[str, HeaderValue]) -> bytes | None:
        lines = b""
        for name, source in fields.items():
            made = self._values[source.file].made
            if made is None:
                return None
            lines += f"{name}: {source.prefix}".encode("ascii") + made.value + b"\r\n"
        return lines


def _inline(config: Config, credential: str | None) -> _Inline:
    """What is written out of a secret and of the authority that goes with it."""
    written = config.secrets.inline
    names = () if credential is None else (credential, f"{credential}-cacert")
    return tuple(
        (name, tuple((file, text.get_secret_value()) for file, text in written[name].items()))
        for name in names
        if name in written
    )


def _later(held: Watched[UpstreamIdentity] | Watched[bytes]) -> str:
    if held.made is not None:
        return f"{held.problem}; what was read before stays in use"
    return f"{held.problem}; until it is there, requests to its service are answered {CredentialMissing.status}"
