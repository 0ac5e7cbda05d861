#!/bin/sh
# Of the JetPack 5 image: the program loads, and TensorRT's library, which it opens, is there.
edgedet-bench --help > /dev/null || exit 1
ldconfig -p | grep -q 'libnvinfer\.so\.8' || { echo 'unhealthy: no libnvinfer.so.8'; exit 1; }
