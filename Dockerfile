# robench in a container, as a user without privileges:
#   docker build -t robench .
#   docker run --rm -v "$PWD/runs:/runs" robench quickstart
# For a GPU: docker build --build-arg TORCH=auto (or cu130, ...), or TORCH=pypi for the build of the package index, and
# docker run --gpus all. EXTRAS names the optional packages. The folder given for /runs must be writable by user 1000.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG UV_VERSION=0.13.8
RUN python -m pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}" \
    && useradd --create-home --uid 1000 robench \
    && install --directory --owner=robench --group=robench /runs /data

WORKDIR /opt/robench
COPY constraints.txt ./

# torch alone, since its build depends on the machine, and a change of robench then leaves it where it is
ARG TORCH=cpu
RUN test "${TORCH}" = pypi \
    || uv pip install --system --no-cache --torch-backend="${TORCH}" -c constraints.txt torch torchvision \
    || echo "The build ${TORCH} of torch cannot be had; taking that of the package index."

COPY pyproject.toml README.md LICENSE ./
COPY robench ./robench
COPY defenses ./defenses
COPY attacks ./attacks
ARG EXTRAS=all
RUN uv pip install --system --no-cache --compile-bytecode -c constraints.txt ".[${EXTRAS}]"

ENV ROBENCH_RUNS=/runs ROBENCH_DATA=/data
VOLUME ["/runs", "/data"]
USER 1000
WORKDIR /home/robench
ENTRYPOINT ["robench"]
CMD ["--help"]
