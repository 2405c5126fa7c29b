# Syllabary for machines without a GPU: Ray head and workers, Prefect worker, and the `syllabary` command.
#
#   docker build -f infra/images/cpu.Dockerfile -t syllabary:cpu .
# wget is what KubeRay before 1.6 asks its pods with whether they are well.
#
#   docker build ... --build-arg PIP_EXTRA_INDEX_URL=<an index of CPU-only torch wheels>     2 GB less
FROM python:3.11-slim-bookworm

ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 \
    SYLLABARY_HOME=/opt/syllabary SYLLABARY_LOG=json

WORKDIR /opt/syllabary
COPY pyproject.toml constraints.txt README.md LICENSE prefect.yaml ./
COPY syllabary ./syllabary
COPY flows ./flows
COPY workers ./workers
COPY model ./model
COPY shards ./shards
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
RUN python -m pip install -c constraints.txt '.[flows,lm,s3,train]'

RUN useradd --create-home --uid 1000 syllabary
USER syllabary
ENTRYPOINT ["syllabary"]
CMD ["--help"]
