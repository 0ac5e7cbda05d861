# Desktop and server GPUs, CUDA 13: docker build -f docker/cuda13.Dockerfile -t edgedet:cuda13 .
# docker run --rm --gpus all edgedet:cuda13
FROM nvidia/cuda:13.0.0-devel-ubuntu24.04@sha256:1e8ac7a54c184a1af8ef2167f28fa98281892a835c981ebcddb1fad04bdd452d AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:13.2.* \
        python3-dev=3.12.* \
        python3-venv=3.12.* \
        libnvinfer-dev=10.13.3.9-1+cuda13.0 \
        libnvinfer-headers-dev=10.13.3.9-1+cuda13.0 \
        libnvinfer-headers-plugin-dev=10.13.3.9-1+cuda13.0 \
        libnvinfer-plugin-dev=10.13.3.9-1+cuda13.0 \
        libnvinfer-plugin10=10.13.3.9-1+cuda13.0 \
        libnvinfer10=10.13.3.9-1+cuda13.0 \
        libnvonnxparsers-dev=10.13.3.9-1+cuda13.0 \
        libnvonnxparsers10=10.13.3.9-1+cuda13.0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN docker/build.sh /opt/edgedet EDGEDET_CUDA=ON EDGEDET_TENSORRT=ON 'CMAKE_CUDA_ARCHITECTURES=75-real;80-real;86-real;89-real;90-real;120-real;120-virtual' \
    && cp docker/healthcheck.py /opt/edgedet/

FROM nvidia/cuda:13.0.0-base-ubuntu24.04
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet with TensorRT 10.13 and CUDA 13.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvidia/cuda:13.0.0-base-ubuntu24.04"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3=3.12.* \
        libnvinfer-plugin10=10.13.3.9-1+cuda13.0 \
        libnvinfer10=10.13.3.9-1+cuda13.0 \
        libnvonnxparsers10=10.13.3.9-1+cuda13.0 \
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
