"""The proxies that egressproxy is compared with, each as its documentation and a good operator would set it up.

Log lines are written by the proxy itself, in batches where it can; names are looked up once and kept; one process or thread
does the work. What each can do for speed and Debian's build of it has is switched on where it helps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.support import policy
from benchmarks.support.errors import Unavailable
from benchmarks.support.processes import descriptor_limit
from benchmarks.support.proxy import Proxy, Way, find_program


class Squid(Proxy):
    """Debian's Squid as a proxy at its best: one process, nothing cached, the log written by itself.

    `stdio:` costs Squid less than the log daemon of Debian's default, whose CPU time would count as well.
    """

    name = "squid"
    ways = (Way.CONNECT, Way.CONNECT_TLS, Way.REQUESTS)
    patience_s = (
        0.1  # an orderly exit takes it two seconds, whatever shutdown_lifetime says; its log is complete by then
    )

    @classmethod
    def version(cls) -> str:
        """`squid -v`."""
        program = find_program("squid", "squid")
        output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
        return "Squid " + output.splitlines()[0].rpartition(" ")[2]

    def prepare(self) -> list[str]:
        """Squid gives up root for the user `proxy`, who then writes the log."""
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 {policy.ORIGIN}\n")
        config = self.folder / "squid.conf"
        config.write_text(self._config(hosts))
        self._give_folder_away()
        return [find_program("squid", "squid"), "-N", "-n", self._service, "-f", str(config)]

    @property
    def _service(self) -> str:
        return f"bench{self.port}"  # two Squids of one service name would share, and break, their shared memory

    def stop(self) -> None:
        """Also remove the shared memory that a Squid leaves behind when it is killed."""
        super().stop()
        for segment in Path("/dev/shm").glob(f"{self._service}-*.shm"):
            segment.unlink()

    def _config(self, hosts: Path) -> str:
        names = " ".join(name.removeprefix("*") for name in policy.ALLOWED_NAMES)
        builds = " ".join(name.removeprefix("*") for name in policy.BUILD_NAMES)
        method = "" if self.way is Way.REQUESTS else "CONNECT "
        return f"""\
http_port 127.0.0.1:{self.port}
visible_hostname bench.test
acl CONNECT method CONNECT
acl mail port {" ".join(map(str, policy.MAIL_PORTS))}
acl build_clients src {policy.BUILD_CLIENTS}
acl build_names dstdomain {builds}
acl https port 443
acl loopback_clients src {policy.LOOPBACK_CLIENTS}
acl allowed_names dstdomain {names}
acl allowed_ports port {" ".join(map(str, self.allowed_ports))}
http_access deny mail
http_access allow {method}build_clients build_names https
http_access allow {method}loopback_clients allowed_names allowed_ports
http_access deny all
access_log stdio:{self.log} squid
cache_log {self.folder}/cache.log
cache_store_log none
cache deny all
cache_mem 8 MB
hosts_file {hosts}
dns_nameservers 127.0.0.1
pid_filename none
pinger_enable off
max_filedescriptors {descriptor_limit()}
shutdown_lifetime 0 seconds
coredump_dir {self.folder}
"""

    def _give_folder_away(self) -> None:
        if os.geteuid() != 0:
            return
        shutil.chown(self.folder, "proxy", "proxy")
        for path in self.folder.iterdir():
            shutil.chown(path, "proxy", "proxy")


class Nginx(Proxy):
    """NGINX with one worker, names by its own resolver, log lines written 64 KiB at a time.

    With `ssl_preread` a `server` for each port that it forwards to, because a ClientHello names none. To originate TLS a
    `server` and an `upstream` for each registered host, and one more `server` for the other names; an `upstream` keeps
    connections, and in this version its address has to be written down. None of the ports is 443 or one for mail, so the
    policy's first two rules leave nothing to write but that clients in 10.0.0.0/8 have another list, which is empty here.
    """

    name = "nginx"
    ways = (Way.SNI, Way.ORIGINATION)

    @classmethod
    def version(cls) -> str:
        """`nginx -v`, when its stream module is there and reads ClientHellos."""
        program, _ = cls._find()
        output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
        return "NGINX " + output.strip().rpartition("/")[2]

    @classmethod
    def _find(cls) -> tuple[str, str]:
        """The program, and the line that loads its stream module where that is a file of its own (Debian)."""
        packages = "nginx libnginx-mod-stream"
        program = find_program("nginx", packages)
        built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr.split()
        if "--with-stream_ssl_preread_module" not in built:
            raise Unavailable(f"nginx is built without ssl_preread (Debian: apt-get install {packages})")
        if "--with-stream" in built:
            return program, ""
        folders = [word.partition("=")[2] for word in built if word.startswith("--modules-path=")]
        for module in [Path(folder) / "ngx_stream_module.so" for folder in folders]:
            if module.exists():
                return program, f"load_module {module};"
        raise Unavailable(f"nginx has no stream module (apt-get install {packages})")

    def prepare(self) -> list[str]:
        """Started by root, the worker is `nobody`; the log is opened before."""
        program, load_module = self._find()
        path = self.folder / "nginx.conf"
        path.write_text(
            self._main() + self._http() if self.way is Way.ORIGINATION else load_module + self._main() + self._stream()
        )
        return [program, "-p", str(self.folder), "-e", str(self.folder / "error.log"), "-c", str(path)]

    def log_shows(self) -> tuple[str, ...]:
        """`log_stream`, where a name that is not on the list has no upstream, which is a 500; or `combined` with the host."""
        if self.way is Way.ORIGINATION:
            return f'" {policy.REFUSED} 403', f'" {policy.ORIGIN} 200'
        return f"[{policy.REFUSED}]500 ", f"[{policy.ORIGIN}]200 "

    def _main(self) -> str:
        return f"""
daemon off;
worker_processes 1;
worker_rlimit_nofile {descriptor_limit()};
error_log {self.folder}/error.log warn;
pid {self.folder}/nginx.pid;
events {{
 worker_connections {descriptor_limit()};
 multi_accept on;
}}
"""

    def _http(self) -> str:
        port, authority = self.origins.tls
        registered = (policy.ORIGIN, policy.UNPROVEN)
        others = " ".join(name for name in policy.ALLOWED_NAMES if name not in registered)
        upstreams = "\n".join(
            f" upstream {host} {{ server 127.0.0.1:{port}; keepalive 128; keepalive_requests 1000000000; }}"
            for host in registered
        )
        servers = "".join(self._server(host, host) for host in registered) + self._server(others, "$host")
        folders = "\n".join(
            f" {kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return f"""
http {{
 log_format with_host '$remote_addr - $remote_user [$time_local] "$request" $host '
                      '$status $body_bytes_sent "$http_referer" "$http_user_agent"';
 access_log {self.log} with_host buffer=64k flush=200ms;
{folders}
 server_names_hash_bucket_size 128;
 keepalive_requests 1000000000;
 tcp_nodelay on;
 resolver 127.0.0.1:{self.origins.dns_port} ipv6=off;
 geo $list {{
  default none;
  {policy.BUILD_CLIENTS} builds;
  {policy.LOOPBACK_CLIENTS} allowed;
 }}
 proxy_http_version 1.1;
 proxy_set_header Connection "";
 proxy_set_header Host $host;
 proxy_ssl_verify on;
 proxy_ssl_verify_depth 2;
 proxy_ssl_trusted_certificate {authority};
 proxy_ssl_server_name on;
 proxy_ssl_name $host;
{upstreams}
 server {{ listen 127.0.0.1:{self.port} default_server backlog=4096; return 403; }}
{servers}
}}
"""

    def _server(self, names: str, upstream: str) -> str:
        return f"""
 server {{
  listen 127.0.0.1:{self.port};
  server_name {names};
  if ($list != allowed) {{ return 403; }}
  location / {{ proxy_pass https://{upstream}; }}
 }}"""

    def _stream(self) -> str:
        names = "\n".join(f"  {name} $ssl_preread_server_name;" for name in policy.ALLOWED_NAMES)
        servers = "\n".join(
            f" server {{ listen 127.0.0.1:{port} backlog=4096; ssl_preread on; proxy_pass $target:{service_port}; }}"
            for service_port, port in self.sni_ports.items()
        )
        return f"""
stream {{
 log_format log_stream '$remote_addr [$time_local] $protocol [$ssl_preread_server_name]'
                       '$status $bytes_sent $bytes_received $session_time';
 access_log {self.log} log_stream buffer=64k flush=200ms;
 resolver 127.0.0.1:{self.origins.dns_port} ipv6=off;
 geo $list {{
  default none;
  {policy.BUILD_CLIENTS} builds;
  {policy.LOOPBACK_CLIENTS} allowed;
 }}
 map $ssl_preread_server_name $allowed_name {{
  hostnames;
  default "";
{names}
 }}
 map $list $target {{
  default "";
  allowed $allowed_name;
 }}
{servers}
}}
"""


class HAProxy(Proxy):
    """HAProxy in TCP mode: one thread, the name from the ClientHello, resolved by HAProxy itself and kept.

    It writes no files; its log goes to standard output, which here is one. As for NGINX, a section for each port.
    """

    name = "haproxy"
    ways = (Way.SNI,)

    @classmethod
    def version(cls) -> str:
        """`haproxy -v`."""
        program = find_program("haproxy", "haproxy")
        output = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout
        return "HAProxy " + output.split()[2]

    def prepare(self) -> list[str]:
        """The shell gives it the log as standard output, and becomes it."""
        path = self.folder / "haproxy.cfg"
        path.write_text(self._config())
        program = find_program("haproxy", "haproxy")
        return ["sh", "-c", 'exec "$0" -db -f "$1" >"$2"', program, str(path), str(self.log)]

    def log_shows(self) -> tuple[str, ...]:
        """PR: the proxy refused. --: both sides ended as they should."""
        return f"PR {policy.REFUSED}\n", f"-- {policy.ORIGIN}\n"

    def _config(self) -> str:
        suffixes = [name.removeprefix("*") for name in policy.ALLOWED_NAMES if name.startswith("*.")]
        exact = [name for name in policy.ALLOWED_NAMES if not name.startswith("*.")]
        (self.folder / "suffixes").write_text("\n".join(suffixes) + "\n")
        (self.folder / "exact").write_text("\n".join(exact) + "\n")
        doors = "".join(self._door(service_port, port) for service_port, port in self.sni_ports.items())
        return f"""\
global
 nbthread 1
 log stdout format raw local0
resolvers bench
 nameserver dns 127.0.0.1:{self.origins.dns_port}
 hold valid 1h
defaults
 mode tcp
 log global
 log-format "%ci:%cp [%t] %f %Tw/%Tc/%Tt %B %U %ts %[capture.req.hdr(0)]"
 timeout connect 10s
 timeout client 1h
 timeout server 1h
{doors}"""

    def _door(self, service_port: int, port: int) -> str:
        return f"""\
listen to_{service_port}
 bind 127.0.0.1:{port} defer-accept backlog 4096
 acl build_clients src {policy.BUILD_CLIENTS}
 acl loopback_clients src {policy.LOOPBACK_CLIENTS}
 acl allowed_names req.ssl_sni,lower -m str -f {self.folder}/exact
 acl allowed_names req.ssl_sni,lower -m end -f {self.folder}/suffixes
 tcp-request inspect-delay 10s
 tcp-request content reject unless {{ req.ssl_hello_type 1 }}
 tcp-request content capture req.ssl_sni len 255
 tcp-request content reject if build_clients
 tcp-request content reject unless loopback_clients allowed_names
 tcp-request content do-resolve(txn.address,bench,ipv4) req.ssl_sni
 tcp-request content reject unless {{ var(txn.address) -m found }}
 tcp-request content set-dst var(txn.address)
 server named 0.0.0.0:{service_port}
"""
