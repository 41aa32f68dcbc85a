# The server in a container of its own. See "In a container" in README.md; compose.yaml has it beside an Ollama.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /build
RUN python -m venv /venv
# What is pinned changes more rarely than the code.
COPY requirements.txt ./
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --requirement requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY mochi_server mochi_server
RUN /venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --user-group --home-dir /data --shell /usr/sbin/nologin mochi \
    && install --directory --owner=mochi --group=mochi --mode=0700 /data
COPY --from=build /venv /venv
# Nothing but /data is written to: the rest may be read-only. Beyond loopback the server starts with an API key only,
# which MOCHI_API_KEY_FILE names.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MOCHI_HOST=0.0.0.0 \
    MOCHI_PORT=8000 \
    MOCHI_DATA_DIR=/data \
    MOCHI_LOG_FORMAT=json
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; server = http.client.HTTPConnection('127.0.0.1', int(os.environ['MOCHI_PORT']), timeout=4); server.request('GET', '/health'); sys.exit(server.getresponse().status != 200)"]
ENTRYPOINT ["mochi-server"]
