#include "check.h"

int main() { return edgedet::test::run_tests(); }
