"""The third decision: does the TLS inside a tunnel ask for the host that the tunnel was granted for?

CONNECT names a host, and the tunnel behind it may carry anything. So the client's first bytes are held and read as a
ClientHello, and its server name is compared with the target before the upstream sees a byte. What this finds is one of
`OUTCOMES`, noted in the record and counted, whether it is enforced or only reported.

A client that leaves before it has sent a byte has nothing to be judged. Names encrypted inside the hello (ECH) stay
hidden: the outer name is judged, unless `ech` is `deny`; then every tunnel is looked at for it, whatever `sni_check` says.

A server of TLS 1.3 may ask for a second ClientHello, which must be the first with small changes (RFC 8446 section 4.1.2), and
few servers see whether it names another one. So what a client sends behind its hello is held until the server's first bytes
say that no second one is wanted, or the second has been read and names the same server. This holds on `sni` listeners as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from egressproxy.errors import (
    EchDenied,
    HelloError,
    HelloTimeout,
    HelloTooLarge,
    MalformedHello,
    NotTls,
    SniMismatch,
    SniMissing,
)
from egressproxy.wire.client_hello import HelloReader, SecondHelloReader, parse_client_hello
from egressproxy.wire.server_hello import asks_again

if TYPE_CHECKING:
    from egressproxy.deadlines import DeadlineQueue
    from egressproxy.errors import EgressError
    from egressproxy.model import Intent, Verdict
    from egressproxy.policy.policy import Policy
    from egressproxy.telemetry.record import RecordDraft

OUTCOMES = ("match", "mismatch", "no_sni", "not_tls", "malformed", "ech", "timeout")
"""What a check may find: a closed set, the words of the log and the metric."""


class CheckServices(Protocol):
    """What a check is made with."""

    @property
    def policy(self) -> Policy:
        """Says whether names agree."""

    @property
    def max_hello_bytes(self) -> int:
        """More of a ClientHello is not waited for."""

    @property
    def head_deadlines(self) -> DeadlineQueue:
        """The time for a ClientHello."""


class Agreement:
    """The check of one tunnel: a `relay.holding.Gate`. Hot: once per checked tunnel."""

    __slots__ = (
        "_check",
        "_draft",
        "_hello_required",
        "_intent",
        "_limit",
        "_name",
        "_policy",
        "_reader",
        "_second",
        "_tls_required",
        "_verdict",
        "deadlines",
        "judged",
        "listens",
        "patient",
    )

    def __init__(
        self, intent: Intent, verdict: Verdict, draft: RecordDraft, services: CheckServices, port: int | None = None
    ) -> None:
        """Notes what it finds in `draft`. `port`: see `agreement_for`."""
        self._intent = intent
        self._verdict = verdict
        self._policy = services.policy
        self._draft = draft
        self._limit = services.max_hello_bytes
        self.deadlines = services.head_deadlines
        self._check = verdict.by_default if draft.judged_bytes else verdict.check_on(port or intent.target.port)
        enforced = self._check == "enforce"
        self._tls_required = enforced if verdict.require_tls is None else verdict.require_tls
        self._hello_required = enforced or self._tls_required or (self._check == "off" and not verdict.ech)
        self._reader: HelloReader | None = None
        self._second: SecondHelloReader | None = None
        self._name: str | None = intent.target.host  # that the first hello asked for
        self.judged = draft.judged_bytes
        self.listens = False
        # Who must speak TLS must begin; `report` says what `enforce` would have done, to the silent as well.
        self.patient = verdict.require_tls is False or (self._check == "off" and not self._tls_required)

    def judge(self, data: bytes) -> int | None:
        try:
            hello = parse_client_hello(data) if self._reader is None else self._reader.read(data)
            if len(data) > self._limit and (hello is None or hello.length > self._limit):
                raise HelloTooLarge(f"the ClientHello has more than {self._limit} bytes (limits.max_hello_bytes)")
        except NotTls as error:
            if self._refuses("not_tls", self._tls_required):
                raise NotTls(f"{error}; {self._way_out()}") from None
            return len(data)
        except HelloError:
            if self._refuses("malformed", self._hello_required):
                raise
            return len(data)
        if hello is None:
            self._reader = self._reader or HelloReader()  # it comes in pieces: none of them is read twice
            return None
        draft = self._draft
        draft.server_name = hello.server_name_as_sent
        outcome = self._policy.agree(self._intent, self._verdict, hello.server_name, hello.ech is not None)
        self._name = hello.server_name
        if self._check == "off" and outcome != "ech":  # the name is not asked for: only TLS, or that nothing hides it
            self.listens = not self._verdict.ech and hello.may_be_asked_again
        elif outcome == "match":
            draft.sni_check = outcome
            self.listens = hello.may_be_asked_again
        elif self._refuses(outcome, self._check != "report"):
            raise self._disagreement(outcome, hello.server_name)
        return hello.length

    def hear(self, answer: bytes) -> bool | None:
        return asks_again(answer)

    def judge_again(self, data: bytes) -> bool:
        reader = self._second = self._second or SecondHelloReader()
        try:
            hello = reader.read(data)
            if reader.found and (len(data) - reader.at if hello is None else hello.length) > self._limit:
                raise HelloTooLarge(
                    f"the second ClientHello has more than {self._limit} bytes (limits.max_hello_bytes)"
                )
        except HelloError:
            if self._refuses("malformed", self._hello_required):
                raise
            return True
        if hello is None:
            return False
        outcome = "match" if hello.server_name == self._name or self._check == "off" else "mismatch"
        if hello.ech is not None and not self._verdict.ech:
            outcome = "ech"
        if outcome != "match":
            self._draft.server_name = hello.server_name_as_sent
            if self._refuses(outcome, self._check != "report"):
                raise self._disagreement(outcome, f"{hello.server_name} when the server asks again")
        return True

    def end(self, data: bytes) -> None:
        if data and self._refuses("malformed", self._hello_required):
            raise MalformedHello(f"the client ended its half after {len(data)} bytes of a ClientHello")

    def expire(self, data: bytes) -> None:
        if self._refuses("timeout", self._hello_required):
            facts = f"{len(data)} bytes and no complete ClientHello within timeouts.head_s"
            raise HelloTimeout(facts if data else f"{facts}; {self._way_out()}")

    def _refuses(self, outcome: str, refused: bool) -> bool:
        """Note the outcome. Whoever asks raises: a frame that holds an error which holds the frame is a cycle."""
        self._draft.sni_check = outcome
        return refused

    def _way_out(self) -> str:
        """What an operator may do who wants other protocols than TLS to pass."""
        rule = self._verdict.rule
        return (
            f"where something else than TLS is meant to pass, set require_tls: false on a rule for it (this was {rule})"
        )

    def _disagreement(self, outcome: str, server_name: str | None) -> EgressError:
        target, rule = self._intent.target, self._verdict.rule
        if outcome == "ech":
            return EchDenied(
                f"the ClientHello inside the tunnel to {target} may hide its name, and ech is deny ({rule})"
            )
        if outcome == "no_sni":
            return SniMissing(f"the tunnel was granted for {target} by {rule}, the ClientHello inside names no server")
        return SniMismatch(
            f"the tunnel was granted for {target} by {rule}, the ClientHello inside asks for {server_name}"
        )


def agreement_for(
    intent: Intent, verdict: Verdict, draft: RecordDraft, services: CheckServices, port: int | None = None
) -> Agreement | None:
    """The check of a tunnel; None where nothing is to be checked. Hot: once per connection.

    port  which says what is expected inside, where that is not the one that the client asked for

    A client of an `sni` listener was judged by its ClientHello before; left is the second one that its server may ask for.
    One of a `tcp` listener has named no host, so there is none to hold it to.
    """
    if draft.server_name is None:
        has_named = intent.http_version is not None
        check = verdict.check_on(port or intent.target.port) if has_named else "off"
        if check == "off" and verdict.require_tls is not True and verdict.ech:
            return None
    elif not draft.judged_bytes:
        return None
    return Agreement(intent, verdict, draft, services, port)
