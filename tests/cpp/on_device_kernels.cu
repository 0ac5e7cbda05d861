#include "test_cuda_kernels.cpp"
