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

/* Passes over `count` elements (passes.c), one unit a kind of CPU: ring_NAME_plain, ring_NAME_avx2, ring_NAME_avx512.
 * Words are 64 bits; `bytes` is the size of narrow operands, of which `cut` bits count; outputs overlap no input.
 *
 * total       out = a + b + c + d + constant; c and d, or d, may be NULL
 * product     out = x0 (y0 + y1) + x1 y0; product_bits the same over Z_2 bit by bit; square: x0 (x0 + 2 x1)
 * combine     out = a fa + b fb + constant; b may be NULL
 * masked_bits the product over Z_2 bit by bit, and two masks added to it
 * deal        with a = a0 + a1 and b = b0 + b1: to_first = x + b1, to_second = x + a1, own = component(b, second),
 *             next = component(a, first), wrap = [a + b carries] - wrap_mask, top = (a + b) >> 63 - top_mask, the last
 *             two as signed numbers of cut bits; component(mask, pad) = -(mask >> cut) - 2^(64 - cut) pad;
 *             x, a1, b1, to_first and to_second may be NULL, all together
 * send        sent = x + also + mask + constant, component = component(mask + rest, pad); also or rest, or both, is NULL
 * open        c = sent + came + rest + also, share = wrap + top (1 - c >> 63) + pad, as a signed number of cut bits;
 *             rest and also may be NULL, both together
 * common      c = (c >> cut) + 2^(64 - cut) (share + other) - 2^(62 - cut) - 1, in place
 * window      out = (x + also) >> low, its lowest `bytes`; also may be NULL
 * pairs       of p = passes << 1 and g = arises << 1 where `keep` has ones: for each two places the upper p twice, the
 *             lower g above p, and the upper g
 * groups      the same for groups of `half` bits, of words[i] and words[i + count], beside each other; and the upper g
 * offer       product = e (x0 + x1) - product_mask, bit = e - bit_mask
 * choose      with w = product + e x: sum += w where bit is 0, known + also - w where it is 1; also may be NULL
 * carries     bits: slice by slice, of all lanes of `width` bits of all words, the bit 2 order[slice] + 1
 */
#define RING_PASSES(S)                                                                                                 \
    void ring_total_##S(size_t count, uint64_t *out, const uint64_t *a, const uint64_t *b, const uint64_t *c,          \
                        const uint64_t *d, uint64_t constant);                                                         \
    void ring_product_##S(size_t count, uint64_t *out, const uint64_t *x0, const uint64_t *x1, const uint64_t *y0,     \
                          const uint64_t *y1);                                                                         \
    void ring_product_bits_##S(size_t count, uint64_t *out, const uint64_t *x0, const uint64_t *x1,                    \
                               const uint64_t *y0, const uint64_t *y1);                                                \
    void ring_square_##S(size_t count, uint64_t *out, const uint64_t *x0, const uint64_t *x1);                         \
    void ring_combine_##S(size_t count, uint64_t *out, const uint64_t *a, const uint64_t *b, uint64_t fa, uint64_t fb, \
                          uint64_t constant);                                                                          \
    void ring_masked_bits_##S(size_t count, uint64_t *out, const uint64_t *x0, const uint64_t *x1, const uint64_t *y0, \
                              const uint64_t *y1, const uint64_t *mask, const uint64_t *other);                        \
    void ring_deal_##S(size_t count, int bytes, int cut, uint64_t *to_first, uint64_t *to_second, uint64_t *own,       \
                       uint64_t *next, void *wrap, void *top, const uint64_t *x, const uint64_t *a0,                   \
                       const uint64_t *a1, const uint64_t *b0, const uint64_t *b1, const void *wrap_mask,              \
                       const void *top_mask, const void *first, const void *second);                                   \
    void ring_send_##S(size_t count, int bytes, int cut, uint64_t *sent, uint64_t *component, const uint64_t *x,       \
                       const uint64_t *also, const uint64_t *mask, const uint64_t *rest, const void *pad,              \
                       uint64_t constant);                                                                             \
    void ring_open_##S(size_t count, int bytes, int cut, uint64_t *c, void *share, const uint64_t *sent,               \
                       const uint64_t *came, const uint64_t *rest, const uint64_t *also, const void *wrap,             \
                       const void *top, const void *pad);                                                              \
    void ring_common_##S(size_t count, int bytes, int cut, uint64_t *c, const void *share, const void *other);         \
    void ring_window_##S(size_t count, int bytes, int low, void *out, const uint64_t *x, const uint64_t *also);        \
    void ring_pairs_##S(size_t count, uint64_t keep, uint64_t *high, uint64_t *low, uint64_t *rest,                    \
                        const uint64_t *passes, const uint64_t *arises);                                               \
    void ring_groups_##S(size_t count, int half, uint64_t lower, uint64_t p_places, uint64_t *high, uint64_t *low,     \
                         uint64_t *rest, const uint64_t *words);                                                       \
    void ring_offer_##S(size_t count, uint64_t *product, uint64_t *bit, const int8_t *e, const uint64_t *x0,           \
                        const uint64_t *x1, const uint64_t *product_mask, const uint64_t *bit_mask);                   \
    void ring_choose_##S(size_t count, uint64_t *sum, const int8_t *bit, const uint64_t *known, const uint64_t *also,  \
                         const uint64_t *product, const uint64_t *e, const uint64_t *x);                               \
    void ring_carries_##S(size_t count, int width, const int8_t *order, int8_t *bits, const uint64_t *words);

RING_PASSES(plain)
RING_PASSES(avx2)
RING_PASSES(avx512)

static inline size_t ring_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t ring_ceil(size_t a, size_t b) { return (a + b - 1) / b; }

#endif
