#include "test_frame_path.cpp"
