# JetPack 5.1 (L4T r35), Xavier and Orin; TensorRT 8.5: docker build -f docker/jetpack5.Dockerfile -t edgedet:jetpack5 .
# docker run --rm --runtime nvidia -v $PWD/femto:/bundle:ro edgedet:jetpack5 /bundle --backend tensorrt
# The native library and edgedet-bench alone: its Python is 3.8, older than the Python package asks for.
FROM nvcr.io/nvidia/l4t-jetpack:r35.4.1@sha256:d1c8e971ab994235840eacc31c4ef4173bf9156317b1bf8aabe7e01eb21b2a0e AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        g++=4:9.3.* \
        libjpeg-dev=8c-* \
        libpng-dev=1.6.* \
        python3-venv=3.8.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
# The pip of Ubuntu 20.04 knows no wheel as new as CMake's.
RUN python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-cache-dir pip==25.0.1 \
    && /opt/build/bin/python -m pip install --no-cache-dir -c constraints.txt cmake ninja
COPY . .
RUN PATH=/opt/build/bin:/usr/local/cuda/bin:$PATH cmake -S . -B /build -G Ninja \
        -DEDGEDET_BINDINGS=OFF -DEDGEDET_OPENVINO=OFF -DEDGEDET_CUDA=ON -DEDGEDET_TENSORRT=ON \
        "-DCMAKE_CUDA_ARCHITECTURES=72-real;87-real" \
    && /opt/build/bin/cmake --build /build --target edgedet-bench \
    && /opt/build/bin/cmake --install /build --prefix /opt/edgedet --strip \
    && cp docker/healthcheck.sh /opt/edgedet/

FROM nvcr.io/nvidia/l4t-tensorrt:r8.5.2-runtime
LABEL org.opencontainers.image.title="edgedet" \
      org.opencontainers.image.description="edgedet-bench with TensorRT 8.5 for JetPack 5 (Xavier, Orin)" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/l4t-tensorrt:r8.5.2-runtime"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libjpeg8=8c-* \
        libpng16-16=1.6.* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 edgedet \
    && useradd --system --uid 10001 --gid edgedet --groups video --create-home --shell /usr/sbin/nologin edgedet
COPY --from=build /opt/edgedet /opt/edgedet
ENV PATH=/opt/edgedet/bin:$PATH
USER 10001
WORKDIR /home/edgedet
HEALTHCHECK --interval=5m --timeout=30s --start-period=15s \
    CMD ["/opt/edgedet/healthcheck.sh"]
ENTRYPOINT ["edgedet-bench"]
CMD ["--help"]
