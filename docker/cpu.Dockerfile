# Any CPU, x86-64 or aarch64: docker build -f docker/cpu.Dockerfile -t edgedet:cpu .
# docker run --rm edgedet:cpu
FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171 AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:12.2.* \
        python3-dev=3.11.* \
        python3-venv=3.11.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN docker/build.sh /opt/edgedet EDGEDET_CUDA=OFF EDGEDET_TENSORRT=OFF \
    && cp docker/healthcheck.py /opt/edgedet/

FROM debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet with OpenVINO on the CPU" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="debian:bookworm-20260824-slim"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3=3.11.* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 edgedet \
    && useradd --system --uid 10001 --gid edgedet --create-home --shell /usr/sbin/nologin edgedet
COPY --from=build /opt/edgedet /opt/edgedet
ENV PATH=/opt/edgedet/bin:$PATH \
    EDGEDET_BACKEND=openvino \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/edgedet
HEALTHCHECK --interval=5m --timeout=30s --start-period=15s \
    CMD ["/opt/edgedet/bin/python", "/opt/edgedet/healthcheck.py"]
ENTRYPOINT ["edgedet"]
CMD ["doctor"]
