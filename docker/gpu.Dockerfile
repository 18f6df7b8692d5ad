# syntax=docker/dockerfile:1
# The image for NVIDIA GPUs, built from the repository's root:
#   docker build -f docker/gpu.Dockerfile -t batchinfer:gpu .
# CUDA's libraries come as wheels with the pins that ONNX Runtime was built for; the driver is the host's, handed in by
# NVIDIA's container toolkit: docker run --gpus all …

FROM python:3.11.13-slim-bookworm AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN groupadd --gid 10001 batchinfer \
 && useradd --uid 10001 --gid batchinfer --home-dir /opt/batchinfer --create-home --shell /usr/sbin/nologin batchinfer \
 && for folder in build models results runs staging; do \
      install -d -o batchinfer -g batchinfer "/opt/batchinfer/$folder"; done
WORKDIR /opt/batchinfer

FROM base AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_CACHE_DIR=/var/cache/uv \
    UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/venv
WORKDIR /src
COPY constraints.txt pyproject.toml ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv pip install --constraint constraints.txt --requirements pyproject.toml \
      --extra gpu --extra gpu-libraries --extra kafka --extra postgres --extra quality --extra drift --extra dask \
      --extra metrics --extra lineage
COPY README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/var/cache/uv uv pip install --no-deps .

FROM base AS gpu
COPY --from=build /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
COPY pipelines pipelines
COPY --chown=10001:10001 data/samples data/samples
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["batchinfer"]
CMD ["--help"]
