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
"$tools/venv/bin/python" -m pip install --no-cache-dir -c constraints.txt \
  cmake ninja openvino pybind11 scikit-build-core
# shellcheck disable=SC2086  # words without spaces
"$tools/venv/bin/python" -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir "$tools" $settings .
python3 -m venv "$environment"
"$environment/bin/python" -m pip install --no-cache-dir -c constraints.txt "$tools"/edgedet-*.whl

# Plugins and readers of OpenVINO that no bundle needs, its Python side, pip.
packages=$(echo "$environment"/lib/python3*/site-packages)
find "$packages/openvino" -mindepth 1 -maxdepth 1 ! -name libs -exec rm -rf {} +
for unused in intel_gpu_plugin intel_npu_plugin auto_plugin auto_batch_plugin hetero_plugin c gguf_frontend \
    jax_frontend paddle_frontend pytorch_frontend tensorflow_frontend tensorflow_lite_frontend; do
  rm -f "$packages/openvino/libs/libopenvino_$unused".so*
done
rm -f "$packages/openvino/libs/cache.json"
"$environment/bin/python" -m pip uninstall -y pip setuptools
find "$environment" -name __pycache__ -type d -prune -exec rm -rf {} +
rm -rf "$tools"
