# The proxy in an image: Python, what it imports, and nothing that builds or installs. It needs no writable directory, no
# capability and no name for its user. docs/development.md builds it without a registry; config/kubernetes runs it.
#
#   docker build -t egressproxy .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges -p 3128:3128 --stop-timeout 40 \
#     -v ./proxy.yaml:/etc/egressproxy/proxy.yaml:ro egressproxy
#
# An image cannot say how long it is given to end: Docker kills after 10 s, where timeouts.drain_s is 30.
#
# BASE is any image with python3, 3.11 or later, and its venv module; a digest pins it. Both stages use it, because what the
# first installs runs on the interpreter of the second. An index of your own goes to pip as a secret, which no layer keeps:
#
#   docker build --secret id=pip,src=pip.conf -t egressproxy .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
RUN python3 -m venv /build
WORKDIR /source
COPY . .
# What has no wheel for this platform, and no compiler to make one, fails here. Nothing is fetched after this line.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /build/bin/pip wheel --no-cache-dir --wheel-dir /wheels .
# Filled from outside, so that there never is a pip in it. Bytecode is for a source of a certain second, and builders copy files
# with parts of seconds rounded either way: all get a whole one.
RUN python3 -m venv --without-pip /opt/egressproxy \
 && /build/bin/pip --python /opt/egressproxy/bin/python install --no-cache-dir --no-compile --no-index \
    --find-links /wheels egressproxy \
 && find /opt/egressproxy -name '*.py' -exec touch -d 2000-01-01T00:00:00Z {} +
# Every module is imported once: a missing library shows now, and what remains is the bytecode of just what the proxy uses,
# the standard library's part included, of which slim images have none. A read-only root could never keep it. (-P: not the
# modules in this folder.)
RUN PYTHONPYCACHEPREFIX=/opt/egressproxy/bytecode /opt/egressproxy/bin/python -P -c "import http.client, importlib, pkgutil, egressproxy as whole; \
[importlib.import_module(each.name) for each in pkgutil.walk_packages(whole.__path__, 'egressproxy.') if not each.name.endswith('__main__')]"

FROM ${BASE}
# The interpreter's own installer, of official Python images and of Debian's.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
    /usr/lib/python3*/ensurepip /usr/share/python-wheels
COPY --from=build /opt/egressproxy /opt/egressproxy
ENV PATH=/opt/egressproxy/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/egressproxy/bytecode \
    EGRESSPROXY_ADMIN_PORT=9090
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="egressproxy" \
      org.opencontainers.image.description="The one door through which workloads leave a network: an egress proxy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# No name stands behind the number, and none is looked up. Kubernetes can see by it that this is not root.
USER 10001:10001
WORKDIR /
# The usual ones: CONNECT, HTTP by Host, TLS by name, admin pages. A configuration says which are listened on.
EXPOSE 3128 8080 8443 9090
# A base may have another. SIGTERM drains.
STOPSIGNAL SIGTERM
# Where admin.port is another one than 9090, EGRESSPROXY_ADMIN_PORT says so. Kubernetes does not look at this: it has probes.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-P", "-c", "import http.client, os; page = http.client.HTTPConnection('127.0.0.1', int(os.environ['EGRESSPROXY_ADMIN_PORT']), timeout=2); page.request('GET', '/readyz'); raise SystemExit(page.getresponse().status != 200)"]
ENTRYPOINT ["egressproxy"]
# With nothing mounted there the proxy says so and ends: its built-in default would listen on the container's loopback only.
CMD ["run", "/etc/egressproxy"]
