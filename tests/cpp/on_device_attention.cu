#include "test_deformable_attention.cpp"
