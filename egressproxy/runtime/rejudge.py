"""Rejudging: after a reload with `on_policy_change: cut`, tunnels that the new policy would refuse are ended.

A tunnel is judged as its client would be now, by the name it asked for and by the address it is connected to; no name is looked
up again. Who was accepted under the configuration before and has no tunnel yet is judged once there is one. Plain requests that
are under way are left to finish: the next one on their connection is judged by the new policy in any case.

Thousands of tunnels may be open: they are judged in slices, between which everybody else has a turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from egressproxy.errors import EgressError, MalformedTarget, SniMismatch
from egressproxy.hostport import canonical_host
from egressproxy.relay.tunnel import Tunnel

if TYPE_CHECKING:
    from egressproxy.admission import Admission
    from egressproxy.config.schema.config import Config
    from egressproxy.model import Intent, Target, Verdict
    from egressproxy.policy.policy import Policy
    from egressproxy.tasks import Tasks
    from egressproxy.telemetry.record import RecordDraft

logger = logging.getLogger("egressproxy")

POLICY_CHANGED = "policy_changed"
"""How tunnels end that a new policy refuses."""
SLICE_S = 0.002
"""How long tunnels are judged in a row."""
LOOK_AGAIN_S = 0.1
"""Between two looks at those who have no tunnel yet."""
SETUP_S = 120.0
"""How long these are looked at so often: longer than a head, a look-up and a connection take by default, all together."""
LOOK_SELDOM_S = 1.0
"""Between two looks afterwards: limits of time may be set to days, and who is still there may open a tunnel yet."""


class Rejudging:
    """Of all that is open in one worker. One at a time: a reload ends the one before and begins its own, or none."""

    def __init__(self, admission: Admission, tasks: Tasks) -> None:
        self._admission = admission
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None

    def begin(self, config: Config, policy: Policy) -> None:
        """This configuration, with this policy of its, is in force from now on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if config.on_policy_change == "cut":
            self._task = self._tasks.start(self._judge_all(policy), "rejudging")

    async def _judge_all(self, policy: Policy) -> None:
        """Judge everybody who is inside now, each once there is a tunnel."""
        seldom_from = time.monotonic() + SETUP_S
        waiting = list(self._admission.drafts)
        while waiting:
            cut, waiting = await self._judge(policy, waiting)
            if cut:
                logger.info("%d tunnel%s ended that the new policy refuses", cut, "" if cut == 1 else "s")
            if not waiting:
                return
            await asyncio.sleep(LOOK_AGAIN_S if time.monotonic() < seldom_from else LOOK_SELDOM_S)
            still_open = {id(draft) for draft in self._admission.drafts}
            waiting = [draft for draft in waiting if id(draft) in still_open]

    async def _judge(self, policy: Policy, drafts: list[RecordDraft]) -> tuple[int, list[RecordDraft]]:
        """How many tunnels of these were cut, and who has none yet."""
        cut = 0
        waiting: list[RecordDraft] = []
        slice_ends_at = time.monotonic() + SLICE_S
        for draft in drafts:
            tunnel = draft.relay
            if not isinstance(tunnel, Tunnel):
                waiting.append(draft)
            elif refusal(policy, draft) is not None:
                tunnel.cut(POLICY_CHANGED)
                cut += 1
            if time.monotonic() > slice_ends_at:
                await asyncio.sleep(0)
                slice_ends_at = time.monotonic() + SLICE_S
        return cut, waiting


def refusal(policy: Policy, draft: RecordDraft) -> EgressError | None:
    """Why this policy would refuse what the draft is a tunnel to; None if it would not."""
    intent, upstream = draft.intent, draft.upstream
    assert intent is not None  # there is a tunnel
    address = None if upstream is None or draft.parent is not None else upstream.address
    verdict = policy.decide(intent, None if address is None else (address,))
    try:
        # Through a parent nobody knows the address: where a rule asks for it, `enforce` finds the tunnel not allowed.
        verdict.enforce(intent)
        route = policy.route(intent, verdict)
        if address is not None and upstream is not None:
            written_down = _is_written_down(policy, route, intent.target, address)
            policy.screen(intent, verdict, (address,), upstream.port, written_down)
    except EgressError as error:
        return error
    return _refusal_of_name(policy, intent, verdict, draft.server_name)


def _is_written_down(policy: Policy, route: int | None, target: Target, address: str) -> bool:
    """The address is an endpoint of a service that the target is taken to, which the guard does not doubt."""
    registry, host, port = policy.registry, target.host, target.port
    if route is None:
        ways = [registry.find(host, port)]
    else:
        ways = [registry.routed(route, turn, host, port) for turn in range(len(registry.weights[route]))]
    return any(
        way is not None and (way.writes_down((address,)) or any(place.host == address for place in way.endpoints))
        for way in ways
    )


def _refusal_of_name(policy: Policy, intent: Intent, verdict: Verdict, server_name: str | None) -> EgressError | None:
    """Why the name that the ClientHello asked for would be refused, in a tunnel to an address."""
    if server_name is None or not intent.target.is_address or verdict.check_on(intent.target.port) != "enforce":
        return None
    try:
        name, _ = canonical_host(server_name)
    except MalformedTarget:
        return None  # no name that the check would have let pass
    if policy.agree(intent, verdict, name, ech=False) == "match":
        return None
    return SniMismatch(f"the name {name} inside the tunnel to {intent.target} is refused")
