// The low-rank paths of lora_mma.cu where each path reads x through a dropout of its own: h = (x ∘ mask) Aᵀ. The flags are drawn
// where a tile of x is loaded, forward and backward; the dropout's scale goes with h and dh, so a mask is only ones and zeros.

struct Path {
    const float *a, *b;
    float *da, *db;
    int column, pad;
};
struct Paths {
    Path at[2];
};
struct Drops {
    Drop at[2];
};

// Rows of a block, and octets of a row at most.
#define ROWS 16
#define OCTETS 128

// The flags of the block's rows for every path, eight elements to a byte. All warps take part.
template <int P>
__device__ __forceinline__ void draw_flags(
    const Drop* drops, u8 (*flags)[ROWS][OCTETS], int row0, int d, int warp, int warps, int lane
) {
    for (int i = warp; i < ROWS * P; i += warps)
        for (int j0 = 0; j0 < d; j0 += 256) {
            const Drop& drop = drops[i / ROWS];
            u32 keep = drop.on ? keep8(drop, row0 + i % ROWS, d, j0, lane) : 0xff;
            if (j0 / 8 + lane < d / 8) flags[i / ROWS][i % ROWS][j0 / 8 + lane] = (u8)keep;
        }
}

// Eight numbers as they lie in memory, those without a flag zero.
__device__ __forceinline__ uint4 masked(uint4 x, u32 flags) {
    u32 words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] &= (flags >> (2 * i) & 1 ? 0xffffu : 0u) | (flags >> (2 * i + 1) & 1 ? 0xffff0000u : 0u);
    return make_uint4(words[0], words[1], words[2], words[3]);
}

__device__ __forceinline__ float scale_of(const Drop& drop) { return drop.on ? drop.scale : 1.f; }

// The A operand whose rows are 16 rows of h (times scale) and whose columns are 8 ranks, then their rests.
template <int PITCH>
__device__ __forceinline__ void ranks_as_columns(u32 a[4], const float (*h)[PITCH], int first, float scale) {
    int lane = threadIdx.x & 31, g = lane >> 2, q = lane & 3;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float* row = h[g + 8 * half] + first + 2 * q;
        a[half] = split2(scale * row[0], scale * row[1], &a[half + 2]);
    }
}

// y = bias + scale h Bᵀ with h = dropout(x) Aᵀ, for the 16 rows of a block; the product with the frozen weight is added later.
template <int P>
__device__ __forceinline__ void start(
    const bf16* x, const Paths& paths, const Drop* drops, const float* bias, bf16* y, float* h, int n, int d, int m,
    int wide, int r, int b, float scale
) {
    __shared__ float parts[8][ROWS][8 * P], hs[ROWS][8 * P];
    __shared__ u8 flags[P][ROWS][OCTETS];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, row0 = blockIdx.x * ROWS;
    draw_flags<P>(drops, flags, row0, d, warp, 8, lane);
    __syncthreads();
    float sums[P][4] = {};
    // The order of a sum's terms is free: a lane takes eight neighbours, the first four as one product's, then the others.
    for (int k0 = warp * 32; k0 < d; k0 += 256) {
        uint4 rows[2];
#pragma unroll
        for (int t = 0; t < 2; t++) {
            int row = row0 + t * 8 + g;
            rows[t] = row < n ? *(const uint4*)(x + (u64)row * d + k0 + q * 8) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int p = 0; p < P; p++) {
            float w[8] = {};
            if (g < b) load_vector(paths.at[p].a + (u64)g * d + k0 + q * 8, w);
            u32 high[4], rest[4];
#pragma unroll
            for (int i = 0; i < 4; i++) high[i] = split2(w[2 * i], w[2 * i + 1], rest + i);
            uint4 upper = masked(rows[0], flags[p][g][k0 / 8 + q]), lower = masked(rows[1], flags[p][g + 8][k0 / 8 + q]);
            u32 one[4] = {upper.x, lower.x, upper.y, lower.y}, two[4] = {upper.z, lower.z, upper.w, lower.w};
            mma(sums[p], one, high[0], high[1]);
            mma(sums[p], one, rest[0], rest[1]);
            mma(sums[p], two, high[2], high[3]);
            mma(sums[p], two, rest[2], rest[3]);
        }
    }
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
        for (int e = 0; e < 4; e++) parts[warp][g + e / 2 * 8][p * 8 + 2 * q + e % 2] = sums[p][e];
    __syncthreads();
    if (threadIdx.x < 128 * P) {
        int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P), rank = k % 8;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < 8; w++) sum += parts[w][i][k];
        sum *= scale_of(drops[k / 8]);
        hs[i][k] = sum;
        if (row0 + i < n && rank < r) h[((u64)(row0 + i) * P + k / 8) * r + rank] = sum;
    }
    __syncthreads();
    u32 a[P][4];
#pragma unroll
    for (int p = 0; p < P; p++) ranks_as_columns<8 * P>(a[p], hs, p * 8, scale);
    for (int j0 = warp * 32; j0 < m; j0 += 256) {
        // Columns in an order that leaves each lane eight neighbours.
        float c[4][4], shift[8] = {};
        if (bias) load_vector(bias + j0 + q * 8, shift);
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int e = 0; e < 4; e++) c[s][e] = shift[2 * s + e % 2];
#pragma unroll
        for (int p = 0; p < P; p++) {
            int from = j0 - paths.at[p].column;
            if (from < 0 || from >= wide) continue;
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const float* w = paths.at[p].b + (u64)(from + g / 2 * 8 + s * 2 + g % 2) * r + 2 * q;
                u32 rest, high = split2(2 * q < b ? w[0] : 0.f, 2 * q + 1 < b ? w[1] : 0.f, &rest);
                mma(c[s], a[p], high, high);
                mma(c[s], a[p], rest, rest);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = row0 + half * 8 + g;
            if (row >= n) continue;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = c[i / 2][half * 2 + i % 2];
            store_vector(y + (u64)row * m + j0 + q * 8, v);
        }
    }
}

// acc += hᵀ x for 16 rows of h and of each path's own tile of `width` columns. Ranks are rows of the sum: the first path's are
// 0 .. 8 and the second's the others; where there is one path, the others are its rests.
template <int P, int TILES>
__device__ __forceinline__ void gather_rows(
    float (*acc)[4], const float (*h)[8 * P + 1], const bf16* tiles, int pitch, int width, int warp, int lane
) {
    int g = lane >> 2, q = lane & 3, across = lane & 15, down = (lane >> 4) * 8;
    u32 own[4], rest[4];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int i = 2 * q + 8 * half;
        own[2 * half] = split2(h[i][g], h[i + 1][g], &rest[2 * half]);
        if (P == 1)
            own[2 * half + 1] = rest[2 * half];
        else
            own[2 * half + 1] = split2(h[i][8 * P - 8 + g], h[i + 1][8 * P - 8 + g], &rest[2 * half + 1]);
    }
#pragma unroll
    for (int t = 0; t < TILES; t += 2) {
        int j = (warp * TILES + t) * 8;
        if (j >= width) continue;
#pragma unroll
        for (int p = 0; p < P; p++) {
            u32 w[4];
            matrices_transposed(w, tiles + (p * ROWS + across) * pitch + j + down);
#pragma unroll
            for (int part = 0; part < P; part++) {
                u32 a[4];
#pragma unroll
                for (int i = 0; i < 4; i++) a[i] = P > 1 && i % 2 != p ? 0 : part ? rest[i] : own[i];
                mma(acc[t], a, w[0], w[1]);
                mma(acc[t + 1], a, w[2], w[3]);
            }
        }
    }
}

// The sum's rows, [8 P][width].
template <int P, int TILES>
__device__ __forceinline__ void store_rows(const float (*acc)[4], float* shares, int width, int warp, int lane) {
    int g = lane >> 2, q = lane & 3;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        int j = (warp * TILES + t) * 8 + 2 * q;
        if (j >= width) continue;
        const float* c = acc[t];
        if (P == 1) {
            *(float2*)(shares + g * width + j) = make_float2(c[0] + c[2], c[1] + c[3]);
        } else {
            *(float2*)(shares + g * width + j) = make_float2(c[0], c[1]);
            *(float2*)(shares + (g + 8) * width + j) = make_float2(c[2], c[3]);
        }
    }
}

// For blocks of 16 rows: dh = scale dy B, dx = (dx if `onto`) + sum over paths of mask ∘ (dh A), and in partial[blockIdx.x] the
// block's shares of dA = dhᵀ dropout(x) and dB = hᵀ dy, [8 P][d] and [8 P][wide]. Every
// warp has TILES strips of eight columns of each gradient.
template <int P, int TILES>
__device__ __forceinline__ void gradient(
    const bf16* dy, const bf16* x, const float* h, const Paths& paths, const Drop* drops, bf16* dx, int onto,
    float* partial, int n, int d, int m, int wide, int r, int b, float scale
) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float hs[ROWS][8 * P + 1], dhs[ROWS][8 * P + 1], parts[16][ROWS][8 * P];
    int xp = d + 8, yp = wide + 8;
    bf16 *xs = (bf16*)memory, *ys = xs + P * ROWS * xp;
    u8(*flags)[ROWS][OCTETS] = (u8(*)[ROWS][OCTETS])(ys + P * ROWS * yp);
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    int across = (lane & 15), down = (lane >> 4) * 8;
    float acc_a[TILES][4] = {}, acc_b[TILES][4] = {};
    for (int row0 = blockIdx.x * ROWS; row0 < n; row0 += gridDim.x * ROWS) {
        __syncthreads();
#pragma unroll 2
        for (int t = threadIdx.x; t < 2 * d; t += 512) {
            int i = t / (d / 8), j = t % (d / 8) * 8, row = row0 + i;
            copy16(xs + i * xp + j, x + (u64)min(row, n - 1) * d + j, row < n);
        }
#pragma unroll 1
        for (int p = 0; p < P; p++)
#pragma unroll 2
            for (int t = threadIdx.x; t < 2 * wide; t += 512) {
                int i = t / (wide / 8), j = t % (wide / 8) * 8, row = row0 + i;
                copy16(ys + (p * ROWS + i) * yp + j, dy + (u64)min(row, n - 1) * m + paths.at[p].column + j, row < n);
            }
        draw_flags<P>(drops, flags, row0, d, warp, 16, lane);
        if (threadIdx.x < 128 * P) {
            int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P), row = row0 + i, rank = k % 8;
            hs[i][k] = row < n && rank < r ? h[((u64)row * P + k / 8) * r + rank] : 0.f;
        }
        copies_done();
        __syncthreads();
        // Each path's own x; a thread reads an element of the shared one before it writes the first path's over it.
#pragma unroll 1
        for (int t = threadIdx.x; t < 2 * d; t += 512) {
            int i = t / (d / 8), octet = t % (d / 8);
            bf16* at = xs + i * xp + octet * 8;
            uint4 all = *(const uint4*)at;
#pragma unroll
            for (int p = 0; p < P; p++) *(uint4*)(at + p * ROWS * xp) = masked(all, flags[p][i][octet]);
        }
        float sums[P][4] = {};
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll 1
            for (int k0 = warp * 16; k0 < wide; k0 += 256) {
                u32 a[4], high[2], rest[2];
                matrices(a, ys + (p * ROWS + across) * yp + k0 + down);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const float* w = paths.at[p].b + (u64)(k0 + 2 * q + 8 * half) * r + g;
                    high[half] = split2(g < b ? w[0] : 0.f, g < b ? w[r] : 0.f, rest + half);
                }
                mma(sums[p], a, high[0], high[1]);
                mma(sums[p], a, rest[0], rest[1]);
            }
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < 4; e++) parts[warp][g + e / 2 * 8][p * 8 + 2 * q + e % 2] = sums[p][e];
        __syncthreads();
        if (threadIdx.x < 128 * P) {
            int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P);
            float sum = 0.f;
#pragma unroll 4
            for (int w = 0; w < 16; w++) sum += parts[w][i][k];
            dhs[i][k] = scale * scale_of(drops[k / 8]) * sum;
        }
        __syncthreads();
        if (dx) {
#pragma unroll 1
            for (int j0 = warp * 32; j0 < d; j0 += 512) {
                float c[4][4];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int row = row0 + g + 8 * half;
                    float v[8] = {};
                    if (onto && row < n) load_vector(dx + (u64)row * d + j0 + q * 8, v);
#pragma unroll
                    for (int i = 0; i < 8; i++) c[i / 2][half * 2 + i % 2] = v[i];
                }
#pragma unroll
                for (int p = 0; p < P; p++) {
                    u32 a[4], keep = flags[p][g][j0 / 8 + q] | (u32)flags[p][g + 8][j0 / 8 + q] << 8;
                    ranks_as_columns<8 * P + 1>(a, dhs, p * 8, 1.f);
#pragma unroll
                    for (int s = 0; s < 4; s++) {
                        const float* w = paths.at[p].a + (u64)(2 * q) * d + j0 + g / 2 * 8 + s * 2 + g % 2;
                        u32 rest, high = split2(2 * q < b ? w[0] : 0.f, 2 * q + 1 < b ? w[d] : 0.f, &rest);
                        float made[4] = {};
                        mma(made, a, high, high);
                        mma(made, a, rest, rest);
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            if (keep >> (e / 2 * 8 + 2 * s + e % 2) & 1) c[s][e] += made[e];
                    }
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int row = row0 + g + 8 * half;
                    if (row >= n) continue;
                    float v[8];
#pragma unroll
                    for (int i = 0; i < 8; i++) v[i] = c[i / 2][half * 2 + i % 2];
                    store_vector(dx + (u64)row * d + j0 + q * 8, v);
                }
            }
        }
        gather_rows<P, TILES>(acc_a, dhs, xs, xp, d, warp, lane);
        gather_rows<P, TILES>(acc_b, hs, ys, yp, wide, warp, lane);
    }
    float *shares_a = partial + (u64)blockIdx.x * 8 * P * (d + wide), *shares_b = shares_a + 8 * P * d;
    store_rows<P, TILES>(acc_a, shares_a, d, warp, lane);
    store_rows<P, TILES>(acc_b, shares_b, wide, warp, lane);
}

// The ranks first .. last of the shares, added up: dA and dB of each path. Grid: strips of 32 columns, ranks, A and B of each path.
template <int P>
__device__ __forceinline__ void gather(
    const float* partial, const Paths& paths, int chunks, int d, int wide, int r, int first, int last, float scale
) {
    __shared__ float shared[8][32];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, j = blockIdx.x * 32 + lane, k = blockIdx.y;
    int p = blockIdx.z / 2, is_b = blockIdx.z % 2, width = is_b ? wide : d;
    if (k < first || k >= last) return;
    const float* at = partial + (is_b ? (u64)8 * P * d : 0) + (u64)(p * 8 + k) * width + j;
    float sum = 0.f;
    if (j < width) {
#pragma unroll 4
        for (int chunk = warp; chunk < chunks; chunk += 8) sum += at[(u64)chunk * 8 * P * (d + wide)];
    }
    shared[warp][lane] = sum;
    __syncthreads();
    if (warp || j >= width) return;
    sum = 0.f;
#pragma unroll
    for (int w = 0; w < 8; w++) sum += shared[w][lane];
    const Path& path = paths.at[p];
    if (is_b)
        path.db[(u64)j * r + k] += scale * sum;
    else
        path.da[(u64)k * d + j] += sum;
}

// The paths' dropouts in shared memory, as this pass has them.
#define SETTLED(given)                                                                                               \
    __shared__ Drop drops[2];                                                                                        \
    if (threadIdx.x < 2) {                                                                                           \
        Drop drop = given.at[threadIdx.x];                                                                           \
        settle(drop);                                                                                                \
        drops[threadIdx.x] = drop;                                                                                   \
    }                                                                                                                \
    __syncthreads();

#define START(P)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) lora_drop_start_##P(                                           \
        const bf16* x, const __grid_constant__ Paths paths, const __grid_constant__ Drops given,                     \
        const float* bias, bf16* y, float* h, int n, int d, int m,                                                   \
        int wide, int r, int b, float scale, const Live* live                                                        \
    ) {                                                                                                              \
        SETTLED(given)                                                                                               \
        settle_rank(live, b), settle_scale(live, scale);                                                             \
        start<P>(x, paths, drops, bias, y, h, n, d, m, wide, r, b, scale);                                           \
    }
START(1)
START(2)

#define GRADIENT(P, TILES)                                                                                           \
    extern "C" __global__ void __launch_bounds__(512, 1) lora_drop_gradient_##P##_##TILES(                           \
        const bf16* dy, const bf16* x, const float* h, const __grid_constant__ Paths paths,                          \
        const __grid_constant__ Drops given, bf16* dx, int onto,                                                     \
        float* partial, int n, int d, int m, int wide, int r, int b, float scale, const Live* live                   \
    ) {                                                                                                              \
        SETTLED(given)                                                                                               \
        settle_rank(live, b), settle_scale(live, scale);                                                             \
        gradient<P, TILES>(dy, x, h, paths, drops, dx, onto, partial, n, d, m, wide, r, b, scale);                   \
    }
GRADIENT(1, 6)
GRADIENT(1, 8)
GRADIENT(2, 6)
GRADIENT(2, 8)

#define GATHER(P)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) lora_drop_gather_##P(                                          \
        const float* partial, const __grid_constant__ Paths paths, int chunks, int d, int wide, int r, int first,    \
        int last, float scale,                                                                                       \
        const Live* live                                                                                             \
    ) {                                                                                                              \
        settle_writes(live, first, last), settle_scale(live, scale);                                                 \
        gather<P>(partial, paths, chunks, d, wide, r, first, last, scale);                                           \
    }
GATHER(1)
GATHER(2)
