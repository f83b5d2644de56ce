# The alignd server with CUDA and audio:
#   docker run --gpus all -p 50051:50051 -p 9464:9464 alignd

FROM python:3.12.12-slim-bookworm AS wheels
WORKDIR /src
COPY LICENSE ./
COPY proto/ proto/
COPY kernels/ kernels/
COPY server/ server/
COPY client/ client/
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ./proto ./kernels ./server ./client

FROM python:3.12.12-slim-bookworm
ARG TORCH_VERSION=2.13.0

LABEL org.opencontainers.image.title="alignd" \
      org.opencontainers.image.description="gRPC alignment service: batched monotonic and CTC alignment on GPU and CPU" \
      org.opencontainers.image.licenses="Apache-2.0"

# Triton compiles its launchers when a kernel is first used: a C compiler, libc's headers and Python's (the base has those).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

# The large layer first: it changes with the pins, not with the code. PyPI's torch for Linux carries CUDA and names its Triton.
COPY constraints/runtime.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt numpy "torch==${TORCH_VERSION}"

# By file, so that no package of the same name in an index can stand in for ours.
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /tmp/constraints.txt \
        /wheels/alignd_proto-*.whl \
        /wheels/alignd_kernels-*.whl \
        "$(echo /wheels/alignd_server-*.whl)[gpu,audio]" \
        /wheels/alignd_client-*.whl

# One folder for everything that is written at run time; mount a volume on it to keep compiled kernels across containers.
RUN useradd --uid 10001 --no-log-init --home-dir /var/cache/alignd --create-home --shell /usr/sbin/nologin alignd
USER 10001:10001
WORKDIR /var/cache/alignd

ENV PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/var/cache/alignd/triton \
    ALIGND_CACHE_DIR=/var/cache/alignd \
    ALIGND_LISTEN=0.0.0.0:50051 \
    ALIGND_METRICS_LISTEN=0.0.0.0:9464

EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Healthy once the kernels are warm; the first start on a new machine compiles them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 CMD ["alignd", "health"]
ENTRYPOINT ["alignd-server"]
