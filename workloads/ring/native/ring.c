/* Which kernels this CPU runs, and the layout that all of them but AMX read: panels of 32 columns, row after row,
 * zeros beyond the last column. */
#include "ring.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* Linux grants a process the AMX registers only when it asks; threads and children inherit the grant. */
static int amx_granted(void) {
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return 0;
    const unsigned tile = 1u << 24, int8 = 1u << 25;
    if ((edx & tile) == 0 || (edx & int8) == 0) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

uint32_t ring_paths(void) {
    uint32_t found = 1u << RING_PLAIN;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) found |= 1u << RING_AVX2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq")) return found;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return found;
    found |= 1u << RING_AVX512;
    if (__builtin_cpu_supports("avx512vbmi") && amx_granted())
        found |= 1u << RING_AMX;
    return found;
}

static ring_kernel *const KERNELS[RING_PATHS] = {
    [RING_PLAIN] = ring_multiply_plain,
    [RING_AVX2] = ring_multiply_avx2,
    [RING_AVX512] = ring_multiply_avx512,
    [RING_AMX] = ring_multiply_amx,
};
#else
uint32_t ring_paths(void) { return 1u << RING_PLAIN; }

static ring_kernel *const KERNELS[RING_PATHS] = {[RING_PLAIN] = ring_multiply_plain};
void ring_pack_digits(uint8_t *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
                      ptrdiff_t column_stride) {
    (void)packed, (void)w, (void)k, (void)n, (void)row_stride, (void)column_stride;
}
#endif

/* AMX reads tiles of 64 rows, so k is padded to that; two tiles of 16 columns make a panel. */
size_t ring_packed_bytes(int path, size_t k, size_t n) {
    const size_t rows = path == RING_AMX ? ring_ceil(k, 64) * 64 : k;
    return ring_ceil(n, RING_PANEL) * RING_PANEL * rows * sizeof(uint64_t);
}

static void pack_panels(uint64_t *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
                        ptrdiff_t column_stride) {
    for (size_t column = 0; column < n; column += RING_PANEL) {
        const size_t width = ring_min(RING_PANEL, n - column);
        const uint64_t *from = w + (ptrdiff_t)column * column_stride;
        for (size_t i = 0; i < k; i++, packed += RING_PANEL) {
            const uint64_t *row = from + (ptrdiff_t)i * row_stride;
            if (column_stride == 1)
                memcpy(packed, row, width * sizeof(uint64_t));
            else
                for (size_t j = 0; j < width; j++) packed[j] = row[(ptrdiff_t)j * column_stride];
            if (width < RING_PANEL) memset(packed + width, 0, (RING_PANEL - width) * sizeof(uint64_t));
        }
    }
}

void ring_pack(int path, void *packed, const uint64_t *w, size_t k, size_t n, ptrdiff_t row_stride,
               ptrdiff_t column_stride) {
    if (path == RING_AMX)
        ring_pack_digits(packed, w, k, n, row_stride, column_stride);
    else
        pack_panels(packed, w, k, n, row_stride, column_stride);
}

int ring_multiply(int path, uint64_t *c, ptrdiff_t c_stride, const uint64_t *x, ptrdiff_t x_stride, const void *packed,
                  size_t m, size_t k, size_t n, size_t begin, size_t end) {
    return KERNELS[path](c, c_stride, x, x_stride, packed, m, k, n, begin, end);
}

int ring_products(int path, uint64_t *c, const uint64_t *x, ptrdiff_t x_step, ptrdiff_t x_stride, const uint64_t *w,
                  ptrdiff_t w_step, ptrdiff_t row_stride, ptrdiff_t column_stride, size_t count, size_t m, size_t k,
                  size_t n) {
    void *packed = aligned_alloc(64, ring_packed_bytes(path, k, n));
    int failed = packed == NULL ? -1 : 0;
    for (size_t i = 0; i < count && !failed; i++, c += m * n, x += x_step, w += w_step) {
        ring_pack(path, packed, w, k, n, row_stride, column_stride);
        failed = ring_multiply(path, c, (ptrdiff_t)n, x, x_stride, packed, m, k, n, 0, n);
    }
    free(packed);
    return failed;
}
