// The same attention on tensor cores (mma.m16n8k16, bf16 in, f32 out) for head sizes 32, 64 and 128.
//
// A block of four warps owns 64 queries (forward, dq) or 64 keys (dk, dv), 16 to a warp, and takes the other side in
// tiles through shared memory. dq and dk, dv are two kernels that compute the probabilities twice, because one kernel
// would have to add atomically. A tile of 64 keys is one group of dropout bits, and the accumulator layout of mma is such
// that in forward and dq every thread draws exactly the bits that it needs.

struct Sizes {
    const int *q_offsets, *k_offsets;
    // Keep flags of dropout, drawn in forward: a byte for [query][head][64 keys][block].
    u8* kept;
    int heads, dim, longest_key, causal;
    float scale;
    // From one row to the next of q and dq, and of k, v and their gradients; out and dout are heads x dim wide.
    int q_pitch, k_pitch;
};

#define LOG2E 1.4426950408889634f

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// ROWS rows of one head into shared memory with a pitch of D + 8; rows from `count` on are zero.
template <int D, int ROWS>
__device__ __forceinline__ void tile_in(bf16* tile, const bf16* x, int count, int width) {
    const int PER = D / 8;
#pragma unroll
    for (int t = threadIdx.x; t < ROWS * PER; t += 128) {
        int i = t / PER, c = t % PER * 8;
        copy16(tile + i * (D + 8) + c, x + (u64)(i < count ? i : 0) * width + c, i < count);
    }
}

// The A operand of 16 rows: a[kk] covers columns 16 kk .. 16 kk + 16.
template <int D>
__device__ __forceinline__ void rows_in(u32 a[D / 16][4], const bf16* x, int row, int count, int width) {
    int lane = threadIdx.x & 31, column = lane % 4 * 2;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
        for (int part = 0; part < 4; part++) {
            int i = row + lane / 4 + part % 2 * 8, c = kk * 16 + column + part / 2 * 8;
            a[kk][part] = i < count ? *(const u32*)(x + (u64)i * width + c) : 0u;
        }
}

// c[N / 8][4] = a tileᵀ for a tile of N rows: scores of 16 rows against N.
template <int D, int N>
__device__ __forceinline__ void against(float c[N / 8][4], const u32 a[D / 16][4], const bf16* tile) {
    int lane = threadIdx.x & 31, m = lane >> 3, i = lane & 7;
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) c[n][e] = 0.f;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            u32 b[4];
            matrices(b, tile + ((n + (m >> 1)) * 8 + i) * (D + 8) + kk * 16 + (m & 1) * 8);
            mma(c[n], a[kk], b[0], b[1]);
            mma(c[n + 1], a[kk], b[2], b[3]);
        }
}

// c[D / 8][4] += w tile, w [16, N] held as an accumulator and rounded to bf16.
template <int D, int N>
__device__ __forceinline__ void accumulate(float c[D / 8][4], const float w[N / 8][4], const bf16* tile) {
    int lane = threadIdx.x & 31, m = lane >> 3, i = lane & 7;
#pragma unroll
    for (int kk = 0; kk < N / 16; kk++) {
        u32 a[4] = {
            pack2(w[2 * kk][0], w[2 * kk][1]), pack2(w[2 * kk][2], w[2 * kk][3]),
            pack2(w[2 * kk + 1][0], w[2 * kk + 1][1]), pack2(w[2 * kk + 1][2], w[2 * kk + 1][3])
        };
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            matrices_transposed(b, tile + (kk * 16 + (m & 1) * 8 + i) * (D + 8) + (n + (m >> 1)) * 8);
            mma(c[n], a, b[0], b[1]);
            mma(c[n + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
__device__ __forceinline__ void rows_out(bf16* x, const float c[D / 8][4], int row, int count, int width, const float f[2]) {
    int lane = threadIdx.x & 31;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + lane / 4 + half * 8;
        if (i >= count) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            *(u32*)(x + (u64)i * width + n * 8 + lane % 4 * 2) = pack2(c[n][2 * half] * f[half], c[n][2 * half + 1] * f[half]);
    }
}

// Dropout factors of 64 keys for this thread's two queries, applied to an accumulator. Forward draws the flags and stores
// them, the backward kernels read them: drawing costs more than all else that happens to a score.
template <bool DRAW>
__device__ __forceinline__ void drop_scores(
    float c[8][4], const Drop& drop, const Sizes& s, int q0, int row, int nq, int head, int tile
) {
    int lane = threadIdx.x & 31;
    u64 groups = (u64)((s.longest_key + 63) / 64);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + half * 8;
        if (i >= nq) continue;
        u64 group = ((u64)(q0 + i) * s.heads + head) * groups + tile;
        u16* at = (u16*)(s.kept + group * 8 + lane % 4 * 2);
        u32 bits;
        if (DRAW) {
            bits = keep_bits(drop, group, lane % 4 * 2) | keep_bits(drop, group, lane % 4 * 2 + 1) << 8;
            *at = (u16)bits;
        } else {
            bits = *at;
        }
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int n = 0; n < 8; n++) c[n][2 * half + e] *= bits >> (8 * e + n) & 1 ? drop.scale : 0.f;
    }
}

template <int D>
__device__ __forceinline__ void forward(
    const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const Sizes& s, const Drop& drop
) {
    __shared__ __align__(16) bf16 ks[64 * (D + 8)], vs[64 * (D + 8)];
    int width = s.heads * D, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0;
    int k0 = s.k_offsets[blockIdx.z], nk = s.k_offsets[blockIdx.z + 1] - k0;
    int block = blockIdx.x * 64, row = block + warp * 16;
    if (block >= nq) return;
    q += (u64)q0 * s.q_pitch + head * D, out += (u64)q0 * width + head * D;
    k += (u64)k0 * s.k_pitch + head * D, v += (u64)k0 * s.k_pitch + head * D;
    u32 a[D / 16][4];
    rows_in<D>(a, q, row, nq, s.q_pitch);
    float acc[D / 8][4] = {}, top[2] = {-INF, -INF}, sum[2] = {0.f, 0.f}, factor = s.scale * LOG2E;
    int most = s.causal ? min(nk, block + 64 + nk - nq) : nk;
    for (int j0 = 0; j0 < most; j0 += 64) {
        __syncthreads();
        tile_in<D, 64>(ks, k + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        tile_in<D, 64>(vs, v + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        copies_done();
        __syncthreads();
        float c[8][4];
        against<D, 64>(c, a, ks);
        bool full = j0 + 64 <= nk && !s.causal;
        float high[2] = {top[0], top[1]}, part[2] = {0.f, 0.f};
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = j0 + n * 8 + lane % 4 * 2 + e % 2, i = row + lane / 4 + e / 2 * 8;
                bool seen = full || (key < nk && (!s.causal || key <= i + nk - nq));
                c[n][e] = seen ? c[n][e] * factor : -INF;
                high[e / 2] = fmaxf(high[e / 2], c[n][e]);
            }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            high[half] = fmaxf(high[half], __shfl_xor_sync(FULL, high[half], 1));
            high[half] = fmaxf(high[half], __shfl_xor_sync(FULL, high[half], 2));
            // A row that sees nothing yet keeps -inf; its exponentials must still be zero.
            float base = high[half] == -INF ? 0.f : high[half], shrink = exp2_fast(top[half] - base);
            top[half] = high[half];
            sum[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) acc[n][2 * half] *= shrink, acc[n][2 * half + 1] *= shrink;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    c[n][2 * half + e] = exp2_fast(c[n][2 * half + e] - base);
                    part[half] += c[n][2 * half + e];
                }
            sum[half] += part[half];
        }
        if (drop.on) drop_scores<true>(c, drop, s, q0, row + lane / 4, nq, head, j0 / 64);
        accumulate<D, 64>(acc, c, vs);
    }
    float share[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] += __shfl_xor_sync(FULL, sum[half], 1);
        sum[half] += __shfl_xor_sync(FULL, sum[half], 2);
        share[half] = sum[half] > 0.f ? 1.f / sum[half] : 0.f;
        int i = row + lane / 4 + half * 8;
        if (i < nq && lane % 4 == 0) lse[(u64)(q0 + i) * s.heads + head] = top[half] / LOG2E + logf(sum[half]);
    }
    rows_out<D>(out, acc, row, nq, width, share);
}

template <int D>
__device__ __forceinline__ void query_gradient(
    const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta, bf16* dq,
    const Sizes& s, const Drop& drop
) {
    __shared__ __align__(16) bf16 ks[64 * (D + 8)], vs[64 * (D + 8)];
    int width = s.heads * D, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0;
    int k0 = s.k_offsets[blockIdx.z], nk = s.k_offsets[blockIdx.z + 1] - k0;
    int block = blockIdx.x * 64, row = block + warp * 16;
    if (block >= nq) return;
    q += (u64)q0 * s.q_pitch + head * D, dq += (u64)q0 * s.q_pitch + head * D, dout += (u64)q0 * width + head * D;
    k += (u64)k0 * s.k_pitch + head * D, v += (u64)k0 * s.k_pitch + head * D;
    u32 a[D / 16][4], up[D / 16][4];
    rows_in<D>(a, q, row, nq, s.q_pitch);
    rows_in<D>(up, dout, row, nq, width);
    float acc[D / 8][4] = {}, norm[2], along[2], factor = s.scale * LOG2E;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + lane / 4 + half * 8;
        u64 at = (u64)(q0 + i) * s.heads + head;
        norm[half] = i < nq ? lse[at] * LOG2E : INF;
        along[half] = i < nq ? delta[at] : 0.f;
    }
    int most = s.causal ? min(nk, block + 64 + nk - nq) : nk;
    for (int j0 = 0; j0 < most; j0 += 64) {
        __syncthreads();
        tile_in<D, 64>(ks, k + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        tile_in<D, 64>(vs, v + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        copies_done();
        __syncthreads();
        float g[8][4], c[8][4];
        against<D, 64>(g, up, vs);
        if (drop.on) drop_scores<false>(g, drop, s, q0, row + lane / 4, nq, head, j0 / 64);
        against<D, 64>(c, a, ks);
        bool full = j0 + 64 <= nk && !s.causal;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = j0 + n * 8 + lane % 4 * 2 + e % 2, i = row + lane / 4 + e / 2 * 8;
                bool seen = full || (key < nk && (!s.causal || key <= i + nk - nq));
                float p = seen ? exp2_fast(c[n][e] * factor - norm[e / 2]) : 0.f;
                c[n][e] = p * (g[n][e] - along[e / 2]);
            }
        accumulate<D, 64>(acc, c, ks);
    }
    float share[2] = {s.scale, s.scale};
    rows_out<D>(dq, acc, row, nq, s.q_pitch, share);
}

#define QUERIES 32

template <int D>
__device__ __forceinline__ void key_gradients(
    const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta, bf16* dk,
    bf16* dv, const Sizes& s, const Drop& drop
) {
    __shared__ __align__(16) bf16 qs[QUERIES * (D + 8)], ds[QUERIES * (D + 8)];
    __shared__ float norm[QUERIES], along[QUERIES];
    __shared__ __align__(8) u8 kept[QUERIES][8];
    int width = s.heads * D, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0;
    int k0 = s.k_offsets[blockIdx.z], nk = s.k_offsets[blockIdx.z + 1] - k0;
    int block = blockIdx.x * 64, row = block + warp * 16;
    if (block >= nk) return;
    q += (u64)q0 * s.q_pitch + head * D, dout += (u64)q0 * width + head * D;
    k += (u64)k0 * s.k_pitch + head * D, v += (u64)k0 * s.k_pitch + head * D;
    u32 keys[D / 16][4], values[D / 16][4];
    rows_in<D>(keys, k, row, nk, s.k_pitch);
    rows_in<D>(values, v, row, nk, s.k_pitch);
    float key_acc[D / 8][4] = {}, value_acc[D / 8][4] = {}, factor = s.scale * LOG2E;
    u64 groups = (u64)((s.longest_key + 63) / 64);
    // A causal query sees key j from place j - (nk - nq) on.
    int first = s.causal ? max(0, block - (nk - nq)) / QUERIES * QUERIES : 0;
    for (int i0 = first; i0 < nq; i0 += QUERIES) {
        __syncthreads();
        tile_in<D, QUERIES>(qs, q + (u64)i0 * s.q_pitch, nq - i0, s.q_pitch);
        tile_in<D, QUERIES>(ds, dout + (u64)i0 * width, nq - i0, width);
        if (threadIdx.x < QUERIES) {
            int i = i0 + threadIdx.x;
            u64 at = (u64)(q0 + i) * s.heads + head;
            norm[threadIdx.x] = i < nq ? lse[at] * LOG2E : INF;
            along[threadIdx.x] = i < nq ? delta[at] : 0.f;
            if (drop.on && i < nq) *(u64*)kept[threadIdx.x] = *(const u64*)(s.kept + (at * groups + blockIdx.x) * 8);
        }
        copies_done();
        __syncthreads();
        float p[QUERIES / 8][4], g[QUERIES / 8][4];
        against<D, QUERIES>(p, keys, qs);
        against<D, QUERIES>(g, values, ds);
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int local = n * 8 + lane % 4 * 2 + e % 2, i = i0 + local, key = row + lane / 4 + e / 2 * 8;
                // A query beyond the last has an infinite norm; a key beyond the last is not stored.
                bool seen = !s.causal || key <= i + nk - nq;
                float chance = seen ? exp2_fast(p[n][e] * factor - norm[local]) : 0.f, mask = 1.f;
                if (drop.on) mask = kept[local][lane / 4] >> (warp * 2 + e / 2) & 1 ? drop.scale : 0.f;
                p[n][e] = chance * mask;
                g[n][e] = chance * (g[n][e] * mask - along[local]);
            }
        accumulate<D, QUERIES>(value_acc, p, ds);
        accumulate<D, QUERIES>(key_acc, g, qs);
    }
    float plain[2] = {1.f, 1.f}, share[2] = {s.scale, s.scale};
    if (dv) rows_out<D>(dv + (u64)k0 * s.k_pitch + head * D, value_acc, row, nk, s.k_pitch, plain);
    if (dk) rows_out<D>(dk + (u64)k0 * s.k_pitch + head * D, key_acc, row, nk, s.k_pitch, share);
}

#define INSTANCE(D)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128) mma_forward_##D(                                               \
        const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, Sizes s, Drop drop                       \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        forward<D>(q, k, v, out, lse, s, drop);                                                                      \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) mma_dq_##D(                                                    \
        const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta,         \
        bf16* dq, Sizes s, Drop drop                                                                                 \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        query_gradient<D>(q, k, v, dout, lse, delta, dq, s, drop);                                                   \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(128) mma_dkv_##D(                                                   \
        const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const float* lse, const float* delta,         \
        bf16* dk, bf16* dv, Sizes s, Drop drop                                                                       \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        key_gradients<D>(q, k, v, dout, lse, delta, dk, dv, s, drop);                                                \
    }
INSTANCE(32)
INSTANCE(64)
INSTANCE(128)
