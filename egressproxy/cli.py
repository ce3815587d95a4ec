"""The command line: flags become values, one function per subcommand, and nothing else is decided here.

Exit codes: 0 fine, 1 failed, 2 misused; `explain` adds 3 for a refusal. What was asked for goes to standard output, what
went wrong to standard error, one line each. Each command imports what it needs when it runs, so that `--version` and a
shell's completion are quick.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from egressproxy._version import __version__
from egressproxy.errors import ConfigError, EgressError, MalformedTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from egressproxy.config.faults import Finding
    from egressproxy.config.schema.config import Config
    from egressproxy.config.schema.stages import CaptureRanges, Dns
    from egressproxy.model import Intent
    from egressproxy.redirect import Mode

FAILED = 1
MISUSED = 2
DENIED = 3

_METHOD = re.compile(r"[A-Za-z-]{1,32}")
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")

app = typer.Typer(
    name="egressproxy",
    help="""The one door through which workloads leave a network: an HTTP CONNECT proxy with one allowlist, one log and
    one set of metrics.

    Start it on its safe default (this machine only, public addresses on ports 80 and 443) and use it:

    \b
      egressproxy run
      HTTPS_PROXY=http://127.0.0.1:3128 curl https://example.com/

    A CONFIG is a file or a folder of files: the proxy's own YAML, a squid.conf, an nginx.conf, or Istio and Kubernetes
    objects, told apart by content; squid:PATH, nginx:PATH and istio:PATH force one. Several are merged in order.""",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    # Boxes and colours are for people: a pipe, a log or a test gets plain text.
    rich_markup_mode="rich" if sys.stdout is not None and sys.stdout.isatty() else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_FORMATS = (
    "Files or folders, merged in order: YAML, squid.conf, nginx.conf, Istio or Kubernetes objects. They are told apart by "
    "content; squid:PATH, nginx:PATH and istio:PATH force one."
)
_OptionalConfigs = Annotated[
    list[str] | None, typer.Argument(metavar="CONFIG", help=f"{_FORMATS} Default: the safe built-in one.")
]
_Configs = Annotated[list[str], typer.Argument(metavar="CONFIG", help=_FORMATS)]
_Lenient = Annotated[
    bool,
    typer.Option(
        "--lenient",
        help="Leave out, with a note, directives of other programs that are not known here, unless they are about security.",
    ),
]


def main() -> None:
    """The console script. Ends the process with its exit code."""
    _end_as_first_process_too()
    _fill_closed_streams()
    app(prog_name="egressproxy")


def _end_as_first_process_too() -> None:
    """The first process of a container gets no signal that it has no handler for: SIGTERM would be lost during the start."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _fill_closed_streams() -> None:
    """Put /dev/null where a standard stream is closed: a log line must not land in the socket that gets its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def _print_version(wanted: bool) -> None:
    if wanted:
        _say([f"egressproxy {__version__}"])
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _whole(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        _say([context.get_help()])


# --- run ----------------------------------------------------------------------------------------------------------


@app.command()
def run(
    configs: _OptionalConfigs = None,
    lenient: _Lenient = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Put changes of the CONFIGs into force as they are made.")
    ] = True,
) -> None:
    """Start the proxy; it stays in the foreground.

    A change of the CONFIGs, or of a file that they include, is in force within two seconds; if it is wrong, the old ones
    stay. SIGHUP reads them again at once. SIGTERM lets open tunnels finish, up to timeouts.drain_s, and ends. SIGUSR1 opens
    the log files again.

    \b
    Examples:
      egressproxy run
      egressproxy run /etc/egressproxy/
      egressproxy run listeners.yaml istio:/etc/istio-config/
      egressproxy run squid:/etc/squid/proxy.conf
    """
    from egressproxy.config.load import load
    from egressproxy.runtime.sockets import BindError
    from egressproxy.runtime.supervisor import run as serve
    from egressproxy.tls import TlsSettingsError

    try:
        code = serve(partial(load, tuple(configs or ()), lenient=lenient), watches=watch)
    except ConfigError as error:
        _fail(error.problems)
    except (BindError, TlsSettingsError) as error:
        _fail([error])
    raise typer.Exit(code)


# --- check --------------------------------------------------------------------------------------------------------


@app.command()
def check(configs: _Configs, lenient: _Lenient = False) -> None:
    """Say what is wrong with CONFIGs, all at once.

    Each problem is a line FILE:LINE: message, with the setting or directive in front of the message where it is about one.

    Exits 0 if they may be used, 1 if not. Notes are about what is right and perhaps not meant.

    \b
    Example:
      egressproxy check /etc/egressproxy/ && systemctl reload egressproxy
    """
    from egressproxy.config.load import load
    from egressproxy.identities import Identities, IdentityProblems
    from egressproxy.policy.policy import Policy
    from egressproxy.tls import TlsSettingsError, listener_context

    try:
        loaded = load(configs, lenient=lenient)
    except ConfigError as error:
        _fail(error.problems)
    config = loaded.config
    faults = []
    for index, listener in enumerate(config.listeners):
        try:
            if listener.tls is not None:
                listener_context(listener.tls)
        except TlsSettingsError as error:
            faults.append(loaded.problem(("listeners", index, "tls"), str(error)))
    found: Sequence[Finding] = ()
    try:
        found = Identities.load(config).notes
    except IdentityProblems as error:
        faults += [loaded.problem(*problem) for problem in error.problems]
    if faults:
        _fail(faults)
    notes = loaded.noted((*Policy.from_config(config, _never, time.localtime).notes(), *found))
    _say(note._replace(message=f"note: {note.message}") for note in notes)
    parts = ("listener", len(config.listeners)), ("rule", len(config.rules)), ("service", len(config.services))
    counts = ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for noun, count in parts)
    _say([f"ok: {counts}, {len(config.allow)} allowed by allow"])


def _never(address: str, port: int) -> bool:
    return False


# --- explain ------------------------------------------------------------------------------------------------------


@app.command()
def explain(
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="HOST:PORT, or an http or https URL.")],
    configs: _OptionalConfigs = None,
    client: Annotated[str, typer.Option(metavar="IP", help="Address that the client comes from.")] = "127.0.0.1",
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Who asks. No rule of this version does.")] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="M", help="Request method. Default: GET for an http URL, else CONNECT, a tunnel."),
    ] = None,
    listener: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The listener that the client comes to. Default: the first that takes what is asked for.",
        ),
    ] = None,
    resolve: Annotated[bool, typer.Option("--resolve", help="Ask DNS, if run would, and judge the addresses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    lenient: _Lenient = False,
) -> None:
    """Say which rule decides about a target, why, where it is written, and how the target is reached. Nothing is connected to.

    An http URL is a plain request for its path; an https URL, or HOST:PORT, is a tunnel to there.

    Exits 0 if it is allowed, 3 if refused (or undecided: a rule asks for addresses, and --resolve is not given), 2 if the
    question is malformed, 1 if a CONFIG is wrong or DNS fails.

    \b
    Examples:
      egressproxy explain policy.yaml --to https://api.github.com/ --client 10.1.2.3
      egressproxy explain policy.yaml --to http://api.example/v1/users --method POST
      egressproxy explain policy.yaml --to git.corp.example:22 --resolve --json
      egressproxy explain squid:/etc/squid/squid.conf --to https://en.wikipedia.org/
    """
    client = _client(client)
    if method is not None and not _METHOD.fullmatch(method):
        _fail([f"--method: expected a method like CONNECT, got {_shown(method)}"], MISUSED)
    intent = _intent(to, client, method)

    from egressproxy.config.load import load
    from egressproxy.policy.policy import Policy
    from egressproxy.runtime.sockets import OwnPorts

    try:
        loaded = load(configs or (), lenient=lenient)
    except ConfigError as error:
        _fail(error.problems)
    config = loaded.config
    intent = intent._replace(listener=_listener(config, intent, listener))
    policy = Policy.from_config(config, OwnPorts(_own_places(config)), time.localtime)
    explanation = policy.explain(intent, locate=loaded.locate)
    if resolve and explanation.asks_dns:
        judged = found = _resolve(config.dns, explanation.looks_up)
        if explanation.verdict.needs_addresses:
            explanation = policy.explain(intent, judged=judged, locate=loaded.locate)
            if explanation.looks_up != (intent.target.host,):
                found = _resolve(config.dns, explanation.looks_up)
        else:
            judged = ()
        explanation = policy.explain(intent, found, judged=judged, locate=loaded.locate)
    if as_json:
        _say([json.dumps(explanation.as_dict() | {"user": user}, indent=2)])
    else:
        _say(explanation.lines())
        if user is not None:
            _say(["The user is not looked at: no rule of this version asks for one"])
    raise typer.Exit(0 if explanation.allowed else DENIED)


def _intent(to: str, client: str, method: str | None) -> Intent:
    """What is asked about. Ends the process on what is no target, or does not go with the method."""
    from egressproxy.policy.explanation import intent_about

    try:
        return intent_about(to, client, "", method)
    except MalformedTarget as error:
        _fail([f"--to: {error}"], MISUSED)
    except ValueError as error:
        _fail([f"--method: {error}"], MISUSED)


def _listener(config: Config, intent: Intent, name: str | None) -> str:
    """The listener that is asked about. Ends the process where there is none for such an intent."""
    from egressproxy.policy.explanation import listener_for

    try:
        return listener_for(config.listeners, intent, name)
    except ValueError as error:
        _fail([f"--listener: {error}"], MISUSED)


def _client(text: str) -> str:
    """A client's address as the listener would name it. Ends the process if it is none."""
    from egressproxy.hostport import canonical_host

    try:
        address, is_address = canonical_host(text)
    except MalformedTarget:
        address, is_address = text, False
    if not is_address:
        _fail([f"--client: expected an IP address, got {_shown(text)}"], MISUSED)
    return address.removeprefix("::ffff:") if "." in address else address


def _own_places(config: Config) -> set[tuple[str, int]]:
    places = {(listener.address, listener.port) for listener in config.listeners}
    return places | ({(config.admin.address, config.admin.port)} if config.admin else set())


def _resolve(settings: Dns, hosts: Iterable[str]) -> tuple[str, ...]:
    """The addresses of some names, as the proxy would find them. Ends the process if one has none."""
    import asyncio

    from egressproxy.resolve.resolver import Resolver

    async def look_up() -> tuple[str, ...]:
        resolver = Resolver(settings)
        try:
            return tuple([address for host in hosts for address in await resolver.resolve(host)])
        finally:
            resolver.close()

    try:
        return asyncio.run(look_up())
    except EgressError as error:
        _fail([f"allowed by name, and not found: {error}"])


# --- convert ------------------------------------------------------------------------------------------------------


@app.command()
def convert(configs: _Configs, lenient: _Lenient = False) -> None:
    """Print CONFIGs of any format as one file in the proxy's own YAML, which means the same.

    Defaults are left out. Comments say where each part comes from. What CONFIGs say that has no meaning here is noted on
    standard error.

    \b
    Example:
      egressproxy convert /etc/squid/proxy.conf > egressproxy.yaml
    """
    from egressproxy.config.load import load
    from egressproxy.config.native_text import native_lines

    try:
        loaded = load(configs, lenient=lenient)
    except ConfigError as error:
        _fail(error.problems)
    for note in loaded.notes:
        typer.echo(f"{note._replace(message=f'note: {note.message}')}", err=True)
    if loaded.config.secrets.inline:
        typer.echo(
            "warning: secrets.inline is printed as it is, private keys included: keep the output to yourself", err=True
        )
    _say(native_lines(loaded.config, loaded.locate))


# --- redirect -----------------------------------------------------------------------------------------------------


@app.command()
def redirect(
    configs: Annotated[
        list[str] | None, typer.Argument(metavar="CONFIG", help=f"Where the listener is. {_FORMATS}")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the transparent listener. Default: the one in CONFIG.")
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|UID", help="The proxy's own user, whose connections are left alone. Needed with --own."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="redirect|tproxy", help="As `transparent` in CONFIG. Default: that, or redirect."),
    ] = None,
    ports: Annotated[
        str | None,
        typer.Option(
            metavar="PORTS",
            help="Ports to capture, like 443,8000-8100. Default: 443; for a listener with protocol http 80, "
            "with auto both, with tcp all.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR",
            help="Capture only what goes to these networks. May be repeated. Default: capture.include in CONFIG, or all.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR",
            help="Leave alone what goes to these. May be repeated. Default: capture.exclude in CONFIG, or none.",
        ),
    ] = None,
    own: Annotated[bool, typer.Option("--own/--no-own", help="Capture programs on this host.")] = True,
    routed: Annotated[bool, typer.Option("--routed/--no-routed", help="Capture what is routed through it.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Put the rules in place, in this network namespace.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; nothing else is needed.")] = False,
    lenient: _Lenient = False,
) -> None:
    """Print nftables rules that bring programs' connections to a transparent listener, or apply or remove them.

    Left alone: the proxy's own user, loopback and this host's own addresses, connections to this host, DNS, and all that is
    not TCP. Programs that run as the proxy's user are left alone, too: give it a user of its own.

    --apply replaces what was applied before. While the proxy is down, what is captured is refused.

    \b
    Examples:
      egressproxy redirect --port 8443 --user egressproxy | nft -f -
      egressproxy redirect /etc/egressproxy/ --user 1337 --exclude 10.96.0.0/12 --apply
      egressproxy redirect --port 8443 --mode tproxy --no-own --routed --apply
      egressproxy redirect --remove
    """
    from egressproxy.redirect import Capture, faults, notes, parse_networks, parse_ports, printed
    from egressproxy.runtime import nftables

    if apply and remove:
        _fail(["--apply and --remove: expected one of them"], MISUSED)
    try:
        if remove:
            nftables.remove()
            _say(["nothing is captured any more"])
            return
        place, way, usual_ports, ranges = _transparent(configs, port, mode, lenient)
        capture = Capture(
            place,
            way,
            own,
            routed,
            None if user is None else _uid(user),
            _read("--ports", parse_ports, ports or usual_ports),
            _read("--include", parse_networks, map(str, ranges.include) if include is None else include),
            _read("--exclude", parse_networks, map(str, ranges.exclude) if exclude is None else exclude),
        )
        if wrong := faults(capture):
            _fail(wrong, MISUSED)
        if not apply:
            _say([printed(capture).removesuffix("\n")])
            return
        found = nftables.apply(capture)
    except nftables.CaptureFailed as error:
        _fail([error])
    _say([str(capture), *(f"note: {note}" for note in (*notes(capture), *found))])


_CAPTURED_PORTS = {"sni": "443", "http": "80", "auto": "80,443", "tcp": "1-65535"}
"""What is captured for a listener of this protocol, unless the user says otherwise."""


def _transparent(
    configs: list[str] | None, port: int | None, mode: str | None, lenient: bool
) -> tuple[int, Mode, str, CaptureRanges]:
    """Port and mode of the listener to capture for, as asked for or as CONFIGs say; the ports that it is usually for; and what
    CONFIGs say of destinations.

    Ends the process on anything else.
    """
    from egressproxy.config.load import load
    from egressproxy.config.schema.stages import CaptureRanges

    modes: dict[str | None, Mode] = {None: "redirect", "redirect": "redirect", "tproxy": "tproxy"}
    if mode not in modes:
        _fail([f"--mode: expected redirect or tproxy, got {_shown(mode or '')}"], MISUSED)
    if not configs:
        if port is None:
            _fail(["--port: expected the port of the transparent listener, or a CONFIG that has one"], MISUSED)
        return port, modes[mode], _CAPTURED_PORTS["sni"], CaptureRanges()
    try:
        config = load(configs, lenient=lenient).config
    except ConfigError as error:
        _fail(error.problems)
    found = {
        listener.port: (listener.transparent, _CAPTURED_PORTS[listener.protocol])
        for listener in config.listeners
        if listener.transparent is not None
    }
    if port is None and len(found) > 1:
        _fail([f"--port: expected one of the transparent listeners' ports: {', '.join(map(str, found))}"], MISUSED)
    place = next(iter(found), None) if port is None else port
    if place is None or place not in found:
        where = "" if place is None else f" on port {place}"
        _fail([f"{configs[0]}: expected a listener with `transparent: redirect` or `tproxy`{where}, found none"])
    way, usual_ports = found[place]
    if mode not in (None, way):
        _fail([f"--mode: the listener on port {place} has transparent: {way}, got {mode}"], MISUSED)
    return place, way, usual_ports, config.capture


def _uid(user: str) -> int:
    """The number of a user. Ends the process if there is no such user here."""
    import pwd

    if user.isascii() and user.isdigit() and int(user) < 2**32 - 1:
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        _fail([f"--user: expected a user of this host or a number, got {_shown(user)}"], MISUSED)


def _read(option: str, parse: Callable[[_Given], _Made], text: _Given) -> _Made:
    """What an option's text means. Ends the process on a ValueError."""
    try:
        return parse(text)
    except ValueError as error:
        _fail([f"{option}: {error}"], MISUSED)


# --- schema -------------------------------------------------------------------------------------------------------


@app.command()
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a CONFIG, for editors.

    \b
    Example, and what to write at the top of a CONFIG for it:
      egressproxy schema > egressproxy.schema.json
      # yaml-language-server: $schema=egressproxy.schema.json
    """
    from egressproxy.config.schema.config import json_schema

    _say([json.dumps(json_schema(), indent=2)])


# --- saying it ----------------------------------------------------------------------------------------------------


def _say(lines: Iterable[object]) -> None:
    """Print to standard output. A reader that left (`| head`) is no fault; a disk that is full is."""
    if sys.stdout is None:
        return
    try:
        for line in lines:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    except OSError as error:
        _silence()
        _fail([f"standard output: {error.strerror}"])


def _silence() -> None:
    """Send what is left for standard output nowhere, or the interpreter complains of it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _fail(lines: Iterable[object], code: int = FAILED) -> NoReturn:
    """Print to standard error and end the process."""
    for line in lines:
        typer.echo(str(line), err=True)
    raise typer.Exit(code)


def _shown(text: str) -> str:
    from egressproxy.config.faults import shown

    return shown(text)
