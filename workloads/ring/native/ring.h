/* Exact products of matrices over Z_2^64, one kernel a kind of CPU.
 *
 * All functions are re-entrant and keep nothing between calls: what they need lies on the stack, in their arguments, or
 * is allocated and freed within the call. They check nothing: shapes, strides and sizes are the caller's promise.
 * Strides count elements. Every path gives the same bits.
 */
#ifndef FOEDUS_RING_H
#define FOEDUS_RING_H

#include <stddef.h>
#include <stdint.h>

enum ring_path { RING_PLAIN, RING_AVX2, RING_AVX512, RING_AMX, RING_PATHS };

/* Columns come in panels of this many; a call may compute any run of whole panels. */
#define RING_PANEL 32

/* Bit p is set when path p runs on this CPU under this kernel. */
uint32_t ring_paths(void);

/* Bytes that a packed w of k x n takes; the buffer must be aligned to 64. */
size_t ring_packed_bytes(int path, size_t k, size_t n);

/* Packs w, whose element (i, j) lies at w[i * row_stride + j * column_stride]. */
void ring_pack(int path, void *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
               ptrdiff_t column_stride);

/* c = x w for columns begin..end of the m x n product, begin a multiple of RING_PANEL, end one or n; m, k >= 1.
 * Rows of x and c are contiguous. Returns 0, or -1 when memory for scratch is lacking; c is then unfinished. */
int ring_multiply(int path, uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                  size_t m, size_t k, size_t n, size_t begin, size_t end);

/* count products c = x w, one matrix after the other, w packed within the call. Matrices lie x_step and w_step apart;
 * c is contiguous. All dimensions >= 1. Returns 0, or -1 when memory is lacking. */
int ring_products(int path, uint64_t *c, const uint64_t *x, ptrdiff_t x_step, ptrdiff_t x_stride, const uint64_t *w,
                  ptrdiff_t w_step, ptrdiff_t row_stride, ptrdiff_t column_stride, size_t count, size_t m, size_t k,
                  size_t n);

/* The kernels behind ring_multiply; each is in a unit of its own, built for its CPU alone. */
typedef int ring_kernel(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                        size_t m, size_t k, size_t n, size_t begin, size_t end);
ring_kernel ring_multiply_plain, ring_multiply_avx2, ring_multiply_avx512, ring_multiply_amx;

void ring_pack_digits(uint8_t *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
                      ptrdiff_t column_stride);

static inline size_t ring_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ring_ceil(size_t a, size_t b) { return (a + b - 1) / b; }

#endif
