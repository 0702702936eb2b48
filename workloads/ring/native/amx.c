/* AMX multiplies tiles of bytes, 16 x 64 by 64 x 16, into 32-bit sums. With the bytes x_i, w_j as digits to base 256,
 *     x w = sum over g < 8 of 2^(8g) * sum over i + j = g of x_i w_j   mod 2^64:
 * 36 byte products, grouped into eight sums. All digits are unsigned (tdpbuud).
 *
 * Bounds: sum g counts modulo 2^(64 - 8g). For g >= 4 that is at most 32 bits, so wrapping is harmless; for g <= 3 there
 * are at most four pairs, 4 * 255^2 * DEPTH < 2^28. Beyond DEPTH rows of w, sums go on in 64 bits; so k has no bound.
 *
 * Registers: four sums (g = 0..3, then 4..7), one tile of x and three of w. Byte j of w meets byte i of x in sum i + j,
 * so while i counts up, each tile of w moves through the four sums and is loaded once a pass. */
#include "ring.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 16, INNER = 64, DIGITS = 8, TILE = SIDE * INNER, STEP = DIGITS * TILE };
/* Tiles of w for 512 rows and 16 columns take 64 KiB, x's digits for 256 rows and that depth 1 MiB: both stay in the
 * second-level cache, from which tiles come as fast as they are multiplied. A deeper block would save more passes over
 * the sums, and leave the cache. */
enum { DEPTH = 512, HEIGHT = 256 };

struct configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t columns[16];
    uint8_t rows[16];
};

static void configure(void) {
    struct configuration eight = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) eight.columns[tile] = INNER, eight.rows[tile] = SIDE;
    _tile_loadconfig(&eight);
}

/* Byte i of in[e] goes to out[i * TILE + e], for 64 elements: a transposition within each register, then between them. */
static void split_digits(uint8_t *out, const uint64_t *in) {
    uint8_t order[64];
    for (int e = 0; e < 8; e++)
        for (int i = 0; i < 8; i++) order[i * 8 + e] = (uint8_t)(e * 8 + i);
    const __m512i bytes = _mm512_loadu_si512(order);
    const __m512i even = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0), odd = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
    __m512i v[8], pairs[8], quads[8];
    for (int r = 0; r < 8; r++) v[r] = _mm512_permutexvar_epi8(bytes, _mm512_loadu_si512(in + r * 8));
    for (int r = 0; r < 8; r += 2) {
        pairs[r] = _mm512_unpacklo_epi64(v[r], v[r + 1]);
        pairs[r + 1] = _mm512_unpackhi_epi64(v[r], v[r + 1]);
    }
    for (int r = 0; r < 8; r += 4)
        for (int s = 0; s < 2; s++) {
            quads[r + s] = _mm512_permutex2var_epi64(pairs[r + s], even, pairs[r + 2 + s]);
            quads[r + 2 + s] = _mm512_permutex2var_epi64(pairs[r + s], odd, pairs[r + 2 + s]);
        }
    for (int s = 0; s < 4; s++) {
        _mm512_storeu_si512(out + s * TILE, _mm512_shuffle_i64x2(quads[s], quads[4 + s], 0x44));
        _mm512_storeu_si512(out + (s + 4) * TILE, _mm512_shuffle_i64x2(quads[s], quads[4 + s], 0xEE));
    }
}

/* Four rows of w by 16 columns, each row contiguous, to 16 columns of four. */
static void turn(uint64_t *words, const uint64_t *w, ptrdiff_t row_stride) {
    for (int j = 0; j < SIDE; j += 4, w += 4) {
        const __m256i r0 = _mm256_loadu_si256((const __m256i *)w);
        const __m256i r1 = _mm256_loadu_si256((const __m256i *)(w + row_stride));
        const __m256i r2 = _mm256_loadu_si256((const __m256i *)(w + 2 * row_stride));
        const __m256i r3 = _mm256_loadu_si256((const __m256i *)(w + 3 * row_stride));
        const __m256i low01 = _mm256_unpacklo_epi64(r0, r1), high01 = _mm256_unpackhi_epi64(r0, r1);
        const __m256i low23 = _mm256_unpacklo_epi64(r2, r3), high23 = _mm256_unpackhi_epi64(r2, r3);
        __m256i *to = (__m256i *)(words + j * 4);
        _mm256_store_si256(to, _mm256_permute2x128_si256(low01, low23, 0x20));
        _mm256_store_si256(to + 1, _mm256_permute2x128_si256(high01, high23, 0x20));
        _mm256_store_si256(to + 2, _mm256_permute2x128_si256(low01, low23, 0x31));
        _mm256_store_si256(to + 3, _mm256_permute2x128_si256(high01, high23, 0x31));
    }
}

/* w becomes [n / 16][k / 64][8 digits] tiles; a tile's row is 16 columns by 4 consecutive rows of w. */
static void pack_step(uint8_t *packed, const uint64_t *w, size_t rows, size_t columns, ptrdiff_t row_stride,
                      ptrdiff_t column_stride) {
    for (size_t quad = 0; quad < SIDE; quad++) {
        _Alignas(64) uint64_t words[INNER] = {0};
        const size_t first = quad * 4, last = ring_min(first + 4, rows);
        if (column_stride == 1 && columns == SIDE && first + 4 <= rows)
            turn(words, w + (ptrdiff_t)first * row_stride, row_stride);
        else
            for (size_t j = 0; j < columns; j++)
                for (size_t i = first; i < last; i++)
                    words[j * 4 + i - first] = w[(ptrdiff_t)i * row_stride + (ptrdiff_t)j * column_stride];
        split_digits(packed + quad * INNER, words);
    }
}

void ring_pack_digits(uint8_t *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
                      ptrdiff_t column_stride) {
    const size_t steps = ring_ceil(k, INNER), tiles = ring_ceil(n, RING_PANEL) * RING_PANEL / SIDE;
    for (size_t step = 0; step < steps; step++)
        for (size_t tile = 0; tile < tiles; tile++) {
            const size_t row = step * INNER, column = tile * SIDE;
            const size_t columns = column < n ? ring_min(SIDE, n - column) : 0;
            const uint64_t *from = columns ? w + (ptrdiff_t)row * row_stride + (ptrdiff_t)column * column_stride : w;
            pack_step(packed + (tile * steps + step) * STEP, from, ring_min(INNER, k - row), columns, row_stride,
                      column_stride);
        }
}

/* x becomes [m / 16][steps][8 digits] tiles; a tile's row is 64 columns of a row of x. */
static void pack_left(uint8_t *packed, const uint64_t *x, ptrdiff_t x_stride, size_t rows, size_t depth) {
    const size_t steps = ring_ceil(depth, INNER);
    for (size_t row = 0; row < ring_ceil(rows, SIDE) * SIDE; row++)
        for (size_t step = 0; step < steps; step++) {
            const size_t left = row < rows ? depth - step * INNER : 0;
            uint64_t words[INNER];
            const uint64_t *from = x + (ptrdiff_t)row * x_stride + step * INNER;
            if (left < INNER) {
                memset(words, 0, sizeof words);
                if (left > 0) memcpy(words, from, left * sizeof(uint64_t));
                from = words;
            }
            split_digits(packed + (row / SIDE * steps + step) * STEP + row % SIDE * INNER, from);
        }
}

/* Registers by number, as the intrinsics want them: sum g in g % 4, the tile of x in 4, byte j of w in 5 + j % 3. */
#define SUM0 0
#define SUM1 1
#define SUM2 2
#define SUM3 3
#define SUM4 0
#define SUM5 1
#define SUM6 2
#define SUM7 3
#define BYTE0 5
#define BYTE1 6
#define BYTE2 7
#define BYTE3 5
#define BYTE4 6
#define BYTE5 7
#define BYTE6 5
#define BYTE7 6
#define LEFT(i) _tile_loadd(4, a + (i) * TILE, INNER)
#define RIGHT(j) _tile_loadd(BYTE##j, b + (j) * TILE, INNER)
#define ADD(g, j) _tile_dpbuud(SUM##g, 4, BYTE##j)

#define CLEAR_SUMS() _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3)
#define STORE_SUMS(to) \
    _tile_stored(0, (to), INNER); \
    _tile_stored(1, (to) + 256, INNER); \
    _tile_stored(2, (to) + 512, INNER); \
    _tile_stored(3, (to) + 768, INNER)

/* 2^24 s3 + 2^16 s2 + 2^8 s1 + s0 in 64-bit lanes, of the eight columns from sums on. */
static inline __m512i horner(const uint32_t *sums) {
    __m512i total = _mm512_setzero_si512();
    for (int g = 3; g >= 0; g--)
        total = _mm512_add_epi64(_mm512_slli_epi64(total, 8),
                                 _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)(sums + g * 256))));
    return total;
}

/* What is done beside the tile products, a part after each step of theirs, since other units of the CPU do it: the sums
 * of the tile before go out, and w's next tiles come in. */
struct beside {
    const uint32_t *sums; /* [8][16][16] */
    uint64_t *c;
    ptrdiff_t c_stride;
    size_t row, rows, columns; /* those before `row` are written */
    int fresh;
    const uint8_t *next, *next_end;
    size_t rows_a_step, lines_a_step;
};

static inline void write_row(const struct beside *it) {
    for (size_t column = 0; column < it->columns; column += 8) {
        uint64_t *to = it->c + (ptrdiff_t)it->row * it->c_stride + column;
        const uint32_t *from = it->sums + it->row * SIDE + column;
        const size_t left = it->columns - column;
        const __mmask8 within = left >= 8 ? 0xFF : (__mmask8)((1u << left) - 1);
        const __m512i sum = _mm512_add_epi64(horner(from), _mm512_slli_epi64(horner(from + 1024), 32));
        const __m512i before = it->fresh ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi64(within, to);
        _mm512_mask_storeu_epi64(to, within, _mm512_add_epi64(before, sum));
    }
}

static inline void write_rows(struct beside *it, size_t count) {
    const size_t stop = ring_min(it->row + count, it->rows);
    for (; it->row < stop; it->row++) write_row(it);
}

static inline void work_beside(struct beside *it) {
    write_rows(it, it->rows_a_step);
    for (size_t line = 0; line < it->lines_a_step && it->next < it->next_end; line++, it->next += 64)
        _mm_prefetch((const char *)it->next, _MM_HINT_T1);
}

static void low_sums(uint32_t *sums, const uint8_t *a, const uint8_t *b, size_t steps, struct beside *beside) {
    CLEAR_SUMS();
    for (; steps > 0; steps--, a += STEP, b += STEP) {
        LEFT(0); RIGHT(3); ADD(3, 3); RIGHT(2); ADD(2, 2); RIGHT(1); ADD(1, 1); RIGHT(0); ADD(0, 0);
        LEFT(1); ADD(3, 2); ADD(2, 1); ADD(1, 0);
        LEFT(2); ADD(3, 1); ADD(2, 0);
        LEFT(3); ADD(3, 0);
        work_beside(beside);
    }
    STORE_SUMS(sums);
}

static void high_sums(uint32_t *sums, const uint8_t *a, const uint8_t *b, size_t steps, struct beside *beside) {
    CLEAR_SUMS();
    for (; steps > 0; steps--, a += STEP, b += STEP) {
        LEFT(0); RIGHT(7); ADD(7, 7); RIGHT(6); ADD(6, 6); RIGHT(5); ADD(5, 5); RIGHT(4); ADD(4, 4);
        LEFT(1); ADD(7, 6); ADD(6, 5); ADD(5, 4); RIGHT(3); ADD(4, 3);
        LEFT(2); ADD(7, 5); ADD(6, 4); ADD(5, 3); RIGHT(2); ADD(4, 2);
        LEFT(3); ADD(7, 4); ADD(6, 3); ADD(5, 2); RIGHT(1); ADD(4, 1);
        LEFT(4); ADD(7, 3); ADD(6, 2); ADD(5, 1); RIGHT(0); ADD(4, 0);
        LEFT(5); ADD(7, 2); ADD(6, 1); ADD(5, 0);
        LEFT(6); ADD(7, 1); ADD(6, 0);
        LEFT(7); ADD(7, 0);
        work_beside(beside);
    }
    STORE_SUMS(sums);
}

/* The product of `rows` packed rows of x, `depth` deep, with columns begin..end. */
static void multiply_block(uint64_t *c, ptrdiff_t c_stride, const uint8_t *left, const uint8_t *right, size_t rows,
                           size_t steps, size_t all_steps, size_t begin, size_t end, int fresh) {
    _Alignas(64) uint32_t sums[2][DIGITS * SIDE * SIDE];
    const size_t tiles = ring_ceil(rows, SIDE), side_steps = 2 * steps; /* low and high */
    struct beside beside = {.c_stride = c_stride, .fresh = fresh, .rows_a_step = ring_ceil(SIDE, side_steps),
                            .lines_a_step = ring_ceil(steps * STEP / 64, tiles * side_steps)};
    size_t turn = 0;
    for (size_t column = begin; column < end; column += SIDE) {
        const uint8_t *panel = right + column / SIDE * all_steps * STEP;
        beside.next = panel + all_steps * STEP;
        beside.next_end = column + SIDE < end ? beside.next + steps * STEP : beside.next;
        for (size_t row = 0; row < rows; row += SIDE, turn ^= 1) {
            const uint8_t *tile = left + row / SIDE * steps * STEP;
            low_sums(sums[turn], tile, panel, steps, &beside);
            high_sums(sums[turn] + 1024, tile, panel, steps, &beside);
            write_rows(&beside, SIDE);
            beside.sums = sums[turn];
            beside.c = c + (ptrdiff_t)row * c_stride + column;
            beside.row = 0, beside.rows = ring_min(SIDE, rows - row), beside.columns = ring_min(SIDE, end - column);
        }
    }
    write_rows(&beside, SIDE);
}

int ring_multiply_amx(uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                      size_t m, size_t k, size_t n, size_t begin, size_t end) {
    (void)n;
    const size_t all_steps = ring_ceil(k, INNER);
    uint8_t *left = aligned_alloc(64, ring_ceil(ring_min(HEIGHT, m), SIDE) * ring_min(DEPTH / INNER, all_steps) * STEP);
    if (left == NULL) return -1;
    configure();
    for (size_t top = 0; top < m; top += HEIGHT) {
        const size_t rows = ring_min(HEIGHT, m - top);
        for (size_t start = 0; start < k; start += DEPTH) {
            const size_t depth = ring_min(DEPTH, k - start);
            pack_left(left, x + (ptrdiff_t)top * x_stride + start, x_stride, rows, depth);
            __asm__ volatile("" : : "r"(left) : "memory"); /* GCC does not see that tile loads read memory */
            multiply_block(c + (ptrdiff_t)top * c_stride, c_stride, left, (const uint8_t *)packed + start / INNER * STEP,
                           rows, ring_ceil(depth, INNER), all_steps, begin, end, start == 0);
        }
    }
    _tile_release();
    free(left);
    return 0;
}
