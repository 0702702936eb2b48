/* Passes over claims, and over the random objects that they are compared with. As in passes.c the unit is built once a
 * kind of CPU, under another suffix each, for the compiler to vectorise; see checks.h for what each pass computes. */
#include "checks.h"
#include "pass.h"

#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

/* A run of places that lie side by side in a claim, or in the zeros behind them, and in what they meet. */
struct run {
    const u64 *claim; /* NULL: zeros */
    size_t place, other, count; /* from the first place that is asked for on */
};

struct walk {
    const u64 *const *claims;
    const size_t *lengths;
    size_t rows, count, turn, start, stop;
    size_t place, row, used; /* where it stands */
};

static struct walk walk_from(size_t rows, const u64 *const *claims, const size_t *lengths, size_t count, size_t turn,
                             size_t start, size_t stop) {
    struct walk w = {claims, lengths, rows, count, turn, start, stop, start, 0, start};
    while (w.row < rows && w.used >= lengths[w.row]) w.used -= lengths[w.row++];
    return w;
}

static int next_run(struct walk *w, struct run *r) {
    while (w->row < w->rows && w->used == w->lengths[w->row]) w->row++, w->used = 0;
    if (w->place == w->stop) return 0;
    const int there = w->row < w->rows;
    const size_t other = w->place + w->turn < w->count ? w->place + w->turn : w->place + w->turn - w->count;
    size_t run = ring_min(w->stop - w->place, w->count - other);
    if (there) run = ring_min(run, w->lengths[w->row] - w->used);
    *r = (struct run){there ? w->claims[w->row] + w->used : NULL, w->place - w->start, other, run};
    w->place += run, w->used += run;
    return 1;
}

/* Runs a loop once for claims and once for zeros, with Z as what is claimed. */
#define CLAIMED(...)                                                                                                   \
    {                                                                                                                  \
        if (z != NULL) EACH {                                                                                          \
            const u64 Z = z[i];                                                                                        \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        else EACH {                                                                                                    \
            const u64 Z = 0;                                                                                           \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }

static void differ(size_t count, int bits, u64 *R out, const u64 *R z, const u64 *R random) {
    if (bits) CLAIMED(out[i] = Z ^ random[i];)
    else CLAIMED(out[i] = Z - random[i];)
}

void PASS(conceal)(size_t rows, const u64 *const *claims, const size_t *lengths, size_t count, size_t turn,
                   size_t start, size_t stop, int bits, u64 *out, const u64 *random) {
    struct walk w = walk_from(rows, claims, lengths, count, turn, start, stop);
    for (struct run r; next_run(&w, &r);) differ(r.count, bits, out + r.place, r.claim, random + r.other);
}

static void rest(size_t count, int bits, u64 first, u64 *R out, const u64 *R z, const u64 *R c, const u64 *R a,
                 const u64 *R b, const u64 *R rho, const u64 *R sigma) {
    /* sigma a + rho b + rho sigma is sigma (a + rho) + rho b; `first` has all ones or none */
    if (b == NULL) CLAIMED(out[i] = Z - c[i] - rho[i] * (2 * a[i] + (rho[i] & first));)
    else if (bits) CLAIMED(out[i] = Z ^ c[i] ^ (sigma[i] & (a[i] ^ (rho[i] & first))) ^ (rho[i] & b[i]);)
    else CLAIMED(out[i] = Z - c[i] - sigma[i] * (a[i] + (rho[i] & first)) - rho[i] * b[i];)
}

void PASS(remain)(size_t rows, const u64 *const *claims, const size_t *lengths, size_t count, size_t turn,
                  size_t start, size_t stop, int bits, int first, u64 *out, const u64 *c, const u64 *a, const u64 *b,
                  const u64 *rho, const u64 *sigma) {
    struct walk w = walk_from(rows, claims, lengths, count, turn, start, stop);
    for (struct run r; next_run(&w, &r);)
        rest(r.count, bits, first ? UINT64_MAX : 0, out + r.place, r.claim, c + r.other, a + r.other,
             b == NULL ? NULL : b + r.other, rho + r.place, sigma == NULL ? NULL : sigma + r.place);
}

enum { MOST = 64 };

#if defined(__AVX512F__)
#define LANES 8
/* Of ROWS rows, for VECTORS times eight repetitions: a sum a lane, to which a word is added where its coins say so. */
#define PROJECT(VECTORS, ROWS)                                                                                         \
    static void project_##VECTORS##_##ROWS(size_t inner, ptrdiff_t step, ptrdiff_t stride, int repetitions, u64 *out,  \
                                           const u64 *values, const u64 *coins) {                                      \
        __m512i sums[ROWS][VECTORS];                                                                                   \
        for (int r = 0; r < ROWS; r++)                                                                                 \
            for (int v = 0; v < VECTORS; v++) sums[r][v] = _mm512_setzero_si512();                                     \
        for (size_t j = 0; j < inner; j++) {                                                                           \
            const u64 *at = values + (ptrdiff_t)j * stride, coin = coins[j];                                           \
            for (int r = 0; r < ROWS; r++) {                                                                           \
                const __m512i value = _mm512_set1_epi64((long long)at[r * step]);                                      \
                for (int v = 0; v < VECTORS; v++)                                                                      \
                    sums[r][v] = _mm512_mask_add_epi64(sums[r][v], (__mmask8)(coin >> LANES * v), sums[r][v], value);  \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < ROWS; r++)                                                                                 \
            for (int v = 0; v < VECTORS; v++) {                                                                        \
                const int left = repetitions - LANES * v;                                                              \
                const __mmask8 some = (__mmask8)(left < LANES ? (1 << left) - 1 : 255);                                \
                _mm512_mask_storeu_epi64(out + r * repetitions + LANES * v, some, sums[r][v]);                         \
            }                                                                                                          \
    }
#define PROJECTS(ROWS)                                                                                                 \
    PROJECT(1, ROWS)                                                                                                   \
    PROJECT(2, ROWS)                                                                                                   \
    PROJECT(3, ROWS)                                                                                                   \
    PROJECT(4, ROWS)                                                                                                   \
    PROJECT(5, ROWS)                                                                                                   \
    PROJECT(6, ROWS)                                                                                                   \
    PROJECT(7, ROWS)                                                                                                   \
    PROJECT(8, ROWS)                                                                                                   \
    static project_rows *const projects_##ROWS[] = {project_1_##ROWS, project_2_##ROWS, project_3_##ROWS,              \
                                                    project_4_##ROWS, project_5_##ROWS, project_6_##ROWS,              \
                                                    project_7_##ROWS, project_8_##ROWS};

typedef void project_rows(size_t, ptrdiff_t, ptrdiff_t, int, u64 *, const u64 *, const u64 *);
PROJECTS(1)
PROJECTS(4) /* whose masks are made once; 24 sums for 41 repetitions fit in the registers */

void PASS(project)(size_t count, size_t inner, ptrdiff_t step, ptrdiff_t stride, int repetitions, u64 *out,
                   const u64 *values, const u64 *coins) {
    const size_t whole = count - count % 4, kind = (size_t)(repetitions - 1) / LANES;
    for (size_t i = 0; i < count; i += i < whole ? 4 : 1)
        (i < whole ? projects_4 : projects_1)[kind](inner, step, stride, repetitions, out + i * (size_t)repetitions,
                                                    values + (ptrdiff_t)i * step, coins);
}
#else
static void project(size_t inner, ptrdiff_t stride, int repetitions, u64 *out, const u64 *values, const u64 *coins) {
    u64 sums[MOST] = {0};
    for (size_t j = 0; j < inner; j++) {
        const u64 value = values[(ptrdiff_t)j * stride], coin = coins[j];
        for (int s = 0; s < MOST; s++) sums[s] += value & -(coin >> s & 1);
    }
    memcpy(out, sums, (size_t)repetitions * sizeof *out);
}

void PASS(project)(size_t count, size_t inner, ptrdiff_t step, ptrdiff_t stride, int repetitions, u64 *out,
                   const u64 *values, const u64 *coins) {
    EACH project(inner, stride, repetitions, out + i * (size_t)repetitions, values + (ptrdiff_t)i * step, coins);
}
#endif

#define ONES 0x0101010101010101u

void PASS(pack)(size_t count, u64 *words, const int8_t *left, const int8_t *right) {
    size_t i = 0;
    for (; i + 64 <= count; i += 64) {
        u64 word = 0;
        for (int j = 0; j < 8; j++) {
            u64 bits, others = 0;
            memcpy(&bits, left + i + 8 * j, 8);
            if (right != NULL) memcpy(&others, right + i + 8 * j, 8);
            word |= ((bits ^ others) & ONES) * 0x0102040810204080u >> 56 << 8 * j;
        }
        words[i / 64] = word;
    }
    if (i == count) return;
    u64 word = 0;
    for (size_t j = i; j < count; j++) word |= (u64)((left[j] ^ (right == NULL ? 0 : right[j])) & 1) << (j - i);
    words[i / 64] = word;
}

#define FLIP(bits)                                                                                                     \
    static void flip_##bits(size_t count, int first, uint##bits##_t *R out, const u64 *R words,                        \
                            const uint##bits##_t *R number, const uint##bits##_t *R base) {                            \
        typedef uint##bits##_t T;                                                                                      \
        const T more = first ? 2 : 1;                                                                                  \
        for (size_t start = 0; start < count; start += 64) {                                                           \
            const size_t end = ring_min(64, count - start);                                                            \
            const T *R q = number + start;                                                                             \
            T *R to = out + start;                                                                                     \
            uint8_t d[64];                                                                                             \
            for (int j = 0; j < 64; j++) d[j] = words[start / 64] >> j & 1;                                            \
            /* -q is ~q + 1, and one more where d is added: so that is q ^ -d + more d */                              \
            if (base == NULL)                                                                                          \
                for (size_t j = 0; j < end; j++) to[j] = (T)((q[j] ^ (T) - (T)d[j]) + (T)(more * d[j]));               \
            else                                                                                                       \
                for (size_t j = 0; j < end; j++)                                                                       \
                    to[j] = (T)(base[start + j] - (q[j] ^ (T) - (T)d[j]) - (T)(more * d[j]));                          \
        }                                                                                                              \
    }

FLIP(8)
FLIP(16)
FLIP(32)
FLIP(64)

void PASS(flip)(size_t count, int bytes, int first, void *R out, const u64 *R words, const void *R number,
                const void *R base) {
    switch (bytes) {
    case 1: flip_8(count, first, out, words, number, base); break;
    case 2: flip_16(count, first, out, words, number, base); break;
    case 4: flip_32(count, first, out, words, number, base); break;
    default: flip_64(count, first, out, words, number, base); break;
    }
}
