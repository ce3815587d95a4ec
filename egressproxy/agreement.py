"""The third decision: does the TLS inside a tunnel ask for the host that the tunnel was granted for?

CONNECT names a host, and the tunnel behind it may carry anything. So the client's first bytes are held and read as a
ClientHello, and its server name is compared with the target before the upstream sees a byte. What this finds is one of
`OUTCOMES`, noted in the record and counted, whether it is enforced or only reported.

A client that leaves before it has sent a byte has nothing to be judged. Names encrypted inside the hello (ECH) stay
hidden: the outer name is judged, unless `ech` is `deny`. A second hello, after a HelloRetryRequest, must name the same
server (RFC 8446 section 4.1.2) and is the origin's to hold to that.
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
from egressproxy.wire.client_hello import HelloReader, parse_client_hello

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
        "_policy",
        "_reader",
        "_tls_required",
        "_verdict",
        "deadlines",
        "patient",
    )

    def __init__(self, intent: Intent, verdict: Verdict, draft: RecordDraft, services: CheckServices) -> None:
        """Notes what it finds in `draft`."""
        self._intent = intent
        self._verdict = verdict
        self._policy = services.policy
        self._draft = draft
        self._limit = services.max_hello_bytes
        self.deadlines = services.head_deadlines
        self._check = verdict.check_on(intent.target.port)
        enforced = self._check == "enforce"
        self._tls_required = enforced if verdict.require_tls is None else verdict.require_tls
        self._hello_required = enforced or self._tls_required
        self._reader: HelloReader | None = None
        self.patient = verdict.require_tls is False

    def judge(self, data: bytes) -> bool:
        try:
            hello = parse_client_hello(data) if self._reader is None else self._reader.read(data)
            if len(data) > self._limit and (hello is None or hello.length > self._limit):
                raise HelloTooLarge(f"the ClientHello has more than {self._limit} bytes (limits.max_hello_bytes)")
        except NotTls as error:
            if self._refuses("not_tls", self._tls_required):
                raise NotTls(f"{error}; {self._way_out()}") from None
            return True
        except HelloError:
            if self._refuses("malformed", self._hello_required):
                raise
            return True
        if hello is None:
            self._reader = self._reader or HelloReader()  # it comes in pieces: none of them is read twice
            return False
        draft = self._draft
        draft.server_name = hello.server_name_as_sent
        outcome = self._policy.agree(self._intent, self._verdict, hello.server_name, hello.ech is not None)
        if self._check == "off" and outcome != "ech":
            return True  # TLS was all that was asked for
        if outcome == "match":
            draft.sni_check = outcome
        elif self._refuses(outcome, self._check != "report"):
            raise self._disagreement(outcome, hello.server_name)
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


def agreement_for(intent: Intent, verdict: Verdict, draft: RecordDraft, services: CheckServices) -> Agreement | None:
    """The check of a tunnel; None where nothing is to be checked. Hot: once per connection.

    A client of an `sni` listener was judged by its ClientHello before.
    """
    if draft.server_name is not None or (
        verdict.check_on(intent.target.port) == "off" and verdict.require_tls is not True
    ):
        return None
    return Agreement(intent, verdict, draft, services)
