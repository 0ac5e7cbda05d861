// Marks a function as callable from host and device, so that a formula is written once for both.
#pragma once

#if defined(__CUDACC__)
#define EDGEDET_HD __host__ __device__
#else
#define EDGEDET_HD
#endif
