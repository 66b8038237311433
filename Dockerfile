# One image for both planes. `docker build -t zerogate .`, then
#   docker run zerogate gateway --help
#   docker run zerogate controller --help
# The full image has a compiler, for the codec.
FROM python:3.13 AS build
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gateway gateway
COPY controller controller
COPY deploy deploy
RUN python -m venv /opt/zerogate && /opt/zerogate/bin/pip install --no-cache-dir . \
 && cd / && /opt/zerogate/bin/python -c "import gateway.core._http1"

FROM python:3.13-slim
COPY --from=build /opt/zerogate /opt/zerogate
# 65532 is the "nonroot" user of distroless images; nothing in the image is writable by it.
USER 65532:65532
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["/opt/zerogate/bin/zerogate"]
