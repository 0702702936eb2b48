/* How a pass is written. A unit of passes is built once a kind of CPU, under another suffix each. */
#ifndef FOEDUS_RING_PASS_H
#define FOEDUS_RING_PASS_H

#include <stddef.h>
#include <stdint.h>

#ifndef PASS
#define PASS(name) ring_##name##_plain
#endif

typedef uint64_t u64;
#define R restrict
#define EACH for (size_t i = 0; i < count; i++)

#endif
