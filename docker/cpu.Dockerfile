# docker build -f docker/cpu.Dockerfile -t ssl-jax:cpu .
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY ssl_jax ssl_jax
COPY configs configs
COPY launch launch
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.12-slim-bookworm
COPY --from=build /venv /venv
RUN useradd --create-home --uid 1000 user && mkdir /runs && chown user /runs
USER 1000
WORKDIR /runs
ENV PATH=/venv/bin:$PATH
ENTRYPOINT ["ssl-jax"]
CMD ["--help"]
