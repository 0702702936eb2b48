# Two images: `operator` (the brain on Kubernetes) and `workloads` (what runs at coordinator and silos).
#
#   docker build --target operator -t foedus-operator .
#   docker build --target workloads --build-context wheels=FOLDER -t foedus-workloads .    # FOLDER holds torch's CPU wheel
#   docker build --target workloads --build-arg TORCH=cuda -t foedus-workloads:cuda .
#
# BASE is any image with Python 3.11, its venv module, pip and glibc 2.28 or newer; the end images get no compiler and
# need none, since only wheels are installed. They run as user 65532 on a read-only root file system. COMPILER is such an
# image with a C compiler; only a build stage of `workloads` uses it, for the ring's kernels.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG COMPILER=docker.io/library/python:3.11-bookworm
# Python's own modules are compiled: images of Python come without, and on a read-only root file system each process would
# compile what it imports of them again. Not these, which no process imports.
ARG NOT_COMPILED=/(test|tests|idlelib|lib2to3|ensurepip|turtledemo|site-packages|dist-packages)/

# A build context of this name takes its place.
FROM scratch AS wheels

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock requirements-cuda.lock requirements-crypten.lock ./
COPY images/ images/

# The project's own wheel, built by what the lock names.
FROM build AS wheel
RUN python3 -m venv /build && images/install-locked /build images/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator/ operator/
COPY workloads/ workloads/
COPY sdk/ sdk/
RUN /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

# The ring's wheel, with its kernels.
FROM ${COMPILER} AS ring
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock ./
COPY images/ images/
RUN python3 -m venv /build && images/install-locked /build images/build.txt
COPY workloads/ring/ workloads/ring/
RUN FOEDUS_RING_NATIVE=required \
    /build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel workloads/ring

FROM build AS operator-packages
RUN python3 -m venv --without-pip /opt/foedus && images/install-locked /opt/foedus images/operator.txt

FROM build AS workloads-packages
# `cpu` takes torch from the build context `wheels`, `cuda` takes it from the package index with what it needs.
ARG TORCH=cpu
# `yes` adds the packages of the examples: corpora and a base model.
ARG EXAMPLES=yes
RUN python3 -m venv --without-pip /opt/foedus
RUN --mount=type=bind,from=wheels,target=/wheels images/install-torch /opt/foedus "${TORCH}" /wheels
RUN images/install-locked /opt/foedus images/workloads.txt \
    && if [ "${EXAMPLES}" = yes ]; then images/install-locked /opt/foedus images/examples.txt; fi
# Of its dependencies, which pip cannot install, nothing is run; its wheel's other packages would shadow those of others.
RUN python3 -m pip --python /opt/foedus/bin/python install --require-hashes --no-deps --only-binary=:all: \
        -r requirements-crypten.lock \
    && /opt/foedus/bin/python images/keep_own_package.py crypten

# The project's own layers are the last and small ones: a new version leaves the packages' layer as it is. The wheel is
# copied and stays: buildah cannot mount from a stage that it has in its cache.
FROM ${BASE} AS operator
COPY --from=operator-packages /opt/foedus /opt/foedus
ARG NOT_COMPILED
RUN python3 -m compileall -q -x "${NOT_COMPILED}" "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=wheel /wheel /wheel
RUN python3 -m pip --python /opt/foedus/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl
ENV PATH=/opt/foedus/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532
CMD ["python", "-m", "foedus_operator.main"]

FROM ${BASE} AS workloads
COPY --from=workloads-packages /opt/foedus /opt/foedus
ARG NOT_COMPILED
RUN python3 -m compileall -q -x "${NOT_COMPILED}" "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=wheel /wheel /wheel
COPY --from=ring /wheel /wheel
RUN python3 -m pip --python /opt/foedus/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl \
    && /opt/foedus/bin/python -c 'import foedus_workloads.mpc.crypten.shims'
ENV PATH=/opt/foedus/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
WORKDIR /
USER 65532:65532
CMD ["python", "-m", "foedus_workloads.entry", "--help"]
