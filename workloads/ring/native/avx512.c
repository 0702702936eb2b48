/* AVX-512 DQ multiplies 64-bit lanes by itself (vpmullq). Six rows by four vectors are 24 sums of the 32 registers; each
 * row of a panel is read once for six rows of x. */
#include "ring.h"

#include <immintrin.h>

enum { ROWS = 6, VECTORS = 4, LANES = 8 };
enum { DEPTH = 512 }; /* rows of a panel that stay in the second-level cache: 128 KiB */

static inline __mmask8 mask(size_t width, int vector) {
    const size_t first = (size_t)vector * LANES;
    return width >= first + LANES ? 0xFF : width <= first ? 0 : (__mmask8)((1u << (width - first)) - 1);
}

static inline __attribute__((always_inline)) void block(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x,
                                                        ptrdiff_t x_stride, const uint64_t *w, size_t depth, int rows,
                                                        size_t width, int fresh) {
    __m512i sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_setzero_si512();
    for (size_t i = 0; i < depth; i++, w += RING_PANEL) {
        __m512i right[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) right[v] = _mm512_load_si512(w + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const __m512i left = _mm512_set1_epi64((long long)x[r * x_stride + (ptrdiff_t)i]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                sums[r][v] = _mm512_add_epi64(sums[r][v], _mm512_mullo_epi64(left, right[v]));
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) {
            uint64_t *to = c + r * c_stride + v * LANES;
            const __mmask8 within = mask(width, v);
            const __m512i before = fresh ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi64(within, to);
            _mm512_mask_storeu_epi64(to, within, _mm512_add_epi64(before, sums[r][v]));
        }
}

static void blocks(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const uint64_t *w,
                   size_t depth, size_t rows, size_t width, int fresh) {
    switch (rows) {
    case 1: block(c, c_stride, x, x_stride, w, depth, 1, width, fresh); break;
    case 2: block(c, c_stride, x, x_stride, w, depth, 2, width, fresh); break;
    case 3: block(c, c_stride, x, x_stride, w, depth, 3, width, fresh); break;
    case 4: block(c, c_stride, x, x_stride, w, depth, 4, width, fresh); break;
    case 5: block(c, c_stride, x, x_stride, w, depth, 5, width, fresh); break;
    default: block(c, c_stride, x, x_stride, w, depth, 6, width, fresh); break;
    }
}

int ring_multiply_avx512(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                         size_t m, size_t k, size_t n, size_t begin, size_t end) {
    (void)n;
    for (size_t column = begin; column < end; column += RING_PANEL) {
        const size_t width = ring_min(RING_PANEL, end - column);
        for (size_t start = 0; start < k; start += DEPTH) {
            const uint64_t *panel = (const uint64_t *)packed + column * k + start * RING_PANEL;
            const size_t depth = ring_min(DEPTH, k - start);
            for (size_t row = 0; row < m; row += ROWS)
                blocks(c + (ptrdiff_t)row * c_stride + column, c_stride, x + (ptrdiff_t)row * x_stride + start,
                       x_stride, panel, depth, ring_min(ROWS, m - row), width, start == 0);
        }
    }
    return 0;
}
