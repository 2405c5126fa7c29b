# Syllabary for NVIDIA GPUs. The torch wheel brings its own CUDA; the host gives the driver (NVIDIA container toolkit).
# DeepSpeed is used with torch's AdamW, so that no CUDA toolkit is needed; the C compiler is Triton's, with which torch
# compiles the blocks of a training.
#
#   docker build -f infra/images/cuda.Dockerfile -t syllabary:cuda .
FROM python:3.11-slim-bookworm

ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    RAY_USAGE_STATS_ENABLED=0 PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 \
    SYLLABARY_HOME=/opt/syllabary SYLLABARY_LOG=json

WORKDIR /opt/syllabary
COPY pyproject.toml constraints.txt README.md LICENSE prefect.yaml ./
COPY syllabary ./syllabary
COPY flows ./flows
COPY workers ./workers
COPY model ./model
COPY shards ./shards
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev wget && rm -rf /var/lib/apt/lists/*
RUN python -m pip install -c constraints.txt '.[flows,lm,s3,train]'

RUN useradd --create-home --uid 1000 syllabary
USER syllabary
ENTRYPOINT ["syllabary"]
CMD ["--help"]
