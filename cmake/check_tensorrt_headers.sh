#!/bin/sh
# Compiles the TensorRT backend against header trees, without a library or a GPU: one line a tree.
#   cmake/check_tensorrt_headers.sh TREE...    TREE holds NvInfer.h and NvOnnxParser.h, or include/ with them
# CUDA's headers: $CUDA_HOME or /usr/local/cuda. Compiler: $CXX or g++. Fails if a tree gives an error or a warning.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
cuda=${CUDA_HOME:-/usr/local/cuda}/include
if [ $# -eq 0 ]; then
  echo "usage: $0 TREE..." >&2
  exit 2
fi
if [ ! -f "$cuda/cuda_runtime_api.h" ]; then
  echo "no cuda_runtime_api.h in $cuda; set CUDA_HOME" >&2
  exit 2
fi

status=0
for tree in "$@"; do
  name=$(basename "$tree")
  headers=$tree
  [ -f "$tree/include/NvInfer.h" ] && headers=$tree/include
  if [ ! -f "$headers/NvInfer.h" ]; then
    echo "$name FAILED: no NvInfer.h"
    status=1
    continue
  fi
  failed=0
  warnings=0
  for source in "$root"/csrc/backends/tensorrt/*.cpp; do
    case $source in *_absent.cpp) continue ;; esac
    # shellcheck disable=SC2086  # a compiler may come with options
    if ! output=$(${CXX:-g++} -std=c++17 -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror \
      -Wno-deprecated-declarations -I"$root/csrc" -I"$root/csrc/include" -isystem "$headers" -isystem "$cuda" \
      "$source" 2>&1); then
      failed=1
    fi
    count=$(printf '%s\n' "$output" | grep -c -E ': (warning|error|fatal error): ')
    if [ "$count" -gt 0 ]; then
      warnings=$((warnings + count))
      printf '%s\n' "$output" >&2
    fi
  done
  if [ $failed -eq 0 ] && [ $warnings -eq 0 ]; then
    echo "$name ok"
  else
    echo "$name FAILED: $warnings errors and warnings"
    status=1
  fi
done
exit $status
