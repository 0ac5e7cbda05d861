// A library under TensorRT's name that is none: without its functions, or of a version that there was once.
extern "C" {

int edgedet_bogus() { return 0; }

#ifdef EDGEDET_BOGUS_VERSION
int getInferLibVersion() { return EDGEDET_BOGUS_VERSION; }
// Its version is asked for first: these are never called.
void* createInferRuntime_INTERNAL(void* /*logger*/, int /*version*/) { __builtin_trap(); }
void* createInferBuilder_INTERNAL(void* /*logger*/, int /*version*/) { __builtin_trap(); }
#endif
}
