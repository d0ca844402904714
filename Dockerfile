# docker build -t rapids-slr . && docker run --gpus all -v "$PWD/runs:/runs" rapids-slr train
# The CUDA libraries come with the wheels, so a slim Python image is all that is needed below them.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 NUMBA_CACHE_DIR=/tmp/numba
RUN useradd --create-home --uid 1000 slr && mkdir /data /runs && chown slr:slr /data /runs && pip install uv

WORKDIR /opt/rapids-slr
# The stack first: it changes seldom, and its layer is kept while the sources change.
COPY pyproject.toml README.md LICENSE ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*p['dependencies'], *p['optional-dependencies']['cuda13'], sep='\n')" > /tmp/stack.txt \
    && uv pip install --system --no-cache -r /tmp/stack.txt
COPY rapids_slr rapids_slr
COPY kernels kernels
COPY configs configs
RUN uv pip install --system --no-cache --no-deps .

USER slr
WORKDIR /
VOLUME ["/data", "/runs"]
ENTRYPOINT ["rapids-slr"]
CMD ["--help"]
