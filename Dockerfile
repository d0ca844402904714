# docker build -t rapids-slr . && docker run --rm --gpus all -v "$PWD/runs:/runs" rapids-slr train
# Python 3.11 is what the tests run on, and constraints.txt holds the versions that they ran with. The CUDA libraries come
# with the wheels, so a slim Python image is all that is needed below them. docs/container.md has the rest.

# What asks for the stack, apart from all else in pyproject.toml, and a wheel of the sources.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml ./
RUN python3 -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['cuda13'], sep='\n')" > requirements.txt
COPY LICENSE README.md ./
COPY rapids_slr rapids_slr
COPY kernels kernels
COPY configs configs
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="rapids-slr" \
      org.opencontainers.image.description="Pseudo-label refinement (SLR) for unsupervised domain adaptation" \
      org.opencontainers.image.licenses="Apache-2.0"
# Any user may write into the home, where libraries keep compiled code, and into the volumes: docker run --user.
RUN useradd --uid 1000 --create-home slr \
    && mkdir /data /runs \
    && chown slr:slr /data /runs \
    && chmod 1777 /data /runs /home/slr

# The stack before the sources: it changes with its requirements alone. Bytecode now, as nobody can write it later.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /opt
COPY constraints.txt ./
COPY --from=build /src/requirements.txt ./
RUN --mount=type=cache,target=/var/cache/uv \
    python3 -m venv /opt/venv \
    && pip install --no-cache-dir --constraint constraints.txt uv \
    && uv pip install --cache-dir /var/cache/uv --link-mode copy --compile-bytecode \
       --constraint constraints.txt --requirement requirements.txt \
    && pip uninstall --yes uv
RUN --mount=type=bind,from=build,source=/dist,target=/dist \
    pip install --no-cache-dir --no-deps --no-index /dist/*.whl

# torch asks for the name of its user, which another uid than 1000 has not.
ENV HOME=/home/slr USER=slr NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000:1000
# Runs go to runs/<name>-<time>, and paths in a spec count, from here.
WORKDIR /
VOLUME ["/data", "/runs"]
ENTRYPOINT ["rapids-slr"]
CMD ["--help"]
