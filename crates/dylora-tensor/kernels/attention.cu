// Softmax attention over packed sequences without stored scores: the plain form, in f32 for any type and any head size to 128.
//
// A block of 8 x 16 threads owns 32 queries (forward, dq) or 32 keys (dk, dv) and takes the other side in tiles through shared
// memory. Thread (y, x) computes the scores of rows y + 8 i and columns x + 16 j, and of what is summed the same rows and
// columns 4 x + 64 g: sixteen products for eight numbers read. A row's threads are half a warp. The backward computes
// probabilities again from the saved log-sum-exp (Dao et al., arXiv:2205.14135).

struct Sizes {
    const int *q_offsets, *k_offsets;
    u8* kept;
    int heads, dim, longest_key, causal;
    float scale;
    // These and `kept` are used by the tensor core form alone; here every row is heads x dim wide.
    int q_pitch, k_pitch;
};

struct Range {
    int q0, nq, k0, nk;
};
__device__ __forceinline__ Range range_of(const Sizes& s, int sequence) {
    Range r;
    r.q0 = s.q_offsets[sequence], r.nq = s.q_offsets[sequence + 1] - r.q0;
    r.k0 = s.k_offsets[sequence], r.nk = s.k_offsets[sequence + 1] - r.k0;
    return r;
}

#define THREADS 128
#define ROWS 32
#define FOUR(m) _Pragma("unroll") for (int m = 0; m < 4; m++)

// Elements from one row of a tile to the next: an odd number of 16 bytes, so that eight rows lie in different banks.
__device__ __forceinline__ int pitch_of(int dim) { return ((dim + 3) / 4 | 1) * 4; }

__device__ __forceinline__ float4 four(const float* x) { return *(const float4*)x; }
__device__ __forceinline__ float4 four(const bf16* x) {
    uint2 a = *(const uint2*)x;
    return make_float4(
        __uint_as_float(a.x << 16), __uint_as_float(a.x & 0xffff0000u), __uint_as_float(a.y << 16),
        __uint_as_float(a.y & 0xffff0000u)
    );
}
__device__ __forceinline__ void put_four(float* x, const float v[4]) { *(float4*)x = make_float4(v[0], v[1], v[2], v[3]); }
__device__ __forceinline__ void put_four(bf16* x, const float v[4]) {
    *(uint2*)x = make_uint2(pack2(v[0], v[1]), pack2(v[2], v[3]));
}

// N rows of one head times f, as f32; rows beyond `count` and columns beyond `dim` are zero.
__device__ __forceinline__ void tile_in(float* tile, const T* x, int n, int count, int width, int dim, float f) {
    int quads = (dim + 3) / 4, pitch = pitch_of(dim);
    for (int t = threadIdx.x; t < n * quads; t += THREADS) {
        int i = t / quads, c = t % quads * 4;
        const T* from = x + (u64)i * width + c;
        float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
        if (i < count && dim % 4 == 0) {
            v = four(from);
        } else if (i < count) {
            v.x = to_f(from[0]);
            if (c + 1 < dim) v.y = to_f(from[1]);
            if (c + 2 < dim) v.z = to_f(from[2]);
            if (c + 3 < dim) v.w = to_f(from[3]);
        }
        *(float4*)(tile + i * pitch + c) = make_float4(v.x * f, v.y * f, v.z * f, v.w * f);
    }
}

// s = a bᵀ of two tiles.
template <int N>
__device__ __forceinline__ void scores(float s[4][N], const float* a, const float* b, int dim) {
    int pitch = pitch_of(dim);
    a += threadIdx.x / 16 * pitch, b += threadIdx.x % 16 * pitch;
    FOUR(i)
#pragma unroll
    for (int j = 0; j < N; j++) s[i][j] = 0.f;
#pragma unroll 2
    for (int c = 0; c < dim; c += 4) {
        float4 x[4], y[N];
        FOUR(i) x[i] = *(const float4*)(a + i * 8 * pitch + c);
#pragma unroll
        for (int j = 0; j < N; j++) y[j] = *(const float4*)(b + j * 16 * pitch + c);
        FOUR(i)
#pragma unroll
        for (int j = 0; j < N; j++) {
            s[i][j] += x[i].x * y[j].x;
            s[i][j] += x[i].y * y[j].y;
            s[i][j] += x[i].z * y[j].z;
            s[i][j] += x[i].w * y[j].w;
        }
    }
}

// Weights of this thread's rows to shared memory, where the half warp reads them.
template <int N>
__device__ __forceinline__ void share(float* weights, const float w[4][N]) {
    __syncwarp();
    FOUR(i)
#pragma unroll
    for (int j = 0; j < N; j++)
        weights[(threadIdx.x / 16 + 8 * i) * (16 * N + 4) + threadIdx.x % 16 + 16 * j] = w[i][j];
    __syncwarp();
}

// acc += weights x of 16 N rows of x.
template <int N, int G>
__device__ __forceinline__ void mix(float acc[4][G][4], const float* weights, const float* x, int dim) {
    int pitch = pitch_of(dim), column = threadIdx.x % 16 * 4;
    weights += threadIdx.x / 16 * (16 * N + 4);
    // Threads beyond the last column read the first instead.
    int at[G];
#pragma unroll
    for (int g = 0; g < G; g++) at[g] = column + 64 * g < dim ? column + 64 * g : 0;
#pragma unroll 2
    for (int k = 0; k < 16 * N; k += 4) {
        float w[4][4];
        FOUR(i) {
            float4 v = *(const float4*)(weights + i * 8 * (16 * N + 4) + k);
            w[i][0] = v.x, w[i][1] = v.y, w[i][2] = v.z, w[i][3] = v.w;
        }
        FOUR(e)
#pragma unroll
        for (int g = 0; g < G; g++) {
            float4 v = *(const float4*)(x + (k + e) * pitch + at[g]);
            FOUR(i) {
                acc[i][g][0] += w[i][e] * v.x;
                acc[i][g][1] += w[i][e] * v.y;
                acc[i][g][2] += w[i][e] * v.z;
                acc[i][g][3] += w[i][e] * v.w;
            }
        }
    }
}

// This thread's rows of acc times f.
template <int G>
__device__ __forceinline__ void rows_out(T* x, const float acc[4][G][4], int row, int count, int width, int dim, const float f[4]) {
    FOUR(i)
#pragma unroll
    for (int g = 0; g < G; g++) {
        int r = row + threadIdx.x / 16 + 8 * i, c = threadIdx.x % 16 * 4 + 64 * g;
        if (r >= count || c >= dim) continue;
        float v[4];
        FOUR(e) v[e] = acc[i][g][e] * f[i];
        T* to = x + (u64)r * width + c;
        if (dim % 4 == 0) put_four(to, v);
        else FOUR(e) if (c + e < dim) put(to + e, v[e]);
    }
}

// Keep flags of keys j0 + x + 16 j for a query (row of the packed batch), those of j in bit 2 j.
__device__ __forceinline__ u32 flags_of(const Drop& drop, const Sizes& s, int query, int head, int j0) {
    int x = threadIdx.x % 16;
    u64 group = ((u64)query * s.heads + head) * (u64)((s.longest_key + 63) / 64) + j0 / 64;
    return keep_bits(drop, group, x & 7) >> (j0 % 64 / 8 + x / 8);
}

__device__ __forceinline__ float row_sum(float x) {
#pragma unroll
    for (int step = 8; step; step >>= 1) x += __shfl_xor_sync(FULL, x, step);
    return x;
}
__device__ __forceinline__ float row_max(float x) {
#pragma unroll
    for (int step = 8; step; step >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, step));
    return x;
}

// Grid of all three: blocks of 32 rows, heads, sequences. Head sizes to 64 take tiles of 64 rows, larger ones of 32.
template <int N, int G>
__device__ __forceinline__ void forward(
    const T* q, const T* k, const T* v, T* out, float* lse, const Sizes& s, const Drop& drop, float* memory
) {
    int dim = s.dim, pitch = pitch_of(dim), width = s.heads * dim, head = blockIdx.y, y = threadIdx.x / 16, x = threadIdx.x % 16;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * ROWS, shift = r.nk - r.nq;
    if (block >= r.nq) return;
    float *qs = memory, *ks = qs + ROWS * pitch, *vs = ks + 16 * N * pitch, *ps = vs + 16 * N * pitch;
    q += (u64)(r.q0 + block) * width + head * dim;
    k += (u64)r.k0 * width + head * dim, v += (u64)r.k0 * width + head * dim;
    tile_in(qs, q, ROWS, r.nq - block, width, dim, s.scale);
    float top[4], sum[4], acc[4][G][4] = {};
    FOUR(i) top[i] = -INF, sum[i] = 0.f;
    int most = s.causal ? min(r.nk, block + ROWS + shift) : r.nk;
    for (int j0 = 0; j0 < most; j0 += 16 * N) {
        __syncthreads();
        tile_in(ks, k + (u64)j0 * width, 16 * N, r.nk - j0, width, dim, 1.f);
        tile_in(vs, v + (u64)j0 * width, 16 * N, r.nk - j0, width, dim, 1.f);
        __syncthreads();
        float p[4][N];
        scores<N>(p, qs, ks, dim);
        FOUR(i) {
            int place = block + y + 8 * i;
            float high = top[i], part = 0.f;
#pragma unroll
            for (int j = 0; j < N; j++) {
                int key = j0 + x + 16 * j;
                if (key >= r.nk || (s.causal && key > place + shift)) p[i][j] = -INF;
                high = fmaxf(high, p[i][j]);
            }
            high = row_max(high);
            // Key 0 is in the first tile and every query sees it: `high` is finite.
            float shrink = expf(top[i] - high);
            top[i] = high;
#pragma unroll
            for (int j = 0; j < N; j++) {
                p[i][j] = expf(p[i][j] - high);
                part += p[i][j];
            }
            sum[i] = sum[i] * shrink + row_sum(part);
            if (drop.on) {
                u32 flags = flags_of(drop, s, r.q0 + place, head, j0);
#pragma unroll
                for (int j = 0; j < N; j++) p[i][j] *= flags >> 2 * j & 1 ? drop.scale : 0.f;
            }
#pragma unroll
            for (int g = 0; g < G; g++) FOUR(e) acc[i][g][e] *= shrink;
        }
        share<N>(ps, p);
        mix<N, G>(acc, ps, vs, dim);
    }
    float f[4];
    FOUR(i) {
        int place = block + y + 8 * i;
        f[i] = 1.f / sum[i];
        if (place < r.nq && x == 0) lse[(u64)(r.q0 + place) * s.heads + head] = top[i] + logf(sum[i]);
    }
    rows_out<G>(out + (u64)r.q0 * width + head * dim, acc, block, r.nq, width, dim, f);
}

// delta[query, head] = sum of dout * out over the head's columns; `lanes` (a power of two) lanes of a warp each.
extern "C" __global__ void attention_delta(
    const T* dout, const T* out, float* delta, int n, int heads, int dim, int lanes, int vec
) {
    u64 item = ((u64)blockIdx.x * 256 + threadIdx.x) / lanes;
    bool inside = item < (u64)n * heads;
    float sum = 0.f;
    for (int c = threadIdx.x % lanes * 8; inside && c < dim; c += lanes * 8) {
        float a[8], b[8];
        load8(dout + item * dim, c, dim, vec, a);
        load8(out + item * dim, c, dim, vec, b);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += a[i] * b[i];
    }
    for (int step = lanes / 2; step; step >>= 1) sum += __shfl_xor_sync(FULL, sum, step);
    if (inside && threadIdx.x % lanes == 0) delta[item] = sum;
}

// dq = scale sum_j ds_j k_j with ds = p (mask (dout . v) - delta).
template <int N, int G>
__device__ __forceinline__ void query_gradient(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq, const Sizes& s,
    const Drop& drop, float* memory
) {
    int dim = s.dim, pitch = pitch_of(dim), width = s.heads * dim, head = blockIdx.y, y = threadIdx.x / 16, x = threadIdx.x % 16;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * ROWS, shift = r.nk - r.nq;
    if (block >= r.nq) return;
    float *qs = memory, *ds = qs + ROWS * pitch, *ks = ds + ROWS * pitch, *vs = ks + 16 * N * pitch, *ps = vs + 16 * N * pitch;
    q += (u64)(r.q0 + block) * width + head * dim, dout += (u64)(r.q0 + block) * width + head * dim;
    k += (u64)r.k0 * width + head * dim, v += (u64)r.k0 * width + head * dim;
    tile_in(qs, q, ROWS, r.nq - block, width, dim, s.scale);
    tile_in(ds, dout, ROWS, r.nq - block, width, dim, 1.f);
    float norm[4], along[4], acc[4][G][4] = {};
    FOUR(i) {
        int place = block + y + 8 * i;
        u64 at = (u64)(r.q0 + min(place, r.nq - 1)) * s.heads + head;
        norm[i] = lse[at], along[i] = delta[at];
    }
    int most = s.causal ? min(r.nk, block + ROWS + shift) : r.nk;
    for (int j0 = 0; j0 < most; j0 += 16 * N) {
        __syncthreads();
        tile_in(ks, k + (u64)j0 * width, 16 * N, r.nk - j0, width, dim, 1.f);
        tile_in(vs, v + (u64)j0 * width, 16 * N, r.nk - j0, width, dim, 1.f);
        __syncthreads();
        float p[4][N], g[4][N];
        scores<N>(p, qs, ks, dim);
        scores<N>(g, ds, vs, dim);
        FOUR(i) {
            int place = block + y + 8 * i;
            u32 flags = drop.on ? flags_of(drop, s, r.q0 + place, head, j0) : FULL;
            float f = drop.on ? drop.scale : 1.f;
#pragma unroll
            for (int j = 0; j < N; j++) {
                int key = j0 + x + 16 * j;
                bool seen = key < r.nk && (!s.causal || key <= place + shift);
                float mask = flags >> 2 * j & 1 ? f : 0.f;
                p[i][j] = seen ? expf(p[i][j] - norm[i]) * (g[i][j] * mask - along[i]) : 0.f;
            }
        }
        share<N>(ps, p);
        mix<N, G>(acc, ps, ks, dim);
    }
    float f[4] = {s.scale, s.scale, s.scale, s.scale};
    rows_out<G>(dq + (u64)r.q0 * width + head * dim, acc, block, r.nq, width, dim, f);
}

// dk = scale sum_i ds_i q_i, dv = sum_i p_i mask dout_i; dk or dv may be missing. Rows are keys, columns queries.
template <int N, int G>
__device__ __forceinline__ void key_gradients(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dk, T* dv, const Sizes& s,
    const Drop& drop, float* memory
) {
    int dim = s.dim, pitch = pitch_of(dim), width = s.heads * dim, head = blockIdx.y, y = threadIdx.x / 16, x = threadIdx.x % 16;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * ROWS, shift = r.nk - r.nq;
    if (block >= r.nk) return;
    float *ks = memory, *vs = ks + ROWS * pitch, *qs = vs + ROWS * pitch, *ds = qs + 16 * N * pitch, *ps = ds + 16 * N * pitch;
    q += (u64)r.q0 * width + head * dim, dout += (u64)r.q0 * width + head * dim;
    k += (u64)(r.k0 + block) * width + head * dim, v += (u64)(r.k0 + block) * width + head * dim;
    tile_in(ks, k, ROWS, r.nk - block, width, dim, s.scale);
    tile_in(vs, v, ROWS, r.nk - block, width, dim, 1.f);
    float key_acc[4][G][4] = {}, value_acc[4][G][4] = {};
    u64 groups = (u64)((s.longest_key + 63) / 64);
    // A causal query sees key j from place j - shift on.
    int first = s.causal ? max(0, block - shift) / (16 * N) * (16 * N) : 0;
    for (int i0 = first; i0 < r.nq; i0 += 16 * N) {
        __syncthreads();
        tile_in(qs, q + (u64)i0 * width, 16 * N, r.nq - i0, width, dim, 1.f);
        tile_in(ds, dout + (u64)i0 * width, 16 * N, r.nq - i0, width, dim, 1.f);
        __syncthreads();
        float p[4][N], g[4][N];
        scores<N>(p, ks, qs, dim);
        scores<N>(g, vs, ds, dim);
#pragma unroll
        for (int j = 0; j < N; j++) {
            int place = i0 + x + 16 * j;
            u64 at = (u64)(r.q0 + min(place, r.nq - 1)) * s.heads + head;
            float norm = lse[at], along = delta[at], f = drop.on ? drop.scale : 1.f;
            // Keys y + 8 i are elements of block y of their group of 64.
            u32 flags = drop.on ? keep_bits(drop, at * groups + block / 64, y) >> block % 64 / 8 : FULL;
            FOUR(i) {
                int key = block + y + 8 * i;
                bool seen = place < r.nq && key < r.nk && (!s.causal || key <= place + shift);
                float chance = seen ? expf(p[i][j] - norm) : 0.f, mask = flags >> i & 1 ? f : 0.f;
                p[i][j] = chance * mask;
                g[i][j] = chance * (g[i][j] * mask - along);
            }
        }
        share<N>(ps, p);
        mix<N, G>(value_acc, ps, ds, dim);
        share<N>(ps, g);
        mix<N, G>(key_acc, ps, qs, dim);
    }
    float plain[4] = {1.f, 1.f, 1.f, 1.f}, f[4] = {s.scale, s.scale, s.scale, s.scale};
    u64 at = (u64)r.k0 * width + head * dim;
    if (dv) rows_out<G>(dv + at, value_acc, block, r.nk, width, dim, plain);
    if (dk) rows_out<G>(dk + at, key_acc, block, r.nk, width, dim, f);
}

#define BY_HEAD(CALL, ...)                   \
    extern __shared__ __align__(16) float memory[]; \
    settle(drop);                            \
    if (s.dim <= 64)                         \
        CALL<4, 1>(__VA_ARGS__, memory);     \
    else                                     \
        CALL<2, 2>(__VA_ARGS__, memory);

extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_forward(
    const T* q, const T* k, const T* v, T* out, float* lse, Sizes s, Drop drop
) {
    BY_HEAD(forward, q, k, v, out, lse, s, drop)
}
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_dq(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq, Sizes s, Drop drop
) {
    BY_HEAD(query_gradient, q, k, v, dout, lse, delta, dq, s, drop)
}
extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_dkv(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dk, T* dv, Sizes s,
    Drop drop
) {
    BY_HEAD(key_gradients, q, k, v, dout, lse, delta, dk, dv, s, drop)
}
