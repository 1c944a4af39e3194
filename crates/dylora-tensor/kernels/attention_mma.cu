// The same attention on tensor cores (mma.m16n8k16, bf16 in, f32 out) for head sizes 32, 64 and 128.
//
// Forward: a warp owns 16 queries, a block four warps; keys and values pass through shared memory in tiles of 64, the next
// one arriving while this one is used. Backward: a block owns a sequence's head and takes its keys W x 16 MT at a time, every
// warp 16 MT of them with dk and dv in registers; queries pass by in tiles of 32. Scores are computed with keys as rows, so
// that what a warp has computed is an operand of dk and dv as it lies; the gradient of the scores goes through shared memory
// once, for dq, of which every thread owns fixed places. So all sums have one order and nothing is added atomically.
//
// A tile of 64 keys is one group of dropout bits, and the accumulator layout of mma is such that every thread of forward
// draws exactly the bits that it needs. Forward stores them: drawing costs more than all else that happens to a score.

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

// Shared memory by its 32-bit address. A tile's row is D bf16; its 16-byte chunks are permuted so that eight rows of one
// chunk lie in different banks. Bits of the chunk's number are the only ones in their places of an address, so another even
// number of chunks further is an exclusive or.
template <int D>
__device__ __forceinline__ u32 place(int row, int chunk) {
    return (u32)(row * D * 2 + ((chunk ^ (D == 32 ? row >> 1 & 3 : row & 7)) << 4));
}
__device__ __forceinline__ void load4(u32 r[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
__device__ __forceinline__ void load4_transposed(u32 r[4], u32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}
__device__ __forceinline__ void store(u32 at, u32 word) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(at), "r"(word) : "memory");
}
template <int BYTES>
__device__ __forceinline__ void fetch(u32 to, const void* from, bool valid) {
    int bytes = valid ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(BYTES)
                     : "memory");
}
__device__ __forceinline__ void fetches_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of fetches but the last N.
template <int N>
__device__ __forceinline__ void await() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ROWS rows of one head; rows from `count` on are zero, and nothing is read of them.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void tile_in(u32 tile, const bf16* x, int count, int pitch) {
    const int PER = D / 8, STEP = THREADS / PER;
    static_assert(ROWS % STEP == 0 && STEP % 8 == 0, "a thread's rows share a permutation");
    int i = threadIdx.x / PER, c = threadIdx.x % PER;
    tile += place<D>(i, c);
    x += (long long)i * pitch + c * 8;
#pragma unroll
    for (int r = 0; r < ROWS; r += STEP) fetch<16>(tile + r * D * 2, x + (long long)r * pitch, i + r < count);
}

// Where a lane points for the four 8 x 8 blocks of ldmatrix: second block further down the rows, third in the next chunk ...
template <int D>
__device__ __forceinline__ u32 down_first(u32 tile) {
    int lane = threadIdx.x & 31;
    return tile + place<D>(lane & 15, lane >> 4);
}
// ... or the other way round.
template <int D>
__device__ __forceinline__ u32 along_first(u32 tile) {
    int lane = threadIdx.x & 31;
    return tile + place<D>((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
}

template <int M, int N>
__device__ __forceinline__ void clear(float c[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) c[m][n][e] = 0.f;
}

// c = a bᵀ for 16 MT rows of a (down_first) and N rows of b (along_first), both in shared memory.
template <int D, int MT, int N>
__device__ __forceinline__ void against(float c[MT][N / 8][4], u32 a_at, u32 b_at) {
    clear<MT, N / 8>(c);
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        u32 a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) load4(a[m], (a_at ^ kk * 32) + m * 32 * D);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            u32 b[4];
            load4(b, (b_at ^ kk * 32) + n * 16 * D);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma(c[m][n], a[m], b[0], b[1]);
                mma(c[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// c += w x for w [16 MT, N] as operands and N rows of x (down_first) in shared memory.
template <int D, int MT, int N>
__device__ __forceinline__ void accumulate(float c[MT][D / 8][4], const u32 w[MT][N / 16][4], u32 x_at) {
#pragma unroll
    for (int kk = 0; kk < N / 16; kk++)
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            load4_transposed(b, (x_at ^ n * 16) + kk * 32 * D);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma(c[m][n], w[m][kk], b[0], b[1]);
                mma(c[m][n + 1], w[m][kk], b[2], b[3]);
            }
        }
}

// 16 rows of N columns, times f. Neighbouring lanes exchange words so that each stores eight bytes and four of them a sector.
template <int N>
__device__ __forceinline__ void rows_out(bf16* x, const float c[N / 8][4], int row, int count, int pitch, float f0, float f1) {
    int lane = threadIdx.x & 31;
    bool odd = lane & 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = row + lane / 4 + half * 8;
        float f = half ? f1 : f0;
        bf16* to = x + (u64)i * pitch + (lane & 2) * 2 + odd * 8;
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) {
            u32 a = pack2(c[n][2 * half] * f, c[n][2 * half + 1] * f);
            u32 b = pack2(c[n + 1][2 * half] * f, c[n + 1][2 * half + 1] * f);
            u32 other = __shfl_xor_sync(FULL, odd ? a : b, 1);
            if (i < count) *(uint2*)(to + n * 8) = make_uint2(odd ? other : a, odd ? b : other);
        }
    }
}

// Keep flags of blocks `block` (bits 0 to 7) and the next one (8 to 15) of N groups of dropout. The 2 N chains of products go
// side by side; one after the other each would wait for itself.
template <int N>
__device__ __forceinline__ void keep_pairs(const Drop& drop, const u64 group[N], int block, u32 bits[N]) {
    u32 c0[2 * N], c1[2 * N], c2[2 * N], c3[2 * N], k0 = drop.key0, k1 = drop.key1;
#pragma unroll
    for (int i = 0; i < 2 * N; i++) {
        c0[i] = (u32)(group[i / 2] * 8) + (u32)(block + i % 2);
        c1[i] = drop.site ^ (u32)(group[i / 2] >> 29) << 16;
        c2[i] = drop.step, c3[i] = drop.purpose;
    }
#pragma unroll
    for (int round = 0; round < 10; round++) {
#pragma unroll
        for (int i = 0; i < 2 * N; i++) {
            u64 a = (u64)0xD2511F53u * c0[i], b = (u64)0xCD9E8D57u * c2[i];
            c0[i] = (u32)(b >> 32) ^ c1[i] ^ k0;
            c1[i] = (u32)b;
            c2[i] = (u32)(a >> 32) ^ c3[i] ^ k1;
            c3[i] = (u32)a;
        }
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    // The upper half of a word compares as it lies, the lower one once it is shifted up.
    u32 threshold = drop.threshold << 16;
#pragma unroll
    for (int i = 0; i < N; i++) {
        u32 all = 0;
#pragma unroll
        for (int part = 0; part < 2; part++) {
            u32 words[4] = {c0[2 * i + part], c1[2 * i + part], c2[2 * i + part], c3[2 * i + part]};
#pragma unroll
            for (int w = 0; w < 4; w++) {
                if (words[w] << 16 >= threshold) all |= 1u << (8 * part + 2 * w);
                if (words[w] >= threshold) all |= 2u << (8 * part + 2 * w);
            }
        }
        bits[i] = all;
    }
}

// The sum of two products of bf16.
__device__ __forceinline__ float dot2(u32 a, u32 b) {
    return __uint_as_float(a << 16) * __uint_as_float(b << 16)
         + __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u);
}

// Bits n and 8 + n as the two halves of a mask.
__device__ __forceinline__ u32 spread(u32 bits, int n) {
    u32 mask;
    asm("prmt.b32 %0, %1, %1, 0x9988;" : "=r"(mask) : "r"(bits << (7 - n)));
    return mask;
}

// The factor from a score to a power of two; not zero, because hidden scores are infinite.
__device__ __forceinline__ float power(float scale) { return scale == 0.f ? 1e-30f : scale * LOG2E; }

// How far the exponent of a probability may rise before what has been summed is scaled anew.
#define SLACK 8.f

template <int D, bool DROP>
__device__ __forceinline__ void forward(
    const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const Sizes& s, const Drop& drop
) {
    extern __shared__ __align__(1024) u8 memory[];
    const u32 TILE = 64 * D * 2, STAGE = 2 * TILE;
    u32 base = shared_address(memory);
    int width = s.heads * D, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0;
    int k0 = s.k_offsets[blockIdx.z], nk = s.k_offsets[blockIdx.z + 1] - k0;
    int block = blockIdx.x * 64, row = block + warp * 16;
    if (block >= nq) return;
    q += (u64)(q0 + block) * s.q_pitch + head * D, out += (u64)q0 * width + head * D;
    k += (u64)k0 * s.k_pitch + head * D, v += (u64)k0 * s.k_pitch + head * D;
    // Queries pass through the place of the second tile of keys.
    tile_in<D, 64, 128>(base + STAGE, q, nq - block, s.q_pitch);
    fetches_end();
    tile_in<D, 64, 128>(base, k, nk, s.k_pitch);
    tile_in<D, 64, 128>(base + TILE, v, nk, s.k_pitch);
    fetches_end();
    await<1>();
    __syncthreads();
    u32 a[D / 16][4], sign = s.scale < 0.f ? 0x80008000u : 0u;
#pragma unroll
    for (int kk = 0; kk < D / 16; kk++) {
        load4(a[kk], (down_first<D>(base + STAGE) ^ kk * 32) + warp * 32 * D);
#pragma unroll
        for (int part = 0; part < 4; part++) a[kk][part] ^= sign;
    }
    float acc[1][D / 8][4], top[2] = {-INF, -INF}, sum[2] = {0.f, 0.f}, factor = power(fabsf(s.scale));
    clear<1, D / 8>(acc);
    int shift = nk - nq, most = s.causal ? min(nk, block + 64 + shift) : nk;
    int mine = row >= nq ? 0 : s.causal ? min(nk, row + 16 + shift) : nk;
    u64 groups = (u64)((s.longest_key + 63) / 64), group = ((u64)(q0 + row + lane / 4) * s.heads + head) * groups;
    u32 stage = base;
    for (int j0 = 0; j0 < most; j0 += 64) {
        await<0>();
        __syncthreads();
        if (j0 + 64 < most) {
            u32 next = stage ^ base ^ (base + STAGE);
            tile_in<D, 64, 128>(next, k + (u64)(j0 + 64) * s.k_pitch, nk - j0 - 64, s.k_pitch);
            tile_in<D, 64, 128>(next + TILE, v + (u64)(j0 + 64) * s.k_pitch, nk - j0 - 64, s.k_pitch);
            fetches_end();
        }
        if (j0 < mine) {
            u32 bits[2];
            if (DROP) {
                u64 at[2] = {group + j0 / 64, group + (u64)8 * s.heads * groups + j0 / 64};
                keep_pairs<2>(drop, at, lane % 4 * 2, bits);
#pragma unroll
                for (int half = 0; half < 2; half++)
                    if (row + lane / 4 + half * 8 < nq) *(u16*)(s.kept + at[half] * 8 + lane % 4 * 2) = (u16)bits[half];
            }
            float c[1][8][4];
            clear<1, 8>(c);
            u32 keys = along_first<D>(stage);
#pragma unroll
            for (int kk = 0; kk < D / 16; kk++)
#pragma unroll
                for (int n = 0; n < 8; n += 2) {
                    u32 b[4];
                    load4(b, (keys ^ kk * 32) + n * 16 * D);
                    mma(c[0][n], a[kk], b[0], b[1]);
                    mma(c[0][n + 1], a[kk], b[2], b[3]);
                }
            if (j0 + 64 > nk || (s.causal && j0 + 63 > row + shift)) {
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        int key = j0 + n * 8 + lane % 4 * 2 + e % 2, i = row + lane / 4 + e / 2 * 8;
                        if (key >= nk || (s.causal && key > i + shift)) c[0][n][e] = -INF;
                    }
            }
            float high[2];
            bool rises = false;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float x = fmaxf(c[0][0][2 * half], c[0][0][2 * half + 1]);
#pragma unroll
                for (int n = 1; n < 8; n++) x = fmaxf(x, fmaxf(c[0][n][2 * half], c[0][n][2 * half + 1]));
                x = fmaxf(x, __shfl_xor_sync(FULL, x, 1));
                x = fmaxf(x, __shfl_xor_sync(FULL, x, 2));
                high[half] = x * factor;
                rises |= high[half] > top[half] + SLACK;
            }
            // The first tile holds key 0, which every query sees: from there on `top` is finite.
            if (__any_sync(FULL, rises)) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float to = fmaxf(top[half], high[half]), shrink = exp2_fast(top[half] - to);
                    top[half] = to;
                    sum[half] *= shrink;
#pragma unroll
                    for (int n = 0; n < D / 8; n++) acc[0][n][2 * half] *= shrink, acc[0][n][2 * half + 1] *= shrink;
                }
            }
            u32 w[1][4][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float part = 0.f;
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    float x = exp2_fast(c[0][n][2 * half] * factor - top[half]);
                    float y = exp2_fast(c[0][n][2 * half + 1] * factor - top[half]);
                    part += x + y;
                    u32 word = pack2(x, y);
                    if (DROP) word &= spread(bits[half], n);
                    w[0][n / 2][n % 2 * 2 + half] = word;
                }
                sum[half] += part;
            }
            accumulate<D, 1, 64>(acc, w, down_first<D>(stage + TILE));
        }
        stage ^= base ^ (base + STAGE);
    }
    float share[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float all = sum[half];
        all += __shfl_xor_sync(FULL, all, 1);
        all += __shfl_xor_sync(FULL, all, 2);
        share[half] = (DROP ? drop.scale : 1.f) / all;
        int i = row + lane / 4 + half * 8;
        if (i < nq && lane % 4 == 0) lse[(u64)(q0 + i) * s.heads + head] = top[half] / LOG2E + logf(all);
    }
    rows_out<D>(out, acc[0], row, nq, width, share[0], share[1]);
}

// Queries of a tile of the gradient's.
#define QUERIES 32

// The gradient's shared memory, in bytes from its start; attention.rs computes the same sum.
template <int D, int MT, int W>
struct Layout {
    static const int KEYS = W * MT * 16, GROUPS = KEYS / 64, COLUMNS = 2 * D / W;
    static const u32 TILE = QUERIES * D * 2;
    static const u32 V = KEYS * D * 2, Q = 2 * V, DS = Q + 4 * TILE, STATS = DS + KEYS * QUERIES * 2;
    static const u32 FLAGS = STATS + 2 * QUERIES * 8, SUMS = FLAGS + 2 * QUERIES * GROUPS * 8;
};

// Where the sums of a tile of dq lie, four for each thread at a time.
template <int D, int W>
__device__ __forceinline__ float4* sums_at(float* sums, u64 tile) {
    return (float4*)sums + (tile * W + (threadIdx.x >> 5)) * (D / W / 4) * 32 + (threadIdx.x & 31);
}
// The first tile of dq of a sequence in device memory: every sequence has room for its last, partial one.
__device__ __forceinline__ u64 first_tile(const Sizes& s) {
    u64 all = (u64)(s.q_offsets[gridDim.z] / QUERIES + gridDim.z);
    return blockIdx.y * all + (u64)(s.q_offsets[blockIdx.z] / QUERIES) + blockIdx.z;
}

// Grid: splits, heads, sequences. A split takes every gridDim.x-th block of keys. dq is summed in shared memory where `sums`
// is null (there is then one split), else in device memory, and is stored by this kernel where there is one split and by
// mma_sum where there are more.
template <int D, int MT, int W>
__device__ __forceinline__ void gradients(
    const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const bf16* out, const float* lse, bf16* dq,
    bf16* dk, bf16* dv, float* sums, const Sizes& s, const Drop& drop
) {
    typedef Layout<D, MT, W> At;
    const int KEYS = At::KEYS, THREADS = W * 32, COLUMNS = At::COLUMNS;
    extern __shared__ __align__(1024) u8 memory[];
    u32 base = shared_address(memory);
    int width = s.heads * D, head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0;
    int k0 = s.k_offsets[blockIdx.z], nk = s.k_offsets[blockIdx.z + 1] - k0, shift = nk - nq;
    int splits = gridDim.x, tiles = (nq + QUERIES - 1) / QUERIES;
    if ((int)blockIdx.x * KEYS >= nk) return;
    q += (u64)q0 * s.q_pitch + head * D, dout += (u64)q0 * width + head * D, out += (u64)q0 * width + head * D;
    k += (u64)k0 * s.k_pitch + head * D, v += (u64)k0 * s.k_pitch + head * D;
    if (sums) {
        u64 all = (u64)(s.q_offsets[gridDim.z] / QUERIES + gridDim.z) * s.heads;
        sums += (blockIdx.x * all + first_tile(s)) * QUERIES * D;
    } else {
        sums = (float*)(memory + At::SUMS);
    }
    u64 groups = (u64)((s.longest_key + 63) / 64);
    float factor = power(s.scale), hidden = factor < 0.f ? INF : -INF, raise = 0.f, lower = 1.f;
    // The factor of what dropout keeps is part of the probability's exponent.
    if (drop.on) raise = log2f(drop.scale), lower = 1.f / drop.scale;
    u32 all = drop.on ? 0u : 0xffu;
    for (int j0 = blockIdx.x * KEYS; j0 < nk; j0 += splits * KEYS) {
        // A causal query sees key j from place j - shift on.
        int first = s.causal ? max(0, j0 - shift) / QUERIES : 0;
        auto rows = [&](int tile) {
            u32 to = base + At::Q + (tile & 1) * 2 * At::TILE;
            int i0 = tile * QUERIES;
            tile_in<D, QUERIES, THREADS>(to, q + (u64)i0 * s.q_pitch, nq - i0, s.q_pitch);
            tile_in<D, QUERIES, THREADS>(to + At::TILE, dout + (u64)i0 * width, nq - i0, width);
        };
        auto rest = [&](int tile) {
            int i = tile * QUERIES + (threadIdx.x & 31);
            u64 at = (u64)(q0 + min(i, nq - 1)) * s.heads + head;
            u32 to = base + At::STATS + (tile & 1) * QUERIES * 8 + (threadIdx.x & 31) * 4;
            if (warp == 0) fetch<4>(to, lse + at, i < nq);
            if (drop.on && threadIdx.x < QUERIES * At::GROUPS) {
                int g = threadIdx.x % At::GROUPS, local = threadIdx.x / At::GROUPS;
                i = tile * QUERIES + local;
                bool inside = i < nq && j0 / 64 + g < (int)groups;
                at = ((u64)(q0 + min(i, nq - 1)) * s.heads + head) * groups + (inside ? j0 / 64 + g : 0);
                fetch<8>(base + At::FLAGS + (tile & 1) * QUERIES * At::GROUPS * 8 + threadIdx.x * 8, s.kept + at * 8, inside);
            }
            fetches_end();
        };
        // delta, the sum of dout x out of a row: eight columns of each to a thread, read a while before they are used.
        const int LANES = D / 8, STEP = THREADS / LANES, EACH = QUERIES / STEP;
        uint4 up_words[EACH], out_words[EACH];
        auto ahead = [&](int tile) {
#pragma unroll
            for (int r = 0; r < EACH; r++) {
                int i = tile * QUERIES + threadIdx.x / LANES + r * STEP;
                u64 at = (u64)i * width + threadIdx.x % LANES * 8;
                up_words[r] = i < nq ? *(const uint4*)(dout + at) : make_uint4(0, 0, 0, 0);
                out_words[r] = i < nq ? *(const uint4*)(out + at) : make_uint4(0, 0, 0, 0);
            }
        };
        auto deltas = [&](int tile) {
            float* place = (float*)(memory + At::STATS + (tile & 1) * QUERIES * 8 + QUERIES * 4);
#pragma unroll
            for (int r = 0; r < EACH; r++) {
                float sum = dot2(up_words[r].x, out_words[r].x) + dot2(up_words[r].y, out_words[r].y)
                          + dot2(up_words[r].z, out_words[r].z) + dot2(up_words[r].w, out_words[r].w);
#pragma unroll
                for (int step = LANES / 2; step; step >>= 1) sum += __shfl_xor_sync(FULL, sum, step);
                if (threadIdx.x % LANES == 0) place[threadIdx.x / LANES + r * STEP] = sum;
            }
        };
        __syncthreads();
        tile_in<D, KEYS, THREADS>(base, k + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        tile_in<D, KEYS, THREADS>(base + At::V, v + (u64)j0 * s.k_pitch, nk - j0, s.k_pitch);
        if (first < tiles) {
            rows(first);
            rest(first);
        }
        ahead(first);
        deltas(first);
        float key_acc[MT][D / 8][4], value_acc[MT][D / 8][4];
        clear<MT, D / 8>(key_acc);
        clear<MT, D / 8>(value_acc);
        int own = warp * MT * 16;
        for (int tile = first; tile < tiles; tile++) {
            await<0>();
            __syncthreads();
            if (tile + 1 < tiles) {
                rows(tile + 1);
                rest(tile + 1);
            }
            int i0 = tile * QUERIES;
            // Keys of this block that a query of the tile sees.
            int seen = min(KEYS, (s.causal ? min(nk, i0 + QUERIES + shift) : nk) - j0);
            u32 qs = base + At::Q + (tile & 1) * 2 * At::TILE, ds = qs + At::TILE;
            // This lane's words of the scores' gradient: queries 2 (lane % 4) and the next of key lane / 4.
            u32 mine = base + At::DS + place<QUERIES>(own + lane / 4, 0) + lane % 4 * 4;
            bool active = own < seen;
            u32 w[MT][QUERIES / 16][4], g[MT][QUERIES / 16][4];
            if (active) {
                float c[MT][QUERIES / 8][4], up[MT][QUERIES / 8][4];
                against<D, MT, QUERIES>(c, down_first<D>(base) + own * D * 2, along_first<D>(qs));
                against<D, MT, QUERIES>(up, down_first<D>(base + At::V) + own * D * 2, along_first<D>(ds));
                const u8* stats = memory + At::STATS + (tile & 1) * QUERIES * 8 + lane % 4 * 8;
                const u8* kept = memory + At::FLAGS + (tile & 1) * QUERIES * At::GROUPS * 8 + lane % 4 * 2 * At::GROUPS * 8
                               + own / 64 * 8 + lane / 4;
                if (j0 + own + MT * 16 > nk || (s.causal && j0 + own + MT * 16 - 1 > i0 + shift)) {
#pragma unroll
                    for (int m = 0; m < MT; m++)
#pragma unroll
                        for (int n = 0; n < QUERIES / 8; n++)
#pragma unroll
                            for (int e = 0; e < 4; e++) {
                                int key = j0 + own + m * 16 + e / 2 * 8 + lane / 4, i = i0 + n * 8 + lane % 4 * 2 + e % 2;
                                if (key >= nk || (s.causal && key > i + shift)) c[m][n][e] = hidden;
                            }
                }
#pragma unroll
                for (int n = 0; n < QUERIES / 8; n++) {
                    float2 norm = *(const float2*)(stats + n * 32);
                    float2 along = *(const float2*)(stats + QUERIES * 4 + n * 32);
                    norm.x = norm.x * LOG2E - raise, norm.y = norm.y * LOG2E - raise;
                    along.x *= lower, along.y *= lower;
                    u32 flags[2];
                    flags[0] = (kept[n * 64 * At::GROUPS] | all) >> own % 64 / 8;
                    flags[1] = (kept[n * 64 * At::GROUPS + At::GROUPS * 8] | all) >> own % 64 / 8;
#pragma unroll
                    for (int m = 0; m < MT; m++)
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            float p[2], z[2];
#pragma unroll
                            for (int e = 0; e < 2; e++) {
                                p[e] = exp2_fast(c[m][n][2 * half + e] * factor - (e ? norm.y : norm.x));
                                z[e] = p[e] * (e ? along.y : along.x);
                                if (!(flags[e] >> (2 * m + half) & 1)) p[e] = 0.f;
                                z[e] = p[e] * up[m][n][2 * half + e] - z[e];
                            }
                            w[m][n / 2][n % 2 * 2 + half] = pack2(p[0], p[1]);
                            u32 word = pack2(z[0], z[1]);
                            g[m][n / 2][n % 2 * 2 + half] = word;
                            store((mine ^ n * 16) + (m * 16 + half * 8) * QUERIES * 2, word);
                        }
                }
            } else {
                // Nothing of these keys is seen, but dq takes keys 64 at a time.
#pragma unroll
                for (int m = 0; m < 2 * MT; m++)
#pragma unroll
                    for (int n = 0; n < QUERIES / 8; n++)
                        store((mine ^ n * 16) + m * 8 * QUERIES * 2, 0);
            }
            ahead(tile + 1);
            if (active) accumulate<D, MT, QUERIES>(value_acc, w, down_first<D>(ds));
            __syncthreads();
            if (active) accumulate<D, MT, QUERIES>(key_acc, g, down_first<D>(qs));
            deltas(tile + 1);
            if (!dq) continue;
            // This warp's 16 queries and COLUMNS columns of dq. Two sums each where there are few, for shorter chains.
            const int CHAINS = COLUMNS == 16 ? 2 : 1;
            float part[CHAINS][COLUMNS / 8][4];
            clear<CHAINS, COLUMNS / 8>(part);
            u32 a_at = along_first<QUERIES>(base + At::DS) ^ (warp & 1) * 32;
            u32 b_at = down_first<D>(base) ^ (warp >> 1) * (COLUMNS * 2);
            for (int j = 0; j < seen; j += 64) {
#pragma unroll
                for (int kk = 0; kk < 4; kk++) {
                    u32 a[4];
                    load4_transposed(a, a_at + kk * 32 * QUERIES);
#pragma unroll
                    for (int n = 0; n < COLUMNS / 8; n += 2) {
                        u32 b[4];
                        load4_transposed(b, (b_at ^ n * 16) + kk * 32 * D);
                        mma(part[kk % CHAINS][n], a, b[0], b[1]);
                        mma(part[kk % CHAINS][n + 1], a, b[2], b[3]);
                    }
                }
                a_at += 64 * QUERIES * 2, b_at += 64 * D * 2;
            }
            int last = s.causal ? min(nk - 1, i0 + QUERIES - 1 + shift) : nk - 1;
            bool begins = j0 == (int)blockIdx.x * KEYS, ends = splits == 1 && last < j0 + KEYS;
            float4* at = sums_at<D, W>(sums, tile);
#pragma unroll
            for (int n = 0; n < COLUMNS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4 && CHAINS == 2; e++) part[0][n][e] += part[CHAINS - 1][n][e];
                if (!begins) {
                    float4 x = at[n * 32];
                    part[0][n][0] += x.x, part[0][n][1] += x.y, part[0][n][2] += x.z, part[0][n][3] += x.w;
                }
                if (!ends) at[n * 32] = make_float4(part[0][n][0], part[0][n][1], part[0][n][2], part[0][n][3]);
            }
            if (ends) {
                bf16* to = dq + (u64)q0 * s.q_pitch + head * D + (warp >> 1) * COLUMNS;
                rows_out<COLUMNS>(to, part[0], i0 + (warp & 1) * 16, nq, s.q_pitch, s.scale, s.scale);
            }
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            int row = j0 + own + m * 16;
            u64 at = (u64)k0 * s.k_pitch + head * D;
            if (dv) rows_out<D>(dv + at, value_acc[m], row, nk, s.k_pitch, 1.f, 1.f);
            if (dk) rows_out<D>(dk + at, key_acc[m], row, nk, s.k_pitch, s.scale, s.scale);
        }
    }
}

// dq of the splits, in their order. Grid: tiles of queries, heads, sequences.
template <int D, int MT, int W>
__device__ __forceinline__ void add_splits(float* sums, bf16* dq, int splits, const Sizes& s) {
    const int KEYS = Layout<D, MT, W>::KEYS, COLUMNS = Layout<D, MT, W>::COLUMNS;
    int q0 = s.q_offsets[blockIdx.z], nq = s.q_offsets[blockIdx.z + 1] - q0, i0 = blockIdx.x * QUERIES;
    int nk = s.k_offsets[blockIdx.z + 1] - s.k_offsets[blockIdx.z], warp = threadIdx.x >> 5;
    if (i0 >= nq) return;
    u64 all = (u64)(s.q_offsets[gridDim.z] / QUERIES + gridDim.z) * s.heads;
    int last = s.causal ? min(nk - 1, i0 + QUERIES - 1 + nk - nq) : nk - 1;
    float c[1][COLUMNS / 8][4];
    clear<1, COLUMNS / 8>(c);
    for (int split = 0; split < splits && split * KEYS <= last; split++) {
        const float4* at = sums_at<D, W>(sums, split * all + first_tile(s) + blockIdx.x);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            float4 x = at[n * 32];
            c[0][n][0] += x.x, c[0][n][1] += x.y, c[0][n][2] += x.z, c[0][n][3] += x.w;
        }
    }
    bf16* to = dq + (u64)q0 * s.q_pitch + blockIdx.y * D + (warp >> 1) * COLUMNS;
    rows_out<COLUMNS>(to, c[0], i0 + (warp & 1) * 16, nq, s.q_pitch, s.scale, s.scale);
}

#define FORWARD(BLOCKS)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) mma_forward(                                               \
        const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, Sizes s, Drop drop                           \
    ) {                                                                                                                  \
        settle(drop);                                                                                                    \
        if (drop.on)                                                                                                     \
            forward<HEAD, true>(q, k, v, out, lse, s, drop);                                                             \
        else                                                                                                             \
            forward<HEAD, false>(q, k, v, out, lse, s, drop);                                                            \
    }

#define GRADIENTS(MT, W, KEYS, BLOCKS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(W * 32, BLOCKS) mma_gradients_##KEYS(                                   \
        const bf16* q, const bf16* k, const bf16* v, const bf16* dout, const bf16* out, const float* lse, bf16* dq,      \
        bf16* dk, bf16* dv, float* sums, Sizes s, Drop drop                                                              \
    ) {                                                                                                                  \
        settle(drop);                                                                                                    \
        gradients<HEAD, MT, W>(q, k, v, dout, out, lse, dq, dk, dv, sums, s, drop);                                      \
    }                                                                                                                    \
    extern "C" __global__ void __launch_bounds__(W * 32) mma_sum_##KEYS(float* sums, bf16* dq, int splits, Sizes s) {    \
        add_splits<HEAD, MT, W>(sums, dq, splits, s);                                                                    \
    }

// One head size at a time (HEAD): each takes the compiler seconds.
#if HEAD == 32
FORWARD(4)
GRADIENTS(1, 4, 64, 3)
GRADIENTS(2, 4, 128, 2)
#elif HEAD == 64
FORWARD(4)
GRADIENTS(1, 4, 64, 3)
GRADIENTS(2, 8, 256, 1)
#else
FORWARD(2)
GRADIENTS(1, 4, 64, 2)
GRADIENTS(1, 8, 128, 1)
#endif
