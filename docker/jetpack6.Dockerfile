# JetPack 6.1 and 6.2 (L4T r36.4), Orin; TensorRT 10.3 is in both bases: docker build -f docker/jetpack6.Dockerfile -t edgedet:jetpack6 .
# docker run --rm --runtime nvidia edgedet:jetpack6
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:11.2.* \
        python3-dev=3.10.* \
        python3-venv=3.10.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN docker/build.sh /opt/edgedet EDGEDET_CUDA=ON EDGEDET_TENSORRT=ON CMAKE_CUDA_ARCHITECTURES=87-real \
    && cp docker/healthcheck.py /opt/edgedet/

FROM nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet with TensorRT 10.3 for JetPack 6 (Orin)" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/l4t-tensorrt:r10.3.0-runtime"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3=3.10.* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 edgedet \
    && useradd --system --uid 10001 --gid edgedet --groups video --create-home --shell /usr/sbin/nologin edgedet
COPY --from=build /opt/edgedet /opt/edgedet
ENV PATH=/opt/edgedet/bin:$PATH \
    EDGEDET_BACKEND=tensorrt \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /home/edgedet
HEALTHCHECK --interval=5m --timeout=30s --start-period=15s \
    CMD ["/opt/edgedet/bin/python", "/opt/edgedet/healthcheck.py"]
ENTRYPOINT ["edgedet"]
CMD ["doctor"]
