# dlrl with the exact packages of launch/locks. For a TPU pod:
#   docker build -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/dlrl:TAG .
# or with --build-arg EXTRA=cuda12, cuda13, or none for the CPU. Secrets such as
# HF_TOKEN are given when the container starts, never when it is built.
FROM python:3.13.9-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dlrl dlrl
COPY configs configs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir=/wheel .

FROM python:3.13.9-slim-bookworm
ARG EXTRA=tpu
COPY launch/locks /locks
# "none" is the base of all; the others add to it.
RUN pip install --no-cache-dir --no-deps \
      --require-hashes -r /locks/none.txt \
    && if [ "$EXTRA" != none ]; then \
      pip install --no-cache-dir --no-deps \
        --require-hashes -r "/locks/$EXTRA.txt"; fi
COPY --from=build /wheel /wheel
RUN pip install --no-cache-dir --no-deps /wheel/*.whl
# As root, whom a new volume usually belongs to; set runAsUser and fsGroup in the
# pod for another user.
WORKDIR /work
ENTRYPOINT ["dlrl"]
