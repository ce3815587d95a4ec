from __future__ import annotations

from egressproxy.model import Endpoint
from egressproxy.sessions import MAX_SESSIONS, Resumption, Sessions

HERE = Endpoint("192.0.2.1", 443)
THERE = Endpoint("192.0.2.2", 443)


def kept_at(now):
    sessions = Sessions(clock=lambda: now[0])
    Resumption(sessions, "a.test", HERE, 100.0).keep("session")
    return sessions


def test_a_session_is_found_for_the_same_name_and_endpoint_alone():
    sessions = kept_at([0.0])
    assert sessions.find("a.test", HERE) == ("session", 100.0)
    assert sessions.find("a.test", THERE)[0] is None
    assert sessions.find("b.test", HERE)[0] is None


def test_a_session_is_not_offered_for_ever():
    now = [99.0]
    sessions = kept_at(now)
    assert sessions.find("a.test", HERE)[0] == "session"
    now[0] = 100.0
    assert sessions.find("a.test", HERE)[0] is None
    assert len(sessions) == 0


def test_a_forgotten_session_is_not_offered():
    sessions = kept_at([0.0])
    sessions.forget("a.test", HERE)
    sessions.forget("a.test", HERE)
    assert sessions.find("a.test", HERE)[0] is None


def test_the_least_recently_used_goes_first():
    sessions = Sessions(clock=lambda: 0.0)
    for number in range(MAX_SESSIONS):
        sessions.keep(f"{number}.test", HERE, f"session {number}", 1.0)
    sessions.find("0.test", HERE)
    sessions.keep("new.test", HERE, "new", 1.0)
    assert len(sessions) == MAX_SESSIONS
    assert sessions.find("0.test", HERE)[0] is not None
    assert sessions.find("1.test", HERE)[0] is None
