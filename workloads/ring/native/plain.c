/* Any CPU: the schoolbook product, one row of a panel at a time. */
#include "ring.h"

#include <string.h>

int ring_multiply_plain(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                        size_t m, size_t k, size_t n, size_t begin, size_t end) {
    (void)n;
    for (size_t column = begin; column < end; column += RING_PANEL) {
        const uint64_t *panel = (const uint64_t *)packed + column * k;
        const size_t width = ring_min(RING_PANEL, end - column);
        for (size_t row = 0; row < m; row++) {
            const uint64_t *factors = x + (ptrdiff_t)row * x_stride;
            uint64_t sums[RING_PANEL] = {0};
            for (size_t i = 0; i < k; i++)
                for (size_t j = 0; j < RING_PANEL; j++) sums[j] += factors[i] * panel[i * RING_PANEL + j];
            memcpy(c + (ptrdiff_t)row * c_stride + column, sums, width * sizeof(uint64_t));
        }
    }
    return 0;
}
