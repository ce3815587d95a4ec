"""Read the request target of a method other than CONNECT: where it goes, and what the origin is asked for.

`parse_http_target` returns an HttpTarget or raises MalformedTarget. It splits and does not rewrite: what goes to the
origin is what the client sent, octet for octet, so that a rule about paths and the origin judge the same text.

Not here: what the authority means (`hostport`), and whether it agrees with Host.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from egressproxy.errors import MalformedTarget
from egressproxy.wire.field_lines import excerpt


class HttpTarget(NamedTuple):
    """A target, taken apart.

    authority  `host` or `host:port` of a target in absolute-form, as sent; None in origin-form and asterisk-form
    path       path and query as the origin is asked for them (RFC 9112 section 3.2.1); `*` for the server as a whole
    """

    authority: str | None
    path: str


# RFC 3986 appendix A has fewer characters for path and query than clients send: `|`, `"`, `{`, `}`, `^`, `` ` ``, `[`,
# `]`, `\`, `<`, `>` and a `%` by itself are all seen, and mean nothing to a proxy. So: whatever is visible, but `#`. A
# fragment never leaves a client (RFC 9110 section 4.2.5), and who reads `#` as its beginning reads a shorter path.
_PATH_OCTET = r'[!"$-~]'
_origin_form = re.compile(rf"/{_PATH_OCTET}*+").fullmatch

# RFC 9110 section 4.2.1 and RFC 3986 section 3.2.2. No `@`, which ends a userinfo, and no `\`, which some take for `/`.
_AUTHORITY = r"[-0-9A-Za-z._~%!$&'()*+,;=:\[\]]++"
_absolute_form = re.compile(rf"(?i:http)://({_AUTHORITY})((?:[/?]{_PATH_OCTET}*+)?)").fullmatch

_VISIBLE = re.compile(r"[!-~]*+").fullmatch

# RFC 3986 section 3.1
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+)://")


def parse_http_target(method: str, target: str) -> HttpTarget:
    """Take `target` apart. Raises MalformedTarget for what is no http URL, no path and not the `*` of OPTIONS."""
    match = _absolute_form(target)
    if match is not None:
        authority, path = match.groups()
        if authority[0] == ":":
            raise MalformedTarget("expected a host in the request target, got none")  # RFC 9110 section 4.2.1
        if path[:1] != "/":
            # RFC 9112 sections 3.2.1 and 3.2.4
            path = "*" if method == "OPTIONS" and not path else "/" + path
        return HttpTarget(authority, path)
    if _origin_form(target) is not None:
        return HttpTarget(None, target)
    if target == "*" and method == "OPTIONS":
        return HttpTarget(None, target)
    raise MalformedTarget(_fault(target))


def _fault(target: str) -> str:
    """What is wrong with `target`. Little of it is shown: there may be a password in it."""
    if target == "*":
        return "expected a path or an http:// URL as request target, got `*`, which is for OPTIONS only"
    if "#" in target:
        return "expected a request target without a fragment, got `#`"
    if _VISIBLE(target) is None:
        return "expected a request target in visible ASCII, got another character"
    match = _SCHEME.match(target)
    if match is None:
        return "expected a path or an http:// URL as request target, got neither"
    scheme = match[1].lower()
    if scheme == "https":
        return "expected an http:// URL as request target, got https://: use CONNECT for https"
    if scheme != "http":
        return f"expected an http:// URL as request target, got the scheme {excerpt(scheme.encode())}"
    authority = re.split(r"[/?]", target[match.end() :], maxsplit=1)[0]
    if "@" in authority:
        return "expected a request target without user name and password, got an `@` before the host"
    if not authority:
        return "expected a host in the request target, got none"
    return "expected host or host:port in the request target, got an octet that neither has"
