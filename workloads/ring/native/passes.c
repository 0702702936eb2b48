/* Passes over elements that a protocol would otherwise make in many: each reads its operands and writes its results
 * once. All arithmetic is modulo 2^64 or, for `narrow` operands, modulo two to their width; nothing is aligned or
 * overlaps but where it says so. The unit is built once a kind of CPU, under another suffix each, for the compiler to
 * vectorise; the same bits come out of each. See ring.h for what each pass computes. */
#include "ring.h"
#include "pass.h"

void PASS(total)(size_t count, u64 *R out, const u64 *R a, const u64 *R b, const u64 *R c, const u64 *R d, u64 constant) {
    if (d != NULL) EACH out[i] = a[i] + b[i] + c[i] + d[i] + constant;
    else if (c != NULL) EACH out[i] = a[i] + b[i] + c[i] + constant;
    else EACH out[i] = a[i] + b[i] + constant;
}

void PASS(product)(size_t count, u64 *R out, const u64 *R x0, const u64 *R x1, const u64 *R y0, const u64 *R y1) {
    EACH out[i] = x0[i] * (y0[i] + y1[i]) + x1[i] * y0[i];
}

void PASS(product_bits)(size_t count, u64 *R out, const u64 *R x0, const u64 *R x1, const u64 *R y0, const u64 *R y1) {
    EACH out[i] = (x0[i] & (y0[i] ^ y1[i])) ^ (x1[i] & y0[i]);
}

void PASS(square)(size_t count, u64 *R out, const u64 *R x0, const u64 *R x1) {
    EACH out[i] = x0[i] * (x0[i] + 2 * x1[i]);
}

/* out = a fa + b fb + constant; b may be NULL. */
void PASS(combine)(size_t count, u64 *R out, const u64 *R a, const u64 *R b, u64 fa, u64 fb, u64 constant) {
    if (b != NULL) EACH out[i] = a[i] * fa + b[i] * fb + constant;
    else EACH out[i] = a[i] * fa + constant;
}

void PASS(masked_bits)(size_t count, u64 *R out, const u64 *R x0, const u64 *R x1, const u64 *R y0, const u64 *R y1,
                       const u64 *R mask, const u64 *R other) {
    EACH out[i] = (x0[i] & (y0[i] ^ y1[i])) ^ (x1[i] & y0[i]) ^ mask[i] ^ other[i];
}

/* Sign-extends the low `cut` bits of a narrow word. */
#define LOW(T, v) ((T)((T)((U)(v) << spare) >> spare))
#define SPARE(T) const int spare = (int)(8 * sizeof(T)) - cut
#define COMPONENT(mask, pad) (-(((mask) >> cut) + ((u64)(int64_t)(pad) << (64 - cut))))
#define CARRY(a, b, sum) ((((a) & (b)) | (((a) | (b)) & ~(sum))) >> 63)

/* x, a1, b1, to_first and to_second are NULL all together. */
#define NARROW(bits)                                                                                                   \
    static void deal_##bits(size_t count, u64 *R to_first, u64 *R to_second, u64 *R own, u64 *R next,                  \
                            int##bits##_t *R wrap, int##bits##_t *R top, const u64 *R x, const u64 *R a0,              \
                            const u64 *R a1, const u64 *R b0, const u64 *R b1, const int##bits##_t *R wrap_mask,       \
                            const int##bits##_t *R top_mask, const int##bits##_t *R first,                             \
                            const int##bits##_t *R second, int cut) {                                                  \
        typedef uint##bits##_t U;                                                                                      \
        SPARE(U);                                                                                                      \
        if (x != NULL) EACH {                                                                                          \
            const u64 a = a0[i] + a1[i], b = b0[i] + b1[i], sum = a + b;                                               \
            to_first[i] = x[i] + b1[i];                                                                                \
            to_second[i] = x[i] + a1[i];                                                                               \
            own[i] = COMPONENT(b, second[i]);                                                                          \
            next[i] = COMPONENT(a, first[i]);                                                                          \
            wrap[i] = LOW(int##bits##_t, (U)CARRY(a, b, sum) - (U)wrap_mask[i]);                                       \
            top[i] = LOW(int##bits##_t, (U)(sum >> 63) - (U)top_mask[i]);                                              \
        }                                                                                                              \
        else EACH {                                                                                                    \
            const u64 a = a0[i], b = b0[i], sum = a + b;                                                               \
            own[i] = COMPONENT(b, second[i]);                                                                          \
            next[i] = COMPONENT(a, first[i]);                                                                          \
            wrap[i] = LOW(int##bits##_t, (U)CARRY(a, b, sum) - (U)wrap_mask[i]);                                       \
            top[i] = LOW(int##bits##_t, (U)(sum >> 63) - (U)top_mask[i]);                                              \
        }                                                                                                              \
    }                                                                                                                  \
    static void send_##bits(size_t count, u64 *R sent, u64 *R component, const u64 *R x, const u64 *R also,            \
                            const u64 *R mask, const u64 *R rest, const int##bits##_t *R pad, int cut, u64 constant) { \
        if (rest != NULL) EACH {                                                                                       \
            sent[i] = x[i] + mask[i] + constant;                                                                       \
            component[i] = COMPONENT(mask[i] + rest[i], pad[i]);                                                       \
        }                                                                                                              \
        else if (also != NULL) EACH {                                                                                  \
            sent[i] = x[i] + also[i] + mask[i] + constant;                                                             \
            component[i] = COMPONENT(mask[i], pad[i]);                                                                 \
        }                                                                                                              \
        else EACH {                                                                                                    \
            sent[i] = x[i] + mask[i] + constant;                                                                       \
            component[i] = COMPONENT(mask[i], pad[i]);                                                                 \
        }                                                                                                              \
    }                                                                                                                  \
    static void open_##bits(size_t count, u64 *R c, int##bits##_t *R share, const u64 *R sent, const u64 *R came,      \
                            const u64 *R rest, const u64 *R also, const int##bits##_t *R wrap,                         \
                            const int##bits##_t *R top, const int##bits##_t *R pad, int cut) {                         \
        typedef uint##bits##_t U;                                                                                      \
        SPARE(U);                                                                                                      \
        if (rest != NULL) EACH {                                                                                       \
            const u64 sum = sent[i] + came[i] + rest[i] + also[i];                                                     \
            const U positive = (U)((sum >> 63) - 1); /* all ones where the top bit is 0 */                             \
            c[i] = sum;                                                                                                \
            share[i] = LOW(int##bits##_t, (U)wrap[i] + ((U)top[i] & positive) + (U)pad[i]);                            \
        }                                                                                                              \
        else EACH {                                                                                                    \
            const u64 sum = sent[i] + came[i];                                                                         \
            const U positive = (U)((sum >> 63) - 1);                                                                   \
            c[i] = sum;                                                                                                \
            share[i] = LOW(int##bits##_t, (U)wrap[i] + ((U)top[i] & positive) + (U)pad[i]);                            \
        }                                                                                                              \
    }                                                                                                                  \
    static void common_##bits(size_t count, u64 *R c, const int##bits##_t *R share, const int##bits##_t *R other,      \
                              int cut) {                                                                               \
        const u64 offset = ((u64)1 << (62 - cut)) + 1;                                                                 \
        EACH c[i] = (c[i] >> cut) + ((((u64)(int64_t)share[i]) + (u64)(int64_t)other[i]) << (64 - cut)) - offset;      \
    }                                                                                                                  \
    static void window_##bits(size_t count, int##bits##_t *R out, const u64 *R x, const u64 *R also, int low) {        \
        if (also != NULL) EACH out[i] = (int##bits##_t)((x[i] + also[i]) >> low);                                      \
        else EACH out[i] = (int##bits##_t)(x[i] >> low);                                                               \
    }

NARROW(8)
NARROW(16)
NARROW(32)
NARROW(64)

/* Calls the pass for narrow operands of `bytes`. */
#define BY_SIZE(name, ...)                                                                                             \
    switch (bytes) {                                                                                                   \
    case 1: name##_8(__VA_ARGS__); break;                                                                              \
    case 2: name##_16(__VA_ARGS__); break;                                                                             \
    case 4: name##_32(__VA_ARGS__); break;                                                                             \
    default: name##_64(__VA_ARGS__); break;                                                                            \
    }

void PASS(deal)(size_t count, int bytes, int cut, u64 *R to_first, u64 *R to_second, u64 *R own, u64 *R next,
                void *R wrap, void *R top, const u64 *R x, const u64 *R a0, const u64 *R a1, const u64 *R b0,
                const u64 *R b1, const void *R wrap_mask, const void *R top_mask, const void *R first,
                const void *R second) {
    BY_SIZE(deal, count, to_first, to_second, own, next, wrap, top, x, a0, a1, b0, b1, wrap_mask, top_mask, first,
            second, cut)
}

void PASS(send)(size_t count, int bytes, int cut, u64 *R sent, u64 *R component, const u64 *R x, const u64 *R also,
                const u64 *R mask, const u64 *R rest, const void *R pad, u64 constant) {
    BY_SIZE(send, count, sent, component, x, also, mask, rest, pad, cut, constant)
}

void PASS(open)(size_t count, int bytes, int cut, u64 *R c, void *R share, const u64 *R sent, const u64 *R came,
                const u64 *R rest, const u64 *R also, const void *R wrap, const void *R top, const void *R pad) {
    BY_SIZE(open, count, c, share, sent, came, rest, also, wrap, top, pad, cut)
}

void PASS(common)(size_t count, int bytes, int cut, u64 *R c, const void *R share, const void *R other) {
    BY_SIZE(common, count, c, share, other, cut)
}

void PASS(window)(size_t count, int bytes, int low, void *R out, const u64 *R x, const u64 *R also) {
    BY_SIZE(window, count, out, x, also, low)
}

void PASS(pairs)(size_t count, u64 keep, u64 *R high, u64 *R low, u64 *R rest, const u64 *R passes,
                 const u64 *R arises) {
    const u64 odd = 0xAAAAAAAAAAAAAAAAu, even = 0x5555555555555555u;
    EACH {
        const u64 p = passes[i] << 1 & keep, g = arises[i] << 1 & keep;
        high[i] = (p & odd) | (p >> 1 & even);
        low[i] = (g & even) << 1 | (p & even);
        rest[i] = g & odd;
    }
}

void PASS(groups)(size_t count, int half, u64 lower, u64 p_places, u64 *R high, u64 *R low, u64 *R rest,
                  const u64 *R words) {
    const u64 g_places = lower & ~p_places;
    const u64 *R upper = words + count;
    EACH {
        const u64 a = words[i] >> half & p_places, b = upper[i] >> half & p_places;
        high[i] = (a | a << 1) | (b | b << 1) << half;
        low[i] = (words[i] & lower) | (upper[i] & lower) << half;
        rest[i] = (words[i] >> half & g_places) | (upper[i] >> half & g_places) << half;
    }
}

void PASS(offer)(size_t count, u64 *R product, u64 *R bit, const int8_t *R e_bits, const u64 *R x0, const u64 *R x1,
                 const u64 *R product_mask, const u64 *R bit_mask) {
    EACH {
        const u64 e = (u64)(int64_t)e_bits[i];
        product[i] = e * (x0[i] + x1[i]) - product_mask[i];
        bit[i] = e - bit_mask[i];
    }
}

/* `sum` is both read and written; `also` may be NULL. */
void PASS(choose)(size_t count, u64 *R sum, const int8_t *R bit, const u64 *R known, const u64 *R also,
                  const u64 *R product, const u64 *R e, const u64 *R x) {
    if (also != NULL) EACH {
        const u64 n = (u64)(int64_t)bit[i], w = product[i] + e[i] * x[i];
        sum[i] += n * (known[i] + also[i]) + (1 - 2 * n) * w;
    }
    else EACH {
        const u64 n = (u64)(int64_t)bit[i], w = product[i] + e[i] * x[i];
        sum[i] += n * known[i] + (1 - 2 * n) * w;
    }
}

void PASS(carries)(size_t count, int width, const int8_t *R order, int8_t *R bits, const u64 *R words) {
    const int lanes = 64 / width, places = width / 2;
    for (int slice = 0; slice < places; slice++)
        EACH for (int lane = 0; lane < lanes; lane++)
            *bits++ = (int8_t)(words[i] >> (lane * width + 2 * order[slice] + 1) & 1);
}
