#!/usr/bin/env bash
# Cross-builds the runtime wheel (edgedet without training and calibration) for aarch64 into a folder. The root is one
# of aarch64_sysroot.sh or a copy of a board's, with OpenVINO and Python's headers; the Python that runs the build
# (PYTHON, by default python3) has the root's version, scikit-build-core, pybind11, cmake and ninja.
#
#   cmake/aarch64_wheel.sh build/aarch64-root dist
set -euo pipefail
root=$(cd "${1:?usage: aarch64_wheel.sh ROOT FOLDER}" && pwd)
out=$(realpath -m "${2:?usage: aarch64_wheel.sh ROOT FOLDER}")
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
headers=$root/usr/include/python$version
[ -e "$headers/Python.h" ] || { echo "error: expected $headers/Python.h; take the Python of the root" >&2; exit 2; }
openvino=$(cd "$root" && ls -d usr/lib/python3/dist-packages/openvino \
  usr/local/lib/python"$version"/dist-packages/openvino 2>/dev/null | head -n 1 || true)
[ -n "$openvino" ] || { echo "error: expected OpenVINO among the Python packages of $root" >&2; exit 2; }

# pip asks the running Python what platform and suffix extensions have; these two variables answer for the board.
export _PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=.cpython-${version/./}-aarch64-linux-gnu.so
settings=(
  build-dir=build/aarch64-wheel
  "cmake.toolchain-file=$PWD/cmake/toolchains/aarch64-jetson.cmake"
  wheel.packages=python/edgedet
  "cmake.define.EDGEDET_SYSROOT=$root"
  "cmake.define.OpenVINO_DIR=$root/$openvino/cmake"
  cmake.define.EDGEDET_OPENVINO=ON
  cmake.define.EDGEDET_CUDA=OFF
  "cmake.define.Python_INCLUDE_DIR=$headers"
  "cmake.define.PYTHON_MODULE_EXTENSION=$SETUPTOOLS_EXT_SUFFIX"
  "cmake.define.pybind11_DIR=$("$python" -m pybind11 --cmakedir)"
)
# Boards differ in their JPEG library (libjpeg.so.62, libjpeg.so.8), so a wheel links the archives of the root.
libraries=$root/usr/lib/aarch64-linux-gnu
for archive in JPEG_LIBRARY_RELEASE=libjpeg.a PNG_LIBRARY_RELEASE=libpng16.a ZLIB_LIBRARY_RELEASE=libz.a; do
  if [ -e "$libraries/${archive#*=}" ]; then
    settings+=("cmake.define.${archive%=*}=$libraries/${archive#*=}")
  fi
done
"$python" -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps -w "$out" . \
  "${settings[@]/#/--config-settings=}"
