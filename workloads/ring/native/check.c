/* Every path of this CPU against the schoolbook product, on buffers of exactly the size they need: built with the
 * compiler's sanitizers, it also shows that nothing beyond them is touched. Exits with the number of products that
 * differ. */
#include "checks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 1;

/* splitmix64, with the corners 0, 1, -1 and 2^63 mixed in. */
static uint64_t draw(void) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    static const uint64_t corners[4] = {0, 1, UINT64_MAX, (uint64_t)1 << 63};
    return z % 8 < 4 ? corners[z % 8] : z;
}

static uint64_t *draw_all(size_t count) {
    uint64_t *all = malloc(count * sizeof(uint64_t));
    if (all == NULL) abort();
    for (size_t i = 0; i < count; i++) all[i] = draw();
    return all;
}

static int differs(int path, size_t m, size_t k, size_t n, int transposed) {
    uint64_t *x = draw_all(m * k), *w = draw_all(k * n), *c = draw_all(m * n);
    const ptrdiff_t row_stride = transposed ? 1 : (ptrdiff_t)n, column_stride = transposed ? (ptrdiff_t)k : 1;
    void *packed = aligned_alloc(64, ring_packed_bytes(path, k, n));
    if (packed == NULL) abort();
    ring_pack(path, packed, w, k, n, row_stride, column_stride);
    int wrong = 0;
    for (size_t begin = 0; begin < n; begin += RING_PANEL) /* a call a panel, as threads do */
        wrong |= ring_multiply(path, c, (ptrdiff_t)n, x, (ptrdiff_t)k, packed, m, k, n, begin,
                               ring_min(begin + RING_PANEL, n));
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            uint64_t sum = 0;
            for (size_t l = 0; l < k; l++)
                sum += x[i * k + l] * w[(ptrdiff_t)l * row_stride + (ptrdiff_t)j * column_stride];
            wrong |= sum != c[i * n + j];
        }
    uint64_t *again = draw_all(2 * m * n); /* two products of the same operands, packed within the call */
    wrong |= ring_products(path, again, x, 0, (ptrdiff_t)k, w, 0, row_stride, column_stride, 2, m, k, n);
    wrong |= memcmp(again, c, m * n * sizeof *c) != 0 || memcmp(again + m * n, c, m * n * sizeof *c) != 0;
    free(x), free(w), free(c), free(packed), free(again);
    return wrong;
}

/* Every pass of a unit on buffers of exactly its sizes; what comes out is compared with the plain unit's. */
#define RUN_PASSES(S)                                                                                                  \
    static void run_passes_##S(size_t n, const uint64_t *in, uint64_t *out) {                                          \
        const uint64_t *a = in, *b = in + n, *c = in + 2 * n, *d = in + 3 * n, *e = in + 4 * n;                        \
        ring_total_##S(n, out, a, b, c, d, 7), out += n;                                                               \
        ring_product_##S(n, out, a, b, c, d), out += n;                                                                \
        ring_product_bits_##S(n, out, a, b, c, d), out += n;                                                           \
        ring_square_##S(n, out, a, b), out += n;                                                                       \
        ring_combine_##S(n, out, a, NULL, 5, 0, 7), out += n;                                                          \
        ring_combine_##S(n, out, a, b, 5, 3, 7), out += n;                                                             \
        ring_masked_bits_##S(n, out, a, b, c, d, e, a), out += n;                                                      \
        for (int bytes = 1; bytes <= 8; bytes *= 2) {                                                                  \
            const int cut = bytes == 8 ? 62 : 8 * bytes;                                                               \
            uint64_t *own = out, *next = out + n, *wrap = out + 2 * n, *top = out + 3 * n, *also = out + 4 * n;        \
            ring_deal_##S(n, bytes, cut, NULL, NULL, own, next, wrap, top, NULL, a, NULL, b, NULL, c, d, e, a);        \
            out += 4 * n, own += 4 * n, next += 4 * n, wrap += 4 * n, top += 4 * n, also += 4 * n;                     \
            ring_deal_##S(n, bytes, cut, also, also + n, own, next, wrap, top, a, b, c, d, e, b, c, d, e);             \
            out += 6 * n;                                                                                              \
            ring_send_##S(n, bytes, cut, out, out + n, a, NULL, b, NULL, c, 7), out += 2 * n;                          \
            ring_send_##S(n, bytes, cut, out, out + n, a, d, b, NULL, c, 7), out += 2 * n;                             \
            ring_send_##S(n, bytes, cut, out, out + n, a, NULL, b, d, c, 7), out += 2 * n;                             \
            ring_open_##S(n, bytes, cut, out, out + n, a, b, NULL, NULL, c, d, e), out += 2 * n;                       \
            ring_open_##S(n, bytes, cut, out, out + n, a, b, c, d, c, d, e), out += 2 * n;                             \
            memcpy(out, a, n * sizeof *a); /* in place */                                                              \
            ring_common_##S(n, bytes, cut, out, b, c), out += n;                                                       \
            ring_window_##S(n, bytes, 3, out, a, NULL), out += n;                                                      \
            ring_window_##S(n, bytes, 3, out, a, b), out += n;                                                         \
        }                                                                                                              \
        ring_pairs_##S(n, 0x7FFF7FFF7FFF7FFFu, out, out + n, out + 2 * n, a, b), out += 3 * n;                         \
        ring_groups_##S(n, 4, 0x0F0F0F0F0F0F0F0Fu, 0x0505050505050505u, out, out + n, out + 2 * n, a), out += 3 * n;   \
        ring_offer_##S(n, out, out + n, (const int8_t *)a, b, c, d, e), out += 2 * n;                                  \
        ring_choose_##S(n, out, (const int8_t *)a, b, NULL, c, d, e);                                                  \
        ring_choose_##S(n, out, (const int8_t *)a, b, c, c, d, e), out += n;                                           \
        static const int8_t order[4] = {0, 2, 1, 3};                                                                   \
        ring_carries_##S(n, 8, order, (int8_t *)out, a); /* 32 bytes a word: the last of the buffer */                 \
    }

RUN_PASSES(plain)
enum { PASS_OUTPUTS = 7 + 4 * 23 + 3 + 3 + 2 + 1 + 4 };

/* The checks' passes: two claims and zeros, all places and those from the second on. */
#define RUN_CHECKS(S)                                                                                                  \
    static void run_checks_##S(size_t n, const uint64_t *in, uint64_t *out) {                                          \
        const uint64_t *a = in, *b = in + n, *c = in + 2 * n, *d = in + 3 * n, *e = in + 4 * n;                        \
        const uint64_t *claims[2] = {a, b};                                                                            \
        const size_t lengths[2] = {n / 2, n / 3}, turn = n / 4, from = ring_min(1, n - 1);                             \
        for (int bits = 0; bits < 2; bits++) {                                                                         \
            ring_conceal_##S(2, claims, lengths, n, turn, 0, n, bits, out, c), out += n;                               \
            ring_conceal_##S(2, claims, lengths, n, turn, from, n, bits, out, c), out += n;                            \
            ring_remain_##S(2, claims, lengths, n, turn, 0, n, bits, 1, out, c, d, e, a, b), out += n;                 \
            ring_remain_##S(2, claims, lengths, n, turn, from, n, bits, 0, out, c, d, e, a, b), out += n;              \
        }                                                                                                              \
        ring_remain_##S(2, claims, lengths, n, turn, 0, n, 0, 1, out, c, d, NULL, a, NULL), out += n;                  \
        ring_project_##S(1, n, (ptrdiff_t)n, 1, 41, out, a, b), out += 41;                                             \
        ring_project_##S(n, 1, 1, 1, 1, out, a, b), out += n;                                                          \
        ring_pack_##S(n, out, (const int8_t *)a, NULL), out += (n + 63) / 64;                                          \
        ring_pack_##S(n, out, (const int8_t *)a, (const int8_t *)b), out += (n + 63) / 64;                             \
        for (int bytes = 1; bytes <= 8; bytes *= 2) {                                                                  \
            ring_flip_##S(n, bytes, 1, out, a, b, NULL), out += n;                                                     \
            ring_flip_##S(n, bytes, 0, out, a, b, c), out += n;                                                        \
        }                                                                                                              \
    }

RUN_CHECKS(plain)
static size_t check_outputs(size_t n) { return (8 + 1 + 1 + 8) * n + 41 + 2 * ((n + 63) / 64); }

#if defined(__x86_64__)
RUN_PASSES(avx2)
RUN_PASSES(avx512)
RUN_CHECKS(avx2)
RUN_CHECKS(avx512)
#endif

typedef void run_all(size_t n, const uint64_t *in, uint64_t *out);

/* Runs the plain unit's passes and those of each unit of this CPU; tells whether what comes out differs. */
static int passes_differ(size_t n, size_t outputs, run_all *const runs[RING_AMX]) {
    const size_t size = outputs * sizeof(uint64_t);
    uint64_t *in = draw_all(5 * n), *want = calloc(1, size), *got = malloc(size);
    if (want == NULL || got == NULL) abort();
    int wrong = 0;
    runs[RING_PLAIN](n, in, want);
    for (int path = RING_AVX2; path < RING_AMX; path++) {
        if ((ring_paths() >> path & 1) == 0) continue;
        memset(got, 0, size);
        runs[path](n, in, got);
        wrong |= memcmp(want, got, size) != 0;
    }
    free(in), free(want), free(got);
    return wrong;
}

#if defined(__x86_64__)
static run_all *const passes[RING_AMX] = {run_passes_plain, run_passes_avx2, run_passes_avx512};
static run_all *const checks[RING_AMX] = {run_checks_plain, run_checks_avx2, run_checks_avx512};
#else
static run_all *const passes[RING_AMX] = {run_passes_plain, NULL, NULL};
static run_all *const checks[RING_AMX] = {run_checks_plain, NULL, NULL};
#endif

int main(void) {
    static const size_t shapes[][3] = {{1, 1, 1},     {2, 3, 5},     {3, 64, 31},   {4, 65, 32},  {5, 63, 33},
                                       {6, 256, 48},  {7, 257, 17},  {16, 512, 65}, {17, 513, 7}, {31, 130, 40},
                                       {257, 70, 34}, {2, 1100, 64}};
    int wrong = 0;
    for (int path = 0; path < RING_PATHS; path++) {
        if ((ring_paths() >> path & 1) == 0) continue;
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int transposed = 0; transposed < 2; transposed++) {
                if (!differs(path, shapes[s][0], shapes[s][1], shapes[s][2], transposed)) continue;
                printf("path %d differs at %zu x %zu x %zu\n", path, shapes[s][0], shapes[s][1], shapes[s][2]);
                wrong++;
            }
        printf("path %d checked\n", path);
    }
    static const size_t counts[] = {1, 7, 64, 67, 200};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (!passes_differ(counts[i], PASS_OUTPUTS * counts[i], passes) &&
            !passes_differ(counts[i], check_outputs(counts[i]), checks))
            continue;
        printf("passes differ at %zu\n", counts[i]);
        wrong++;
    }
    return wrong;
}
