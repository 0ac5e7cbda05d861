#!/bin/sh
# Builds the checkout in the current folder and leaves an environment with it and nothing that runs do not need:
#   build.sh ENVIRONMENT [NAME=VALUE of CMake]...
# Versions are those of constraints.txt. Compilers, Python with venv and its headers have to be there.
set -eu
environment=$1
shift
settings=
for define in "$@"; do
  settings="$settings --config-settings=cmake.define.$define"
done
tools=$(mktemp -d)

python3 -m venv "$tools/venv"
# The last pip for Python 3.8. Ubuntu 22.04's has no --config-settings, 20.04's finds no wheel of OpenVINO either.
"$tools/venv/bin/python" -m pip install --no-cache-dir pip==25.0.1
"$tools/venv/bin/python" -m pip install --no-cache-dir -c constraints.txt \
  cmake ninja openvino pybind11 scikit-build-core
# shellcheck disable=SC2086  # words without spaces
"$tools/venv/bin/python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$tools" $settings .
python3 -m venv --without-pip "$environment"
"$tools/venv/bin/python" -m pip --python "$environment/bin/python" install --no-cache-dir -c constraints.txt \
  "$tools"/edgedet-*.whl

# Plugins and readers of OpenVINO that no bundle needs, its Python side; what C++ programs are built with.
packages=$(echo "$environment"/lib/python3*/site-packages)
find "$packages/openvino" -mindepth 1 -maxdepth 1 ! -name libs -exec rm -rf {} +
for unused in intel_gpu_plugin intel_npu_plugin auto_plugin auto_batch_plugin hetero_plugin c gguf_frontend \
    jax_frontend paddle_frontend pytorch_frontend tensorflow_frontend tensorflow_lite_frontend; do
  rm -f "$packages/openvino/libs/libopenvino_$unused".so*
done
rm -f "$packages/openvino/libs/cache.json"
rm -rf "$packages/edgedet/include" "$packages/edgedet/lib/cmake" "$packages/edgedet/lib/libedgedet.a"
find "$environment" -name __pycache__ -type d -prune -exec rm -rf {} +
rm -rf "$tools"
