/* The checks' passes for this unit's kind of CPU. */
#define PASS(name) ring_##name##_avx2
#include "checks.c"
