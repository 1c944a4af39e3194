// The low-rank paths of a linear layer on tensor cores: up to two of them, each on `wide` columns of y from `column` on, all
// of r <= 8 ranks. x, y and their gradients are bf16; A, B, h and all sums are f32. An f32 factor enters a product as two
// bf16 numbers (its rounding and the rest), so that only activations are rounded to bf16. Ranks from b on count as zero.

struct Path {
    const float *a, *b;
    float *da, *db;
    int column, pad;
};
struct Paths {
    Path at[2];
};

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

// y = bias + scale h Bᵀ with h = x Aᵀ, for 16 MT rows of a block; the product with the frozen weight is added later.
template <int P, int MT>
__device__ __forceinline__ void start(
    const bf16* x, const Paths& paths, const float* bias, bf16* y, float* h, int n, int d, int m, int wide, int r, int b,
    float scale
) {
    __shared__ float parts[8][16 * MT][8 * P], hs[16 * MT][8 * P];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, row0 = blockIdx.x * 16 * MT;
    float sums[MT][P][4] = {};
    // The order of a sum's terms is free: a lane takes eight neighbours, the first four as one product's, then the others.
    for (int k0 = warp * 32; k0 < d; k0 += 256) {
        uint4 rows[MT][2];
#pragma unroll
        for (int t = 0; t < 2 * MT; t++) {
            int row = row0 + t * 8 + g;
            rows[t / 2][t % 2] =
                row < n ? *(const uint4*)(x + (u64)row * d + k0 + q * 8) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int p = 0; p < P; p++) {
            float w[8] = {};
            if (g < b) load_vector(paths.at[p].a + (u64)g * d + k0 + q * 8, w);
            u32 high[4], rest[4];
#pragma unroll
            for (int i = 0; i < 4; i++) high[i] = split2(w[2 * i], w[2 * i + 1], rest + i);
#pragma unroll
            for (int t = 0; t < MT; t++) {
                uint4 upper = rows[t][0], lower = rows[t][1];
                u32 one[4] = {upper.x, lower.x, upper.y, lower.y}, two[4] = {upper.z, lower.z, upper.w, lower.w};
                mma(sums[t][p], one, high[0], high[1]);
                mma(sums[t][p], one, rest[0], rest[1]);
                mma(sums[t][p], two, high[2], high[3]);
                mma(sums[t][p], two, rest[2], rest[3]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < 4; e++) parts[warp][t * 16 + g + e / 2 * 8][p * 8 + 2 * q + e % 2] = sums[t][p][e];
    __syncthreads();
    for (int t = threadIdx.x; t < 128 * MT * P; t += 256) {
        int i = t / (8 * P), k = t % (8 * P), rank = k % 8;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < 8; w++) sum += parts[w][i][k];
        hs[i][k] = sum;
        if (row0 + i < n && rank < r) h[((u64)(row0 + i) * P + k / 8) * r + rank] = sum;
    }
    __syncthreads();
    u32 a[MT][P][4];
#pragma unroll
    for (int t = 0; t < MT; t++)
#pragma unroll
        for (int p = 0; p < P; p++) ranks_as_columns<8 * P>(a[t][p], hs + t * 16, p * 8, scale);
    for (int j0 = warp * 32; j0 < m; j0 += 256) {
        // Columns in an order that leaves each lane eight neighbours.
        float c[MT][4][4], shift[8] = {};
        if (bias) load_vector(bias + j0 + q * 8, shift);
#pragma unroll
        for (int t = 0; t < MT; t++)
#pragma unroll
            for (int s = 0; s < 4; s++)
#pragma unroll
                for (int e = 0; e < 4; e++) c[t][s][e] = shift[2 * s + e % 2];
#pragma unroll
        for (int p = 0; p < P; p++) {
            int from = j0 - paths.at[p].column;
            if (from < 0 || from >= wide) continue;
#pragma unroll
            for (int s = 0; s < 4; s++) {
                const float* w = paths.at[p].b + (u64)(from + g / 2 * 8 + s * 2 + g % 2) * r + 2 * q;
                u32 rest, high = split2(2 * q < b ? w[0] : 0.f, 2 * q + 1 < b ? w[1] : 0.f, &rest);
#pragma unroll
                for (int t = 0; t < MT; t++) {
                    mma(c[t][s], a[t][p], high, high);
                    mma(c[t][s], a[t][p], rest, rest);
                }
            }
        }
#pragma unroll
        for (int t = 0; t < 2 * MT; t++) {
            int row = row0 + t * 8 + g;
            if (row >= n) continue;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) v[i] = c[t / 2][i / 2][t % 2 * 2 + i % 2];
            store_vector(y + (u64)row * m + j0 + q * 8, v);
        }
    }
}

// For blocks of 16 rows: dh = scale dy B, dx = (dx if `onto`) + dh A, and in partial[blockIdx.x] the block's shares of
// dA = dhᵀ x and dB = hᵀ dy, [8 P][d] and [8 P][wide]. Every warp has TILES strips of eight columns of each gradient.
template <int P, int TILES>
__device__ __forceinline__ void gradient(
    const bf16* dy, const bf16* x, const float* h, const Paths& paths, bf16* dx, int onto, float* partial, int n, int d,
    int m, int wide, int r, int b, float scale
) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float hs[16][8 * P + 1], dhs[16][8 * P + 1], parts[16][16][8 * P];
    int xp = d + 8, yp = wide + 8;
    bf16 *xs = (bf16*)memory, *ys = xs + 16 * xp;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    int across = (lane & 15), down = (lane >> 4) * 8;
    float acc_a[TILES][4] = {}, acc_b[P][TILES][4] = {};
    for (int row0 = blockIdx.x * 16; row0 < n; row0 += gridDim.x * 16) {
        __syncthreads();
        for (int t = threadIdx.x; t < 2 * d; t += 512) {
            int i = t / (d / 8), j = t % (d / 8) * 8, row = row0 + i;
            copy16(xs + i * xp + j, x + (u64)min(row, n - 1) * d + j, row < n);
        }
#pragma unroll
        for (int p = 0; p < P; p++)
            for (int t = threadIdx.x; t < 2 * wide; t += 512) {
                int i = t / (wide / 8), j = t % (wide / 8) * 8, row = row0 + i;
                copy16(ys + (p * 16 + i) * yp + j, dy + (u64)min(row, n - 1) * m + paths.at[p].column + j, row < n);
            }
        if (threadIdx.x < 128 * P) {
            int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P), row = row0 + i, rank = k % 8;
            hs[i][k] = row < n && rank < r ? h[((u64)row * P + k / 8) * r + rank] : 0.f;
        }
        copies_done();
        __syncthreads();
        float sums[P][4] = {};
#pragma unroll
        for (int p = 0; p < P; p++)
            for (int k0 = warp * 16; k0 < wide; k0 += 256) {
                u32 a[4], high[2], rest[2];
                matrices(a, ys + (p * 16 + across) * yp + k0 + down);
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
#pragma unroll
            for (int w = 0; w < 16; w++) sum += parts[w][i][k];
            dhs[i][k] = scale * sum;
        }
        __syncthreads();
        if (dx) {
            u32 a[P][4];
#pragma unroll
            for (int p = 0; p < P; p++) ranks_as_columns<8 * P + 1>(a[p], dhs, p * 8, 1.f);
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
                for (int p = 0; p < P; p++)
#pragma unroll
                    for (int s = 0; s < 4; s++) {
                        const float* w = paths.at[p].a + (u64)(2 * q) * d + j0 + g / 2 * 8 + s * 2 + g % 2;
                        u32 rest, high = split2(2 * q < b ? w[0] : 0.f, 2 * q + 1 < b ? w[d] : 0.f, &rest);
                        mma(c[s], a[p], high, high);
                        mma(c[s], a[p], rest, rest);
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
        // Ranks as rows: of both paths for dA, of one path and its rests for dB (and for dA where there is one path).
        u32 over_a[4], over_rest[4], over_b[P][4];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int i = 2 * q + 8 * half;
#pragma unroll
            for (int p = 0; p < P; p++)
                over_b[p][2 * half] = split2(hs[i][p * 8 + g], hs[i + 1][p * 8 + g], &over_b[p][2 * half + 1]);
            over_a[2 * half] = split2(dhs[i][g], dhs[i + 1][g], &over_rest[2 * half]);
            if (P == 1)
                over_a[2 * half + 1] = over_rest[2 * half];
            else
                over_a[2 * half + 1] =
                    split2(dhs[i][8 * P - 8 + g], dhs[i + 1][8 * P - 8 + g], &over_rest[2 * half + 1]);
        }
#pragma unroll
        for (int t = 0; t < TILES; t += 2) {
            int j = (warp * TILES + t) * 8;
            u32 w[4];
            if (j < d) {
                matrices_transposed(w, xs + across * xp + j + down);
                mma(acc_a[t], over_a, w[0], w[1]);
                mma(acc_a[t + 1], over_a, w[2], w[3]);
                if (P > 1) {
                    mma(acc_a[t], over_rest, w[0], w[1]);
                    mma(acc_a[t + 1], over_rest, w[2], w[3]);
                }
            }
            if (j < wide) {
#pragma unroll
                for (int p = 0; p < P; p++) {
                    matrices_transposed(w, ys + (p * 16 + across) * yp + j + down);
                    mma(acc_b[p][t], over_b[p], w[0], w[1]);
                    mma(acc_b[p][t + 1], over_b[p], w[2], w[3]);
                }
            }
        }
    }
    float *shares_a = partial + (u64)blockIdx.x * 8 * P * (d + wide), *shares_b = shares_a + 8 * P * d;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        int j = (warp * TILES + t) * 8 + 2 * q;
        if (j < d) {
            const float* c = acc_a[t];
            if (P == 1) {
                *(float2*)(shares_a + g * d + j) = make_float2(c[0] + c[2], c[1] + c[3]);
            } else {
                *(float2*)(shares_a + g * d + j) = make_float2(c[0], c[1]);
                *(float2*)(shares_a + (g + 8) * d + j) = make_float2(c[2], c[3]);
            }
        }
        if (j < wide) {
#pragma unroll
            for (int p = 0; p < P; p++) {
                const float* c = acc_b[p][t];
                *(float2*)(shares_b + (p * 8 + g) * wide + j) = make_float2(c[0] + c[2], c[1] + c[3]);
            }
        }
    }
}

// dA += sum over blocks of their shares, dB += scale times theirs, for the ranks first .. last that learn. Grid: strips
// of 32 columns, ranks, A and B of each path.
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
    if (is_b) {
        if (path.db) path.db[(u64)j * r + k] += scale * sum;
    } else if (path.da) {
        path.da[(u64)k * d + j] += sum;
    }
}

#define START(P, MT)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) lora_start_##P##_##MT(                                         \
        const bf16* x, Paths paths, const float* bias, bf16* y, float* h, int n, int d, int m, int wide, int r,      \
        int b, float scale, const Live* live                                                                         \
    ) {                                                                                                              \
        settle_rank(live, b), settle_scale(live, scale);                                                             \
        start<P, MT>(x, paths, bias, y, h, n, d, m, wide, r, b, scale);                                              \
    }
START(1, 1)
START(1, 2)
START(2, 1)
START(2, 2)

#define GRADIENT(P, TILES)                                                                                           \
    extern "C" __global__ void __launch_bounds__(512, 1) lora_gradient_##P##_##TILES(                                \
        const bf16* dy, const bf16* x, const float* h, Paths paths, bf16* dx, int onto, float* partial, int n,       \
        int d, int m, int wide, int r, int b, float scale, const Live* live                                          \
    ) {                                                                                                              \
        settle_rank(live, b), settle_scale(live, scale);                                                             \
        gradient<P, TILES>(dy, x, h, paths, dx, onto, partial, n, d, m, wide, r, b, scale);                          \
    }
GRADIENT(1, 4)
GRADIENT(1, 6)
GRADIENT(1, 8)
GRADIENT(2, 4)
GRADIENT(2, 6)
GRADIENT(2, 8)

#define GATHER(P)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) lora_gather_##P(                                               \
        const float* partial, Paths paths, int chunks, int d, int wide, int r, int first, int last, float scale,     \
        const Live* live                                                                                             \
    ) {                                                                                                              \
        settle_writes(live, first, last), settle_scale(live, scale);                                                 \
        gather<P>(partial, paths, chunks, d, wide, r, first, last, scale);                                           \
    }
GATHER(1)
GATHER(2)
