/* The checks' passes for this unit's kind of CPU. */
#define PASS(name) ring_##name##_avx512
#include "checks.c"
