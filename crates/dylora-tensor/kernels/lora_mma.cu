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

// The same value, of which the compiler knows nothing: what follows from it does not stay in registers from tile to tile.
__device__ __forceinline__ int fresh(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

__device__ __forceinline__ u32 dynamic_shared_bytes() {
    u32 bytes;
    asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
    return bytes;
}

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

// y = bias + scale h Bᵀ with h = x Aᵀ; the product with the frozen weight is added later. A block goes through tiles of 16
// rows. Its part of B, split once, stays in shared memory, of which each thread reads only what it wrote, and so does the bias; as
// many columns of y as that holds are the block's, from blockIdx.y on, in units of 32. Its part of A stays in registers: d is at
// most 64 WARPS. Blocks of one blockIdx.x compute the same h.
template <int P, int WARPS>
__device__ __forceinline__ void start(
    const bf16* x, const Paths& paths, const float* bias, bf16* y, float* h, int n, int d, int m, int wide, int r, int b,
    float scale
) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float parts[WARPS][16][8 * P], hs[16][8 * P];
    constexpr int INNER = 4, BATCH = 3;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3;
    int units = dynamic_shared_bytes() / (WARPS * 1152), first = (blockIdx.y * units * WARPS + warp) * 32;
    // The unit's two words a lane are 32 WARPS words of 16 bytes apart.
    uint4* factors = (uint4*)memory + threadIdx.x;
    float* shifts = (float*)memory + units * WARPS * 256;
    if (bias) {
        for (int c = 4 * threadIdx.x; c < 32 * WARPS * units; c += 128 * WARPS) {
            int j = blockIdx.y * units * WARPS * 32 + c;
            copy_bytes(shifts + c, bias + min(j, m - 4), j < m ? 16 : 0);
        }
    }
    commit_copies();
    // The rows of x for units of 16 columns; those of the next tile are asked for early.
    uint2 rows[INNER][2];
    auto ask = [&](int row0) {
#pragma unroll
        for (int u = 0; u < INNER; u++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = row0 + half * 8 + g, k = 16 * (warp + WARPS * u) + q * 4;
                rows[u][half] = row < n && k < d ? *(const uint2*)(x + (u64)row * d + k) : make_uint2(0, 0);
            }
    };
    ask(blockIdx.x * 16);
    u32 high_a[INNER][P][2], rest_a[INNER][P][2];
    {
        float4 w[INNER][P];
#pragma unroll
        for (int u = 0; u < INNER; u++)
#pragma unroll
            for (int p = 0; p < P; p++) {
                int k = 16 * (warp + WARPS * u) + q * 4;
                w[u][p] = g < b && k < d ? *(const float4*)(paths.at[p].a + (u64)g * d + k) : make_float4(0.f, 0.f, 0.f, 0.f);
            }
#pragma unroll
        for (int u = 0; u < INNER; u++)
#pragma unroll
            for (int p = 0; p < P; p++) {
                high_a[u][p][0] = split2(w[u][p].x, w[u][p].y, &rest_a[u][p][0]);
                high_a[u][p][1] = split2(w[u][p].z, w[u][p].w, &rest_a[u][p][1]);
            }
    }
    // A unit's columns in an order that leaves each lane eight neighbours; columns without a path are never read.
    for (int u0 = 0; u0 < units; u0 += BATCH) {
        float w[BATCH][8];
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
#pragma unroll
            for (int i = 0; i < 8; i++) w[u][i] = 0.f;
#pragma unroll
            for (int p = 0; p < P; p++) {
                int from = first + 32 * WARPS * (u0 + u) - paths.at[p].column;
                if (u0 + u >= units || from < 0 || from >= wide) continue;
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    const float* at = paths.at[p].b + (u64)(from + g / 2 * 8 + s * 2 + g % 2) * r + 2 * q;
                    if (2 * q < b) w[u][2 * s] = at[0];
                    if (2 * q + 1 < b) w[u][2 * s + 1] = at[1];
                }
            }
        }
#pragma unroll
        for (int u = 0; u < BATCH; u++) {
            if (u0 + u >= units) break;
            u32 high[4], rest[4];
#pragma unroll
            for (int s = 0; s < 4; s++) high[s] = split2(w[u][2 * s], w[u][2 * s + 1], rest + s);
            factors[(u0 + u) * 64 * WARPS] = make_uint4(high[0], high[1], high[2], high[3]);
            factors[(u0 + u) * 64 * WARPS + 32 * WARPS] = make_uint4(rest[0], rest[1], rest[2], rest[3]);
        }
    }
    wait_for_copies<0>();
    for (int row0 = blockIdx.x * 16; row0 < n; row0 += gridDim.x * 16) {
        float sums[P][4] = {};
        // The order of a sum's terms is free: a lane takes four neighbours of 16 columns.
#pragma unroll
        for (int u = 0; u < INNER; u++)
#pragma unroll
            for (int p = 0; p < P; p++) {
                u32 a[4] = {rows[u][0].x, rows[u][1].x, rows[u][0].y, rows[u][1].y};
                mma(sums[p], a, high_a[u][p][0], high_a[u][p][1]);
                mma(sums[p], a, rest_a[u][p][0], rest_a[u][p][1]);
            }
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < 4; e++) parts[warp][g + e / 2 * 8][p * 8 + 2 * q + e % 2] = sums[p][e];
        ask(row0 + gridDim.x * 16);
        __syncthreads();
        if (threadIdx.x < 128 * P) {
            int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P), rank = k % 8;
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += parts[w][i][k];
            hs[i][k] = scale * sum;
            if (blockIdx.y == 0 && row0 + i < n && rank < r) h[((u64)(row0 + i) * P + k / 8) * r + rank] = sum;
        }
        __syncthreads();
        u32 a[P][4];
#pragma unroll
        for (int p = 0; p < P; p++) ranks_as_columns<8 * P>(a[p], hs, p * 8, 1.f);
#pragma unroll 2
        for (int u = 0; u < units; u++) {
            int j0 = first + 32 * WARPS * u;
            if (j0 >= m) break;
            float c[4][4], shift[8] = {};
            if (bias) load_vector(shifts + (warp + WARPS * u) * 32 + q * 8, shift);
#pragma unroll
            for (int s = 0; s < 4; s++)
#pragma unroll
                for (int e = 0; e < 4; e++) c[s][e] = shift[2 * s + e % 2];
#pragma unroll
            for (int p = 0; p < P; p++) {
                int from = j0 - paths.at[p].column;
                if (from < 0 || from >= wide) continue;
                uint4 high = factors[u * 64 * WARPS], rest = factors[u * 64 * WARPS + 32 * WARPS];
                mma(c[0], a[p], high.x, high.x), mma(c[0], a[p], rest.x, rest.x);
                mma(c[1], a[p], high.y, high.y), mma(c[1], a[p], rest.y, rest.y);
                mma(c[2], a[p], high.z, high.z), mma(c[2], a[p], rest.z, rest.z);
                mma(c[3], a[p], high.w, high.w), mma(c[3], a[p], rest.w, rest.w);
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = row0 + half * 8 + g;
                float v[8];
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] = c[i / 2][half * 2 + i % 2];
                if (row < n) store_vector(y + (u64)row * m + j0 + q * 8, v);
            }
        }
    }
}

// For blocks of 16 rows: dh = scale dy B, dx = (dx if `onto`) + dh A, and in partial[blockIdx.x] the block's shares of
// dA = dhᵀ x and dB = hᵀ dy for the ranks below b, in the order of `gather`. Each of 16 warps has 8 TILES columns of x, dx, A
// and of each path's dy and B to itself, so that blocks wait only for the sums of dh. Where shared memory holds two tiles
// the next one is on its way while the present one is used.
template <int P, int TILES>
__device__ __forceinline__ void gradient(
    const bf16* dy, const bf16* x, const float* h, const Paths& paths, bf16* dx, int onto, float* partial, int n, int d,
    int m, int wide, int r, int b, float scale
) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float dhs[16][8 * P + 1], parts[16][16][8 * P];
    constexpr int UNITS = TILES / 2;
    int xp = d + 8, yp = wide + 8, tile = 16 * (xp + P * yp), few = 16 * P * r;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, q = lane & 3, own = warp * TILES * 8;
    // Two tiles' rows of h, then a tile of x and of each path's dy, or two.
    float* ranks = (float*)memory;
    bf16* tiles = (bf16*)(ranks + 2 * few);
    bool two = dynamic_shared_bytes() >= 8 * few + 4 * tile;
    auto copy = [&](int row0, bf16* xs) {
        int lane = fresh(threadIdx.x & 31);
        const bf16 *from_x = x + (u64)row0 * d, *from_y = dy + (u64)row0 * m;
#pragma unroll
        for (int i = 0; i < UNITS; i++) {
            int c = lane + 32 * i, j = own + c % TILES * 8, at = c / TILES;
            bool valid = row0 + at < n;
            int row = valid ? at : 0;
            if (j < d) copy16(xs + at * xp + j, from_x + (u32)(row * d + j), valid);
#pragma unroll
            for (int p = 0; p < P; p++)
                if (j < wide)
                    copy16(xs + 16 * xp + (p * 16 + at) * yp + j, from_y + (u32)(row * m + paths.at[p].column + j), valid);
        }
    };
    // The rows of h are one piece of memory.
    auto copy_ranks = [&](int row0, float* to) {
        int c = 4 * threadIdx.x;
        if (c < few) {
            u64 from = (u64)row0 * P * r + c, all = (u64)n * P * r;
            int bytes = from < all ? (int)min((u64)16, 4 * (all - from)) : 0;
            copy_bytes(to + c, bytes ? h + from : h, bytes);
        }
    };
    // Where registers allow it dx is asked for early, and B, split, stays.
    constexpr bool EARLY = P * TILES < 16;
    // A unit's part of A for each lane: both strips' high words, then their rests.
    auto split_a = [&](int u, int p) {
        int j = fresh(own) + u * 16;
        uint4 words = make_uint4(0, 0, 0, 0);
        if (j < d) {
            const float* w = paths.at[p].a + (u64)(2 * q) * d + j + g / 2 * 4 + g % 2;
            words.x = split2(2 * q < b ? w[0] : 0.f, 2 * q + 1 < b ? w[d] : 0.f, &words.z);
            words.y = split2(2 * q < b ? w[2] : 0.f, 2 * q + 1 < b ? w[d + 2] : 0.f, &words.w);
        }
        return words;
    };
    // Where shared memory has room for them they stay; each thread reads only what it wrote.
    uint4* kept = (uint4*)(tiles + 2 * tile) + threadIdx.x;
    bool keeps = dx && dynamic_shared_bytes() >= 8 * few + 4 * tile + UNITS * P * 512 * 16;
    float acc_a[P][UNITS][4] = {}, acc_b[P][UNITS][4] = {};
    int turn = 0;
    copy(blockIdx.x * 16, tiles);
    copy_ranks(blockIdx.x * 16, ranks);
    commit_copies();
    float wb[UNITS][P][4];
    u32 high_b[UNITS][P][2], rest_b[UNITS][P][2];
    auto ask = [&](int u) {
        u32 j = fresh(own) + u * 16;
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                wb[u][p][e] = g < b && j < wide ? paths.at[p].b[(j + 2 * q + e % 2 + e / 2 * 8) * r + g] : 0.f;
    };
    auto split_b = [&](int u) {
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                high_b[u][p][half] = split2(wb[u][p][2 * half], wb[u][p][2 * half + 1], &rest_b[u][p][half]);
    };
    if (EARLY) {
#pragma unroll
        for (int u = 0; u < UNITS; u++) ask(u);
    }
    if (keeps) {
#pragma unroll
        for (int u = 0; u < UNITS; u++)
#pragma unroll
            for (int p = 0; p < P; p++) kept[(u * P + p) * 512] = split_a(u, p);
    }
    if (EARLY) {
#pragma unroll
        for (int u = 0; u < UNITS; u++) split_b(u);
    }
    for (int row0 = blockIdx.x * 16; row0 < n; row0 += gridDim.x * 16) {
        bf16 *xs = tiles + (two ? turn * tile : 0), *ys = xs + 16 * xp;
        float* hs = ranks + turn * few;
        int next = row0 + gridDim.x * 16;
        __syncwarp();
        if (two) {
            if (next < n) copy(next, tiles + (turn ^ 1) * tile);
            commit_copies();
            wait_for_copies<1>();
        } else {
            wait_for_copies<0>();
        }
        __syncwarp();
        float sums[P][4] = {};
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            int j = own + u * 16;
            if (j >= wide) break;
            if (!EARLY) ask(u), split_b(u);
#pragma unroll
            for (int p = 0; p < P; p++) {
                u32 a[4];
                matrices(a, ys + (p * 16 + (lane & 15)) * yp + j + (lane >> 4) * 8);
                mma(sums[p], a, high_b[u][p][0], high_b[u][p][1]);
                mma(sums[p], a, rest_b[u][p][0], rest_b[u][p][1]);
            }
        }
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < 4; e++) parts[warp][g + e / 2 * 8][p * 8 + 2 * q + e % 2] = sums[p][e];
        uint2 old[UNITS][2];
        bf16* dx_at = dx + (u64)row0 * d + (u32)(g * d + own + q * 4);
        auto ask_dx = [&](int u) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                bool inside = onto && row0 + g + 8 * half < n && own + u * 16 < d;
                old[u][half] = inside ? *(const uint2*)(dx_at + half * 8 * d + u * 16) : make_uint2(0, 0);
            }
        };
        if (EARLY) {
#pragma unroll
            for (int u = 0; u < UNITS; u++) ask_dx(u);
        }
        __syncthreads();
        // Nobody reads the other rows of h any more.
        if (next < n) copy_ranks(next, ranks + (turn ^ 1) * few);
        commit_copies();
        if (threadIdx.x < 128 * P) {
            int i = threadIdx.x / (8 * P), k = threadIdx.x % (8 * P);
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < 16; w++) sum += parts[w][i][k];
            dhs[i][k] = scale * sum;
        }
        __syncthreads();
        if (dx) {
            // Columns in an order that leaves each lane four neighbours of a unit's 16.
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                int j = own + u * 16;
                if (j >= d) break;
                float c[2][4];
                if (!EARLY) ask_dx(u);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    u32 words[2] = {old[u][half].x, old[u][half].y};
#pragma unroll
                    for (int s = 0; s < 2; s++) {
                        c[s][2 * half] = __uint_as_float(words[s] << 16);
                        c[s][2 * half + 1] = __uint_as_float(words[s] & 0xffff0000u);
                    }
                }
#pragma unroll
                for (int p = 0; p < P; p++) {
                    u32 a[4];
                    ranks_as_columns<8 * P + 1>(a, dhs, p * 8, 1.f);
                    uint4 w = keeps ? kept[(u * P + p) * 512] : split_a(u, p);
                    mma(c[0], a, w.x, w.x), mma(c[0], a, w.z, w.z);
                    mma(c[1], a, w.y, w.y), mma(c[1], a, w.w, w.w);
                }
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    if (row0 + g + 8 * half < n)
                        *(uint2*)(dx_at + half * 8 * d + u * 16) = make_uint2(
                            pack2(c[0][2 * half], c[0][2 * half + 1]), pack2(c[1][2 * half], c[1][2 * half + 1])
                        );
                }
            }
        }
        // Columns as rows, ranks as columns: c[column, rank] += x[row, column] dh[row, rank], and rests.
#pragma unroll
        for (int p = 0; p < P; p++) {
            u32 over_a[2], less_a[2], over_b[2], less_b[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int i = 2 * q + 8 * half;
                over_a[half] = split2(dhs[i][p * 8 + g], dhs[i + 1][p * 8 + g], less_a + half);
                const float* row = hs + (i * P + p) * r + g;
                over_b[half] = split2(g < r ? row[0] : 0.f, g < r ? row[P * r] : 0.f, less_b + half);
            }
            int i = fresh(lane), at = (i & 7) + (i >> 4) * 8, across = (i >> 3 & 1) * 8;
#pragma unroll
            for (int u = 0; u < UNITS; u++) {
                int j = own + u * 16;
                u32 a[4];
                if (j < d) {
                    matrices_transposed(a, xs + at * xp + j + across);
                    mma(acc_a[p][u], a, over_a[0], over_a[1]);
                    mma(acc_a[p][u], a, less_a[0], less_a[1]);
                }
                if (j < wide) {
                    matrices_transposed(a, ys + (p * 16 + at) * yp + j + across);
                    mma(acc_b[p][u], a, over_b[0], over_b[1]);
                    mma(acc_b[p][u], a, less_b[0], less_b[1]);
                }
            }
        }
        turn ^= 1;
        if (!two) {
            __syncwarp();
            if (next < n) copy(next, xs);
            commit_copies();
        }
    }
    if (2 * q >= b) return;
    float4 *shares_a = (float4*)(partial + (u64)blockIdx.x * 8 * P * (d + wide)), *shares_b = shares_a + 2 * P * d;
#pragma unroll
    for (int p = 0; p < P; p++)
#pragma unroll
        for (int u = 0; u < UNITS; u++) {
            int j = own + u * 16;
            const float *ca = acc_a[p][u], *cb = acc_b[p][u];
            if (j < d) shares_a[p * 2 * d + 2 * j + q * 8 + g] = make_float4(ca[0], ca[1], ca[2], ca[3]);
            if (j < wide) shares_b[p * 2 * wide + 2 * j + q * 8 + g] = make_float4(cb[0], cb[1], cb[2], cb[3]);
        }
}

// dA += sum over blocks of their shares, dB += scale times theirs, for the ranks first .. last that learn. A block has 16
// columns of one factor of one path: those of A, path after path, then those of B. Lane 8 q + g has the ranks 2 q and
// 2 q + 1 of columns g and g + 8, as `gradient` stored them; no share of a rank from b on is read.
template <int P>
__device__ __forceinline__ void gather(
    const float* partial, const Paths& paths, int chunks, int d, int wide, int r, int first, int last, float scale
) {
    __shared__ float sums[16][128];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rank = lane / 8 * 2;
    const float4* at = (const float4*)partial + (u64)blockIdx.x * 32 + lane;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    if (rank < last && rank + 1 >= first) {
#pragma unroll 8
        for (int chunk = warp; chunk < chunks; chunk += 16) {
            float4 c = at[(u64)chunk * 2 * P * (d + wide)];
            sum.x += c.x, sum.y += c.y, sum.z += c.z, sum.w += c.w;
        }
    }
    *(float4*)&sums[warp][lane * 4] = sum;
    __syncthreads();
    if (threadIdx.x >= 128) return;
    float all = 0.f;
#pragma unroll
    for (int w = 0; w < 16; w++) all += sums[w][threadIdx.x];
    int place = threadIdx.x / 4, k = place / 8 * 2 + threadIdx.x % 2, column = place % 8 + threadIdx.x / 2 % 2 * 8;
    if (k < first || k >= last) return;
    int is_b = (int)blockIdx.x * 16 >= P * d, j = blockIdx.x * 16 - (is_b ? P * d : 0), width = is_b ? wide : d;
    bool second = j >= width;
    if (second) j -= width;
    j += column;
    if (is_b) {
        float* db = P > 1 && second ? paths.at[1].db : paths.at[0].db;
        if (db) db[(u64)j * r + k] += scale * all;
    } else {
        float* da = P > 1 && second ? paths.at[1].da : paths.at[0].da;
        if (da) da[(u64)k * d + j] += all;
    }
}

#define START(P, WARPS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, 1) lora_start_##P##_##WARPS(                            \
        const bf16* x, Paths paths, const float* bias, bf16* y, float* h, int n, int d, int m, int wide, int r,      \
        int b, float scale, const Live* live                                                                         \
    ) {                                                                                                              \
        settle_rank(live, b), settle_scale(live, scale);                                                             \
        start<P, WARPS>(x, paths, bias, y, h, n, d, m, wide, r, b, scale);                                        \
    }
START(1, 12)
START(1, 16)
START(2, 12)
START(2, 16)

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
    extern "C" __global__ void __launch_bounds__(512) lora_gather_##P(                                               \
        const float* partial, Paths paths, int chunks, int d, int wide, int r, int first, int last, float scale,     \
        const Live* live                                                                                             \
    ) {                                                                                                              \
        settle_writes(live, first, last), settle_scale(live, scale);                                                 \
        gather<P>(partial, paths, chunks, d, wide, r, first, last, scale);                                           \
    }
GATHER(1)
GATHER(2)
