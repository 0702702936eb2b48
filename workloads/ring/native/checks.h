/* Passes of the checks that find out a party which deviates (checks.c), one unit a kind of CPU as those of ring.h:
 * ring_NAME_plain, ring_NAME_avx2, ring_NAME_avx512. Words are 64 bits; outputs overlap no input.
 *
 * Claims lie in `rows` pieces, piece r of lengths[r] words at claims[r], one after the other; behind them are zeros up
 * to `count` words, of which there are no fewer than claims. Random words are met from place `turn` on, and after their
 * end from their beginning: place i of the claims meets random[(i + turn) mod count]. Of all this the places from start
 * to stop are computed: outputs, and what was opened, begin with start's. `bits` says that words are added and
 * multiplied bit by bit, as over Z_2.
 *
 * conceal     out = claim - random
 * remain      out = claim - c - sigma a - rho b, and less rho sigma where `first`; c, a and b are random words;
 *             b and sigma may be NULL, both together: claim - c - 2 rho a, and less rho^2
 * project     of `inner` words of each of `count` rows, row i's word j at values[i * step + j * stride], the sums of
 *             those whose coins have bit s: out[i * repetitions + s], for s = 0, 1, ...; at most 64 of them
 * pack        word i of (count + 63) / 64: the lowest bits of left[64 i + j] + right[64 i + j] at bit j, then zeros;
 *             right may be NULL
 * flip        with d = bit i mod 64 of words[i / 64]: out = number where d is 0 and -number where it is 1, and d added
 *             to that where `first`; if there is a base, the base less that; all of `bytes`
 */
#ifndef FOEDUS_RING_CHECKS_H
#define FOEDUS_RING_CHECKS_H

#include "ring.h"

#define RING_CHECKS(S)                                                                                                 \
    void ring_conceal_##S(size_t rows, const uint64_t *const *claims, const size_t *lengths, size_t count,             \
                          size_t turn, size_t start, size_t stop, int bits, uint64_t *out, const uint64_t *random);    \
    void ring_remain_##S(size_t rows, const uint64_t *const *claims, const size_t *lengths, size_t count, size_t turn, \
                         size_t start, size_t stop, int bits, int first, uint64_t *out, const uint64_t *c,             \
                         const uint64_t *a, const uint64_t *b, const uint64_t *rho, const uint64_t *sigma);            \
    void ring_project_##S(size_t count, size_t inner, ptrdiff_t step, ptrdiff_t stride, int repetitions,               \
                          uint64_t *out, const uint64_t *values, const uint64_t *coins);                               \
    void ring_pack_##S(size_t count, uint64_t *words, const int8_t *left, const int8_t *right);                        \
    void ring_flip_##S(size_t count, int bytes, int first, void *out, const uint64_t *words, const void *number,       \
                       const void *base);

RING_CHECKS(plain)
RING_CHECKS(avx2)
RING_CHECKS(avx512)

#endif
