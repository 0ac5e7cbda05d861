# JetPack 5.1 (L4T r35), Xavier and Orin; TensorRT 8.5 is in both bases: docker build -f docker/jetpack5.Dockerfile -t edgedet:jetpack5 .
# docker run --rm --runtime nvidia edgedet:jetpack5
FROM nvcr.io/nvidia/l4t-jetpack:r35.4.1@sha256:d1c8e971ab994235840eacc31c4ef4173bf9156317b1bf8aabe7e01eb21b2a0e AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:9.3.* \
        libjpeg-dev=8c-* \
        libpng-dev=1.6.* \
        python3-dev=3.8.* \
        python3-venv=3.8.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN PATH=/usr/local/cuda/bin:$PATH docker/build.sh /opt/edgedet EDGEDET_CUDA=ON EDGEDET_TENSORRT=ON 'CMAKE_CUDA_ARCHITECTURES=72-real;87-real' \
    && cp docker/healthcheck.py /opt/edgedet/

FROM nvcr.io/nvidia/l4t-tensorrt:r8.5.2-runtime
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet with TensorRT 8.5 for JetPack 5 (Xavier, Orin)" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/l4t-tensorrt:r8.5.2-runtime"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libjpeg8=8c-* \
        libpng16-16=1.6.* \
        python3=3.8.* \
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
