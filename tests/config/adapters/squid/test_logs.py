"""`access_log` and `logformat`."""

from __future__ import annotations

from typing import Any

import pytest
from support.squid_conf import faults, native, notes

from egressproxy.config.adapters.squid.logs import DEFAULT_PATH
from egressproxy.config.schema.stages import AccessLog

END = "http_access deny all\n"


def logs(text: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = native(text + END, **options)["access_log"]
    for log in found:
        AccessLog.model_validate(log)  # templates are read there
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("access_log stdio:/var/log/a.log\n", [{"format": "squid", "path": "/var/log/a.log"}]),
        ("access_log daemon:/var/log/a.log squid\n", [{"format": "squid", "path": "/var/log/a.log"}]),
        ("access_log /var/log/a.log\n", [{"format": "squid", "path": "/var/log/a.log"}]),
        ("cache_access_log /var/log/a.log\n", [{"format": "squid", "path": "/var/log/a.log"}]),
        ("access_log stdio:/dev/stdout\n", [{"format": "squid", "path": "-"}]),
        ("access_log none\n", []),
        (
            "logformat mine %>a %rm  %ru\naccess_log stdio:/a.log logformat=mine buffer-size=1KB\n",
            [{"format": "squid", "path": "/a.log", "template": "%>a %rm  %ru"}],
        ),
        (
            "access_log stdio:/a.log common\n",
            [
                {
                    "format": "squid",
                    "path": "/a.log",
                    "template": '%>a %[ui %[un [%tl] "%rm %ru HTTP/%rv" %>Hs %<st %Ss:%Sh',
                }
            ],
        ),
    ],
)
def test_logs(text: str, expected: list[dict[str, Any]]) -> None:
    assert logs(text) == expected


def test_every_format_that_squid_knows_by_name_is_one_here() -> None:
    for name in ("squid", "common", "combined", "useragent", "referrer"):
        (log,) = logs(f"access_log stdio:/a.log {name}\n")
        assert ("template" in log) is (name != "squid")


def test_without_a_line_it_is_where_squid_logs_if_that_can_be_written() -> None:
    assert logs("", writable=[DEFAULT_PATH]) == [{"format": "squid", "path": DEFAULT_PATH}]
    assert logs("") == [{"format": "squid"}]
    said = f"there is none: Squid logs to {DEFAULT_PATH}, which cannot be written here, so this is standard output"
    assert f"1: access_log: {said}" in notes(END)


def test_the_referer_is_not_kept_and_that_is_said() -> None:
    assert '"-" "%{User-Agent}>h"' in logs("access_log stdio:/a.log combined\n")[0]["template"]
    assert notes(f"access_log stdio:/a.log combined\n{END}")[0].startswith(
        "1: access_log: combined: the field Referer is not kept"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("access_log", "expected where to log, as in access_log stdio:/var/log/squid/access.log"),
        ("access_log syslog:daemon.info", "expected stdio:FILE or daemon:FILE, got 'syslog:daemon.info'"),
        ("access_log udp://10.0.0.1:514", "expected stdio:FILE or daemon:FILE, got 'udp://10.0.0.1:514'"),
        ("access_log a.log", "expected the whole name of a file, got 'a.log'"),
        ("access_log stdio:/a.log logformat=nope", "no logformat before this line is called 'nope'"),
        ("access_log stdio:/a.log colour=red", "the option 'colour' is not known"),
        (
            "access_log none localhost",
            "leaves out requests by ACLs, which logs here do not ask; leave the line out to log all",
        ),
        (
            "access_log stdio:/a.log squid localhost",
            "logs only requests of the ACL 'localhost', which logs here do not ask; leave it out to log all",
        ),
        ("logformat mine", "expected a name and a template"),
    ],
)
def test_what_cannot_be_expressed(line: str, reason: str) -> None:
    assert faults(f"{line}\n{END}") == [f"1: {line.split()[0]}: {reason}"]


def test_a_code_that_is_not_known_is_told_where_the_format_is_written() -> None:
    text = (
        "logformat unused %>eui\nlogformat mine %>a %<sH\naccess_log stdio:/a.log mine\naccess_log stdio:/b.log mine\n"
    )
    assert faults(text + END) == ["2: logformat: the code '%<sH' is not known here"]


def test_a_built_in_format_is_not_defined_anew() -> None:
    assert notes(f"logformat squid %>a\naccess_log none\n{END}")[0].startswith(
        "1: logformat: squid is what Squid knows it as"
    )
