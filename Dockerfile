# The image of web processes, workers and commands. docs/deploying.md has the commands; compose.yaml runs all parts.

FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /srv/signalbox/current
COPY requirements.txt ./
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements.txt
COPY setup.cfg setup.py README.md LICENSE wsgi.py ./
COPY app app
COPY deploy deploy
COPY examples examples
COPY migrations migrations
RUN .venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --editable . \
    && .venv/bin/python -m compileall -q app deploy migrations wsgi.py

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 999 --home-dir /srv/signalbox --shell /usr/sbin/nologin signalbox \
    && install -d -o signalbox -g signalbox /run/signalbox
COPY --from=build /srv/signalbox/current /srv/signalbox/current
WORKDIR /srv/signalbox/current
ENV PATH=/srv/signalbox/current/.venv/bin:$PATH
USER signalbox
CMD ["gunicorn", "-c", "deploy/gunicorn.conf.py", "wsgi:app"]
