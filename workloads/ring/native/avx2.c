/* AVX2 has no 64-bit product. In each 64-bit lane vpmuludq gives xlo*wlo; vpmulld of x with its halves swapped gives both
 * cross terms, of which only 32 bits matter: they are summed in 32-bit lanes and moved up once at the end.
 * Two rows by two vectors are eight sums; with three rows the 16 registers spill. */
#include "ring.h"

#include <immintrin.h>
#include <string.h>

enum { ROWS = 2, VECTORS = 2, LANES = 4, WIDTH = VECTORS * LANES };
enum { DEPTH = 256 }; /* rows of a panel that stay in the second-level cache: 64 KiB */

static inline __attribute__((always_inline)) void block(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x,
                                                        ptrdiff_t x_stride, const uint64_t *w, size_t depth, int rows,
                                                        size_t width, int fresh) {
    __m256i low[ROWS][VECTORS], cross[ROWS][VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECTORS; v++) low[r][v] = cross[r][v] = _mm256_setzero_si256();
    for (size_t i = 0; i < depth; i++, w += RING_PANEL) {
        __m256i right[VECTORS];
        for (int v = 0; v < VECTORS; v++) right[v] = _mm256_load_si256((const __m256i *)(w + v * LANES));
        for (int r = 0; r < rows; r++) {
            const __m256i left = _mm256_set1_epi64x((long long)x[r * x_stride + (ptrdiff_t)i]);
            const __m256i swapped = _mm256_shuffle_epi32(left, 0xB1);
            for (int v = 0; v < VECTORS; v++) {
                low[r][v] = _mm256_add_epi64(low[r][v], _mm256_mul_epu32(left, right[v]));
                cross[r][v] = _mm256_add_epi32(cross[r][v], _mm256_mullo_epi32(swapped, right[v]));
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        uint64_t sums[WIDTH];
        for (int v = 0; v < VECTORS; v++) {
            const __m256i both = _mm256_add_epi32(cross[r][v], _mm256_srli_epi64(cross[r][v], 32));
            const __m256i sum = _mm256_add_epi64(low[r][v], _mm256_slli_epi64(both, 32));
            _mm256_storeu_si256((__m256i *)(sums + v * LANES), sum);
        }
        uint64_t *to = c + r * c_stride;
        for (size_t j = 0; j < width; j++) to[j] = fresh ? sums[j] : to[j] + sums[j];
    }
}

int ring_multiply_avx2(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                       size_t m, size_t k, size_t n, size_t begin, size_t end) {
    (void)n;
    for (size_t column = begin; column < end; column += RING_PANEL) {
        const size_t panel_width = ring_min(RING_PANEL, end - column);
        for (size_t start = 0; start < k; start += DEPTH) {
            const uint64_t *panel = (const uint64_t *)packed + column * k + start * RING_PANEL;
            const size_t depth = ring_min(DEPTH, k - start);
            for (size_t row = 0; row < m; row += ROWS)
                for (size_t j = 0; j < panel_width; j += WIDTH) {
                    uint64_t *to = c + (ptrdiff_t)row * c_stride + column + j;
                    const uint64_t *from = x + (ptrdiff_t)row * x_stride + start;
                    const size_t width = ring_min(WIDTH, panel_width - j);
                    if (m - row >= ROWS)
                        block(to, c_stride, from, x_stride, panel + j, depth, ROWS, width, start == 0);
                    else
                        block(to, c_stride, from, x_stride, panel + j, depth, 1, width, start == 0);
                }
        }
    }
    return 0;
}
