"""What becomes of every directive: one table per kind of block.

A directive has one of four fates. Translated: it is turned into native settings. Noted: it has no meaning here, and that is
said. Lacking: this proxy cannot do it; a fault, and with `lenient` a note. Refused: as lacking, and about security, so that no
leniency helps. What is in no table is unknown: lacking too, unless its name sounds like security.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, NamedTuple

from egressproxy.config.adapters.nginx.syntax import Directive, missing_end
from egressproxy.config.faults import shown_directive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from egressproxy.config.adapters.nginx.syntax import Findings

Context = Literal["main", "events", "stream", "server", "upstream"]


class Fate(NamedTuple):
    """What becomes of a directive.

    say       why, for the reader of a note or fault
    words     how many words it takes, at least and at most; only of what is translated
    often     it may stand several times in one block
    harmless  single words with which it asks for nothing
    """

    kind: Literal["translated", "noted", "lacking", "refused"]
    say: str = ""
    words: tuple[int, int] = (1, 1)
    often: bool = False
    harmless: tuple[str, ...] = ()


def _all(fate: Fate, names: str) -> dict[str, Fate]:
    return dict.fromkeys(names.split(), fate)


def _translated(at_least: int, at_most: int, *, often: bool = False) -> Fate:
    return Fate("translated", "", (at_least, at_most), often)


_MANY = 100_000
_OWN_PROCESSES = Fate("noted", "is about NGINX's own processes and has no meaning here")
_OWN_TABLES = Fate("noted", "is about NGINX's own memory and has no meaning here")
_OWN_SOCKETS = Fate("noted", "has no meaning here: this proxy sees to its sockets and buffers by itself")
_NO_TLS = Fate("refused", "ends or begins TLS, which this proxy does not do for a stream")
_NO_SCRIPT = Fate("refused", "runs a program of its own, which this proxy does not")
_NO_CHOICE = Fate(
    "refused", "makes a variable that this proxy does not have; only map on $ssl_preread_server_name is known"
)
_NO_ROUND = Fate("noted", "servers take turns here, by weight")
_NO_HTTP = Fate(
    "refused", "holds what this proxy does not do for NGINX files; keep the stream block in a file of its own"
)

_MAIN = {
    **_all(_translated(0, 0), "events stream"),
    **_all(_translated(1, 1), "worker_shutdown_timeout"),
    **_all(_NO_HTTP, "http mail rtmp"),
    "user": Fate("noted", "has no meaning here: the proxy stays the user that starts it"),
    "error_log": Fate("noted", "has no meaning here: what the proxy has to say goes to standard error"),
    "load_module": Fate("noted", "has no meaning here: nothing is loaded"),
    "worker_processes": Fate("noted", "has no meaning here: one process does the work"),
    **_all(
        _OWN_PROCESSES,
        "daemon debug_points env lock_file master_process pcre_jit pid quic_bpf ssl_engine thread_pool timer_resolution "
        "worker_cpu_affinity worker_priority worker_rlimit_core worker_rlimit_nofile working_directory "
        "google_perftools_profiles mgmt ssl_object_cache_inheritable",
    ),
}
_EVENTS = {
    "worker_connections": Fate(
        "noted", "has no meaning here: limits.max_tunnels, 9000 unless it is set, bounds clients"
    ),
    **_all(
        _OWN_PROCESSES,
        "accept_mutex accept_mutex_delay debug_connection epoll_events multi_accept use worker_aio_requests",
    ),
}
_IN_BOTH = {
    # --- translated
    **_all(
        _translated(1, 1),
        "preread_buffer_size preread_timeout proxy_connect_timeout proxy_half_close proxy_protocol proxy_timeout "
        "resolver_timeout ssl_preread limit_conn_dry_run",
    ),
    "resolver": _translated(1, 100),
    "access_log": _translated(1, 8, often=True),
    **_all(_translated(1, 1, often=True), "allow deny set_real_ip_from"),
    "limit_conn": _translated(2, 2, often=True),
    # --- without meaning here
    "error_log": _MAIN["error_log"],
    "limit_conn_log_level": Fate("noted", "has no meaning here: what is refused is in the access log"),
    "proxy_protocol_timeout": Fate(
        "noted", "has no meaning here: preread_timeout, or NGINX's 30s for it, bounds the wait"
    ),
    **_all(
        Fate(
            "noted",
            "has no meaning here: the next server is tried when a connection fails, within proxy_connect_timeout",
        ),
        "proxy_next_upstream proxy_next_upstream_timeout proxy_next_upstream_tries",
    ),
    **_all(Fate("noted", "is about UDP and has no meaning here"), "proxy_requests proxy_responses"),
    **_all(
        _OWN_SOCKETS,
        "tcp_nodelay proxy_socket_keepalive proxy_buffer_size proxy_upstream_buffer proxy_downstream_buffer",
    ),
    **_all(
        _OWN_TABLES,
        "variables_hash_bucket_size variables_hash_max_size server_names_hash_bucket_size server_names_hash_max_size "
        "open_log_file_cache",
    ),
    "status_zone": _OWN_TABLES,
    # --- not to be had here
    **_all(
        Fate("refused", "limits the bandwidth of a client, which this proxy does not", harmless=("0",)),
        "proxy_download_rate proxy_upload_rate",
    ),
    "proxy_bind": Fate(
        "refused",
        "chooses the address that connections come from, which is the system's to choose here",
        harmless=("off",),
    ),
    "proxy_session_drop": Fate("lacking", "is not done here", harmless=("off",)),
    "proxy_ssl": _NO_TLS._replace(harmless=("off",)),
    **_all(
        _NO_TLS,
        "proxy_ssl_certificate proxy_ssl_certificate_key proxy_ssl_ciphers proxy_ssl_conf_command proxy_ssl_crl "
        "proxy_ssl_name proxy_ssl_password_file proxy_ssl_protocols proxy_ssl_server_name proxy_ssl_session_reuse "
        "proxy_ssl_trusted_certificate proxy_ssl_verify proxy_ssl_verify_depth proxy_ssl_key_log proxy_ssl_alpn "
        "ssl_alpn ssl_certificate ssl_certificate_cache ssl_certificate_compression ssl_certificate_key ssl_ciphers "
        "ssl_client_certificate ssl_conf_command ssl_crl ssl_dhparam ssl_early_data ssl_ecdh_curve ssl_ech_file "
        "ssl_encrypted_hello_key ssl_handshake_timeout ssl_key_log ssl_ocsp ssl_ocsp_cache ssl_ocsp_responder "
        "ssl_password_file ssl_prefer_server_ciphers ssl_protocols ssl_reject_handshake ssl_session_cache "
        "ssl_session_ticket_key ssl_session_tickets ssl_session_timeout ssl_stapling ssl_stapling_file "
        "ssl_stapling_responder ssl_stapling_verify ssl_trusted_certificate ssl_verify_client ssl_verify_depth",
    ),
    **_all(
        _NO_SCRIPT,
        "js_access js_context_reuse js_fetch_buffer_size js_fetch_ciphers js_fetch_keepalive js_fetch_keepalive_requests "
        "js_fetch_keepalive_time js_fetch_keepalive_timeout js_fetch_max_response_buffer_size js_fetch_protocols "
        "js_fetch_proxy js_fetch_timeout js_fetch_trusted_certificate js_fetch_verify js_fetch_verify_depth js_filter "
        "js_import js_include js_path js_periodic js_preload_object js_preread js_set js_shared_dict_zone js_var",
    ),
    **_all(
        Fate(
            "refused", "checks servers by itself, which is not done here; connections that fail go to the next server"
        ),
        "health_check health_check_timeout",
    ),
}
_STREAM = {
    **_IN_BOTH,
    **_all(_translated(0, 0, often=True), "server"),
    "upstream": _translated(1, 1, often=True),
    "map": _translated(2, 2, often=True),
    "log_format": _translated(2, _MANY, often=True),
    "limit_conn_zone": _translated(2, 2, often=True),
    **_all(_OWN_TABLES, "map_hash_bucket_size map_hash_max_size num_map_hash_max_size"),
    **_all(_NO_CHOICE, "geo geoip_city geoip_country geoip_org split_clients keyval keyval_zone num_map"),
    "match": Fate("refused", "belongs to health checks, which are not done here"),
    "zone_sync": Fate("lacking", "is not done here"),
}
_SERVER = {
    **_IN_BOTH,
    "listen": _translated(1, 20, often=True),
    "proxy_pass": _translated(1, 1),
    "set": _NO_CHOICE,
    "return": Fate("refused", "answers clients by itself, which this proxy does not"),
    "pass": Fate("refused", "hands connections to another part of NGINX, which is not here"),
    "server_name": Fate(
        "refused", "chooses between servers on one address; write one server with map on $ssl_preread_server_name"
    ),
    **_all(
        Fate("refused", "is about MQTT, which this proxy does not look into", harmless=("off",)),
        "mqtt mqtt_preread mqtt_set_connect mqtt_buffers mqtt_rewrite_buffer_size",
    ),
}
_UPSTREAM = {
    "server": _translated(1, 20, often=True),
    "zone": _OWN_TABLES,
    **_all(_NO_ROUND, "least_conn least_time random hash"),
    **_all(
        Fate("lacking", "keeps servers elsewhere than in this file"),
        "state resolver resolver_timeout sticky ntlm queue",
    ),
}

TABLES: Mapping[Context, Mapping[str, Fate]] = {
    "main": _MAIN,
    "events": _EVENTS,
    "stream": _STREAM,
    "server": _SERVER,
    "upstream": _UPSTREAM,
}

_WITH_BLOCK: Mapping[Context, frozenset[str]] = {
    "main": frozenset({"events", "stream"}),
    "events": frozenset(),
    "stream": frozenset({"server", "upstream", "map"}),
    "server": frozenset(),
    "upstream": frozenset(),
}

_SECURITY = re.compile(r"ssl|tls|auth|allow|deny|access|limit|secur|waf|geo|block|lua|perl|^js_|verif|protect")


class Block:
    """Directives of one block that are to be translated."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[tuple[int, Directive]]] = {}
        self._count = 0

    def add(self, directive: Directive) -> None:
        """One more."""
        self._by_name.setdefault(directive.name, []).append((self._count, directive))
        self._count += 1

    def all(self, *names: str) -> list[Directive]:
        """Those with one of the names, in file order."""
        found = [entry for name in names for entry in self._by_name.get(name, ())]
        return [directive for _, directive in (sorted(found) if len(names) > 1 else found)]

    def one(self, name: str) -> Directive | None:
        """The first with the name."""
        found = self._by_name.get(name)
        return found[0][1] if found else None


def sort_out(block: Iterable[Directive], context: Context, findings: Findings) -> Block:
    """Those of a block that are to be translated; what becomes of all others is told."""
    table = TABLES[context]
    found = Block()
    for directive in (part for whole in block for part in _parted(whole, context, findings)):
        fate = table.get(directive.name)
        if fate is None:
            _tell_unknown(directive, context, findings)
        elif len(directive.words) == 1 and directive.words[0] in fate.harmless:
            pass
        elif fate.kind == "translated":
            if _has_its_form(directive, fate, context, findings):
                earlier = None if fate.often else found.one(directive.name)
                if earlier is None:
                    found.add(directive)
                else:
                    findings.fault(directive, f"is written twice; the first is {findings.place(earlier, directive)}")
        elif fate.kind == "noted":
            findings.note(directive, fate.say)
        elif fate.kind == "lacking":
            findings.lacking(directive, fate.say)
        else:
            findings.fault(directive, fate.say)
    return found


def _parted(directive: Directive, context: Context, findings: Findings) -> Iterator[Directive]:
    """The directive; where a line within it begins as another one would, which is a fault, those that were meant."""
    cuts = [at for at in directive.breaks if directive.words[at] in TABLES[context]]
    if not cuts:
        yield directive
        return
    advice = missing_end((directive.name, *directive.words[: cuts[0]]))
    findings.fault(directive, f"goes on with {shown_directive(directive.words[cuts[0]])} on another line{advice}")
    words = (directive.name, *directive.words)
    starts, ends = (0, *(at + 1 for at in cuts)), (*(at + 1 for at in cuts), len(words))
    for start, end in zip(starts, ends, strict=True):
        block = directive.block if end == len(words) else None
        yield Directive(words[start], words[start + 1 : end], directive.mark, block)


def _has_its_form(directive: Directive, fate: Fate, context: Context, findings: Findings) -> bool:
    name, count = directive.name, len(directive.words)
    at_least, at_most = fate.words
    if (directive.block is not None) != (name in _WITH_BLOCK[context]):
        wanted = "a block in braces behind it" if directive.block is None else "a ; behind it, got a block"
        findings.fault(directive, f"expected {wanted}")
        return False
    if not at_least <= count <= at_most:
        at = directive.breaks[0] if directive.breaks and count > at_most else 0
        advice = missing_end((name, *directive.words[:at])) if at else ""
        wanted = str(at_least) if at_least == at_most else f"{at_least} to {at_most if at_most < _MANY else 'more'}"
        findings.fault(
            directive, f"expected {wanted} word{'' if wanted == '1' else 's'} behind it, got {count}{advice}"
        )
        return False
    return True


def _tell_unknown(directive: Directive, context: Context, findings: Findings) -> None:
    name = directive.name
    elsewhere = [other for other, table in TABLES.items() if name in table]
    if elsewhere:
        where = " or ".join("the top level" if other == "main" else other for other in elsewhere)
        findings.fault(directive, f"is not allowed here; it belongs in {where}")
        return
    close = get_close_matches(name[:60], TABLES[context], n=1, cutoff=0.8)
    message = f"the directive {shown_directive(name)} is not known{f'; did you mean {close[0]}?' if close else ''}"
    if _SECURITY.search(name):
        findings.fault(directive, f"{message} (it may be about security, so --lenient does not leave it out)")
    else:
        findings.lacking(directive, message)
