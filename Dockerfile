# One image for every part: servers, workers, and the commands. docs/containers.md says how it is built, pinned and run.
# Pin the base by digest: --build-arg BASE=debian@sha256:...
ARG BASE=debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BASE} AS build
# Debian keeps one version of a package for each release, so that a pinned one is gone with the next security update.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates make python3.11-venv
WORKDIR /opt/flux-tlora
COPY . .
# An index of your own, or torch for the CPU only, is named in a pip.conf, which does not become part of the image.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    make setup PYTHON=python3.11 \
    && .venv/bin/pip install --quiet --no-cache-dir --constraint constraints.txt --editable '.[postgres,s3,signing,ssh]' \
    && .venv/bin/python -c 'import flows.pipeline, flows.promote, flows.retrain, flows.serve, mlflow.server, prefect.server.api.server' \
    && rm -rf build

# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git openssh-client python3.11 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 tlora \
    && install --directory --owner=tlora --group=tlora /srv/flux-tlora \
    && git config --system --add safe.directory /srv/flux-tlora
COPY --from=build /opt/flux-tlora /opt/flux-tlora
# A clone that is mounted at /srv/flux-tlora is what runs work in, and its code comes before the image's.
ENV PATH=/opt/flux-tlora/.venv/bin:$PATH \
    PYTHONPATH=/srv/flux-tlora \
    PYTHONUNBUFFERED=1 \
    TLORA_REPOSITORY=/srv/flux-tlora \
    DO_NOT_TRACK=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PREFECT_SERVER_ANALYTICS_ENABLED=false
USER 1000:1000
WORKDIR /srv/flux-tlora
HEALTHCHECK --interval=30s --timeout=20s --start-period=180s CMD ["python", "-m", "flows.check", "--answers"]
CMD ["python", "-m", "flows.serve"]
