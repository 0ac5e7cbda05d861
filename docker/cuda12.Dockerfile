# Desktop and server GPUs, CUDA 12: docker build -f docker/cuda12.Dockerfile -t edgedet:cuda12 .
# docker run --rm --gpus all edgedet:cuda12
FROM nvidia/cuda:12.6.3-devel-ubuntu22.04@sha256:d49bb8a4ff97fb5fe477947a3f02aa8c0a53eae77e11f00ec28618a0bcaa2ad1 AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:11.2.* \
        python3-dev=3.10.* \
        python3-venv=3.10.* \
        libnvinfer-dev=10.3.0.26-1+cuda12.5 \
        libnvinfer-headers-dev=10.3.0.26-1+cuda12.5 \
        libnvinfer-headers-plugin-dev=10.3.0.26-1+cuda12.5 \
        libnvinfer-plugin-dev=10.3.0.26-1+cuda12.5 \
        libnvinfer-plugin10=10.3.0.26-1+cuda12.5 \
        libnvinfer10=10.3.0.26-1+cuda12.5 \
        libnvonnxparsers-dev=10.3.0.26-1+cuda12.5 \
        libnvonnxparsers10=10.3.0.26-1+cuda12.5 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN docker/build.sh /opt/edgedet EDGEDET_CUDA=ON EDGEDET_TENSORRT=ON 'CMAKE_CUDA_ARCHITECTURES=75-real;80-real;86-real;89-real;90-real;90-virtual' \
    && cp docker/healthcheck.py /opt/edgedet/

FROM nvidia/cuda:12.6.3-base-ubuntu22.04
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet with TensorRT 10.3 and CUDA 12.6" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvidia/cuda:12.6.3-base-ubuntu22.04"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        python3=3.10.* \
        libnvinfer-plugin10=10.3.0.26-1+cuda12.5 \
        libnvinfer10=10.3.0.26-1+cuda12.5 \
        libnvonnxparsers10=10.3.0.26-1+cuda12.5 \
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
