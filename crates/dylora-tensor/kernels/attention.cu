// Softmax attention over packed sequences without stored scores: the plain form, for any type and any head size to 128.
//
// A warp owns a query (forward, dq) or a key (dk, dv) and takes the other side in tiles of 32, which the block shares. The
// backward computes probabilities again from the saved log-sum-exp (Dao et al., arXiv:2205.14135).

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

// The dropout factor of one query (row of the packed batch) and key (place in its sequence).
__device__ __forceinline__ float factor(const Drop& drop, const Sizes& s, int query, int head, int key) {
    if (!drop.on) return 1.f;
    u64 group = ((u64)query * s.heads + head) * (u64)((s.longest_key + 63) / 64) + key / 64;
    return keep_bits(drop, group, key & 7) >> ((key & 63) / 8) & 1 ? drop.scale : 0.f;
}

// 32 rows of one head, as f32; rows beyond `count` are zero.
__device__ __forceinline__ void tile_in(float* tile, const T* x, int first, int count, int width, int column, int dim) {
    for (int t = threadIdx.x; t < 32 * dim; t += blockDim.x) {
        int i = t / dim, c = t % dim;
        tile[i * (dim + 1) + c] = i < count ? to_f(x[(u64)(first + i) * width + column + c]) : 0.f;
    }
}
__device__ __forceinline__ float dot(const float* a, const float* b, int dim) {
    float sum = 0.f;
    for (int c = 0; c < dim; c++) sum += a[c] * b[c];
    return sum;
}

#define WARPS 4
#define EACH 4
#define BLOCK_ROWS (WARPS * EACH)

// Grid: blocks of 16 queries, heads, sequences.
extern "C" __global__ void attention_forward(
    const T* q, const T* k, const T* v, T* out, float* lse, Sizes s, Drop drop
) {
    settle(drop);
    extern __shared__ float memory[];
    int dim = s.dim, pitch = dim + 1, width = s.heads * dim, head = blockIdx.y, column = head * dim;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * BLOCK_ROWS;
    if (block >= r.nq) return;
    float *ks = memory, *vs = ks + 32 * pitch, *qs = vs + 32 * pitch;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int t = threadIdx.x; t < BLOCK_ROWS * dim; t += blockDim.x) {
        int i = block + t / dim;
        qs[t] = i < r.nq ? to_f(q[(u64)(r.q0 + i) * width + column + t % dim]) * s.scale : 0.f;
    }
    float top[EACH], sum[EACH], acc[EACH][4] = {};
    for (int e = 0; e < EACH; e++) top[e] = -INF, sum[e] = 0.f;
    for (int j0 = 0; j0 < r.nk; j0 += 32) {
        __syncthreads();
        tile_in(ks, k, r.k0 + j0, r.nk - j0, width, column, dim);
        tile_in(vs, v, r.k0 + j0, r.nk - j0, width, column, dim);
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            int i = block + warp * EACH + e, key = j0 + lane;
            int seen = s.causal ? min(r.nk, i + 1 + r.nk - r.nq) : r.nk;
            if (i >= r.nq || j0 >= seen) continue;
            float score = key < seen ? dot(qs + (warp * EACH + e) * dim, ks + lane * pitch, dim) : -INF;
            float high = fmaxf(top[e], warp_max(score)), p = key < seen ? expf(score - high) : 0.f;
            float shrink = expf(top[e] - high);
            top[e] = high;
            sum[e] = sum[e] * shrink + warp_sum(p);
            if (key < seen) p *= factor(drop, s, r.q0 + i, head, key);
            for (int c = 0; c < 4; c++) acc[e][c] *= shrink;
            for (int j = 0; j < 32; j++) {
                float weight = __shfl_sync(FULL, p, j);
                for (int c = 0; c < 4; c++)
                    if (lane + 32 * c < dim) acc[e][c] += weight * vs[j * pitch + lane + 32 * c];
            }
        }
    }
    for (int e = 0; e < EACH; e++) {
        int i = block + warp * EACH + e;
        if (i >= r.nq) continue;
        float share = sum[e] > 0.f ? 1.f / sum[e] : 0.f;
        for (int c = 0; c < 4; c++)
            if (lane + 32 * c < dim) put(out + (u64)(r.q0 + i) * width + column + lane + 32 * c, acc[e][c] * share);
        if (lane == 0) lse[(u64)(r.q0 + i) * s.heads + head] = top[e] + logf(sum[e]);
    }
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

// dq = scale sum_j ds_j k_j with ds = p (mask (dout . v) - delta). Grid as forward.
extern "C" __global__ void attention_dq(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dq, Sizes s, Drop drop
) {
    settle(drop);
    extern __shared__ float memory[];
    int dim = s.dim, pitch = dim + 1, width = s.heads * dim, head = blockIdx.y, column = head * dim;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * BLOCK_ROWS;
    if (block >= r.nq) return;
    float *ks = memory, *vs = ks + 32 * pitch, *qs = vs + 32 * pitch, *ds = qs + BLOCK_ROWS * dim;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int t = threadIdx.x; t < BLOCK_ROWS * dim; t += blockDim.x) {
        int i = block + t / dim;
        u64 at = (u64)(r.q0 + i) * width + column + t % dim;
        qs[t] = i < r.nq ? to_f(q[at]) * s.scale : 0.f;
        ds[t] = i < r.nq ? to_f(dout[at]) : 0.f;
    }
    float acc[EACH][4] = {};
    for (int j0 = 0; j0 < r.nk; j0 += 32) {
        __syncthreads();
        tile_in(ks, k, r.k0 + j0, r.nk - j0, width, column, dim);
        tile_in(vs, v, r.k0 + j0, r.nk - j0, width, column, dim);
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            int local = warp * EACH + e, i = block + local, key = j0 + lane;
            int seen = s.causal ? min(r.nk, i + 1 + r.nk - r.nq) : r.nk;
            if (i >= r.nq || j0 >= seen) continue;
            u64 at = (u64)(r.q0 + i) * s.heads + head;
            float g = 0.f;
            if (key < seen) {
                float p = expf(dot(qs + local * dim, ks + lane * pitch, dim) - lse[at]);
                float dp = dot(ds + local * dim, vs + lane * pitch, dim) * factor(drop, s, r.q0 + i, head, key);
                g = p * (dp - delta[at]);
            }
            for (int j = 0; j < 32; j++) {
                float weight = __shfl_sync(FULL, g, j);
                for (int c = 0; c < 4; c++)
                    if (lane + 32 * c < dim) acc[e][c] += weight * ks[j * pitch + lane + 32 * c];
            }
        }
    }
    for (int e = 0; e < EACH; e++) {
        int i = block + warp * EACH + e;
        if (i >= r.nq) continue;
        for (int c = 0; c < 4; c++)
            if (lane + 32 * c < dim) put(dq + (u64)(r.q0 + i) * width + column + lane + 32 * c, s.scale * acc[e][c]);
    }
}

// dk = scale sum_i ds_i q_i, dv = sum_i p_i mask dout_i; dk or dv may be missing. Grid: blocks of 16 keys, heads,
// sequences.
extern "C" __global__ void attention_dkv(
    const T* q, const T* k, const T* v, const T* dout, const float* lse, const float* delta, T* dk, T* dv, Sizes s,
    Drop drop
) {
    settle(drop);
    extern __shared__ float memory[];
    int dim = s.dim, pitch = dim + 1, width = s.heads * dim, head = blockIdx.y, column = head * dim;
    Range r = range_of(s, blockIdx.z);
    int block = blockIdx.x * BLOCK_ROWS;
    if (block >= r.nk) return;
    float *qs = memory, *ds = qs + 32 * pitch, *ks = ds + 32 * pitch, *vs = ks + BLOCK_ROWS * dim;
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int t = threadIdx.x; t < BLOCK_ROWS * dim; t += blockDim.x) {
        int j = block + t / dim;
        u64 at = (u64)(r.k0 + j) * width + column + t % dim;
        ks[t] = j < r.nk ? to_f(k[at]) * s.scale : 0.f;
        vs[t] = j < r.nk ? to_f(v[at]) : 0.f;
    }
    float key_acc[EACH][4] = {}, value_acc[EACH][4] = {};
    for (int i0 = 0; i0 < r.nq; i0 += 32) {
        __syncthreads();
        tile_in(qs, q, r.q0 + i0, r.nq - i0, width, column, dim);
        tile_in(ds, dout, r.q0 + i0, r.nq - i0, width, column, dim);
        __syncthreads();
        for (int e = 0; e < EACH; e++) {
            int local = warp * EACH + e, key = block + local, i = i0 + lane;
            if (key >= r.nk) continue;
            bool seen = i < r.nq && (!s.causal || key < i + 1 + r.nk - r.nq);
            float kept = 0.f, g = 0.f;
            if (seen) {
                u64 at = (u64)(r.q0 + i) * s.heads + head;
                float mask = factor(drop, s, r.q0 + i, head, key);
                float p = expf(dot(ks + local * dim, qs + lane * pitch, dim) - lse[at]);
                kept = p * mask;
                g = p * (dot(vs + local * dim, ds + lane * pitch, dim) * mask - delta[at]);
            }
            for (int j = 0; j < 32; j++) {
                float a = __shfl_sync(FULL, kept, j), b = __shfl_sync(FULL, g, j);
                for (int c = 0; c < 4; c++)
                    if (lane + 32 * c < dim) {
                        value_acc[e][c] += a * ds[j * pitch + lane + 32 * c];
                        key_acc[e][c] += b * qs[j * pitch + lane + 32 * c];
                    }
            }
        }
    }
    for (int e = 0; e < EACH; e++) {
        int key = block + warp * EACH + e;
        if (key >= r.nk) continue;
        for (int c = 0; c < 4; c++)
            if (lane + 32 * c < dim) {
                u64 at = (u64)(r.k0 + key) * width + column + lane + 32 * c;
                if (dk) put(dk + at, s.scale * key_acc[e][c]);
                if (dv) put(dv + at, value_acc[e][c]);
            }
    }
}
