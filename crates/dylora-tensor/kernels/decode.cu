// Decoding: attention over a cache whose rows are listed, and the likeliest classes of a row.

struct Cache {
    const int *q_offsets, *k_offsets, *rows;
    int heads, dim, capacity;
    // Threads that share a key, 8 columns each: a power of two of at most 16.
    int lanes;
    float scale;
};

#define ATTEND_THREADS 128

// Query i of n sees the listed rows ..= i + listed - n of its text. Grid: queries of a text, heads, texts. Groups of lanes take
// every so manieth row; what they found is joined in their order.
extern "C" __global__ void attend_rows(const T* q, const T* k, const T* v, T* out, Cache s, int vec) {
    __shared__ float tops[ATTEND_THREADS], sums[ATTEND_THREADS], parts[ATTEND_THREADS * 8];
    int text = blockIdx.z, i = blockIdx.x, width = s.heads * s.dim, column = blockIdx.y * s.dim;
    int q0 = s.q_offsets[text], nq = s.q_offsets[text + 1] - q0;
    if (i >= nq) return;
    int k0 = s.k_offsets[text], seen = s.k_offsets[text + 1] - k0 - nq + i + 1;
    int groups = ATTEND_THREADS / s.lanes, group = threadIdx.x / s.lanes, c = threadIdx.x % s.lanes * 8;
    float query[8], acc[8] = {}, top = -INF, sum = 0.f;
    load8(q + (u64)(q0 + i) * width + column, c, s.dim, vec, query);
    for (int j0 = 0; j0 < seen; j0 += groups) {
        int j = j0 + group;
        bool inside = j < seen;
        u64 row = (u64)min(max(inside ? s.rows[k0 + j] : 0, 0), s.capacity - 1) * width + column;
        float key[8], value[8], score = 0.f;
        load8(k + row, c, s.dim, vec, key);
        load8(v + row, c, s.dim, vec, value);
#pragma unroll
        for (int e = 0; e < 8; e++) score += query[e] * key[e];
        for (int step = s.lanes / 2; step; step >>= 1) score += __shfl_xor_sync(FULL, score, step);
        if (!inside) continue;
        score *= s.scale;
        float high = fmaxf(top, score), shrink = expf(top - high), p = expf(score - high);
        top = high;
        sum = sum * shrink + p;
#pragma unroll
        for (int e = 0; e < 8; e++) acc[e] = acc[e] * shrink + p * value[e];
    }
    int pitch = s.lanes * 8;
    if (c == 0) tops[group] = top, sums[group] = sum;
#pragma unroll
    for (int e = 0; e < 8; e++) parts[group * pitch + c + e] = acc[e];
    __syncthreads();
    if (threadIdx.x >= s.dim) return;
    float high = -INF, total = 0.f, result = 0.f;
    for (int g = 0; g < groups; g++) high = fmaxf(high, tops[g]);
    for (int g = 0; g < groups; g++) {
        float weight = expf(tops[g] - high);
        total += weight * sums[g];
        result += weight * parts[g * pitch + threadIdx.x];
    }
    put(out + (u64)(q0 + i) * width + column + threadIdx.x, result / total);
}

#define TOP_THREADS 512
#define SLOTS 2048

__device__ __forceinline__ bool is_banned(int class_, const int* banned, int count) {
    for (int i = 0; i < count; i++)
        if (banned[i] == class_) return true;
    return false;
}
__device__ __forceinline__ bool before(float a, int class_a, float b, int class_b) {
    return a > b || (a == b && class_a < class_b);
}

// The k largest of ln softmax(row) with their classes, largest first and equal ones by class, without the banned ones, which
// count for the sum. `banned` holds n + 1 places and then the classes of every row; k and the banned ones of a row are at most
// TOP_THREADS together, and k classes are left. A block a row.
//
// That many of the threads' own maxima are no less than the one in that place, so what is below it is not among the k.
extern "C" __global__ void top_log_softmax(
    const T* logits, const int* banned, int* classes, float* scores, int n, int c, int k
) {
    __shared__ float shared[32], maxima[TOP_THREADS], values[SLOTS];
    __shared__ int found[SLOTS], count;
    __shared__ float bound;
    const T* x = logits + (u64)blockIdx.x * c;
    const int* own = banned + n + 1 + banned[blockIdx.x];
    int hidden = banned[blockIdx.x + 1] - banned[blockIdx.x], t = threadIdx.x, need = k + hidden;
    float most = -INF;
    for (int j = t; j < c; j += TOP_THREADS) most = fmaxf(most, to_f(x[j]));
    maxima[t] = most;
    if (t == 0) count = 0, bound = -INF;
    __syncthreads();
    float top = -INF;
    int place = 0;
    for (int other = 0; other < TOP_THREADS; other++) {
        top = fmaxf(top, maxima[other]);
        place += before(maxima[other], other, most, t);
    }
    if (place == need - 1) bound = most;
    __syncthreads();
    float least = bound, sum = 0.f;
    for (int j = t; j < c; j += TOP_THREADS) {
        float value = to_f(x[j]);
        sum += expf(value - top);
        if (value >= least && !is_banned(j, own, hidden)) {
            int slot = atomicAdd(&count, 1);
            if (slot < SLOTS) values[slot] = value, found[slot] = j;
        }
    }
    sum = warp_sum(sum);
    if ((t & 31) == 0) shared[t >> 5] = sum;
    __syncthreads();
    float total = 0.f;
    for (int w = 0; w < TOP_THREADS / 32; w++) total += shared[w];
    float rest = logf(total);
    u64 to = (u64)blockIdx.x * k;
    if (count <= SLOTS) {
        // Slots are taken in any order; places are not.
        for (int a = t; a < count; a += TOP_THREADS) {
            int better = 0;
            for (int b = 0; b < count; b++) better += before(values[b], found[b], values[a], found[a]);
            if (better < k) classes[to + better] = found[a], scores[to + better] = (values[a] - top) - rest;
        }
        // Fewer than k only where logits are not numbers.
        for (int a = count + t; a < k; a += TOP_THREADS) classes[to + a] = 0, scores[to + a] = -INF;
        return;
    }
    // More equal ones than slots: one after the other.
    float last = INF;
    int last_class = -1;
    for (int r = 0; r < k; r++) {
        float best = -INF;
        int best_class = 0x7fffffff;
        for (int j = t; j < c; j += TOP_THREADS) {
            float value = to_f(x[j]);
            if (before(last, last_class, value, j) && before(value, j, best, best_class) && !is_banned(j, own, hidden))
                best = value, best_class = j;
        }
        __syncthreads();
        maxima[t] = best, found[t] = best_class;
        __syncthreads();
        for (int other = 0; other < TOP_THREADS; other++)
            if (before(maxima[other], found[other], best, best_class)) best = maxima[other], best_class = found[other];
        last = best, last_class = best_class;
        if (t == 0) classes[to + r] = best_class, scores[to + r] = (best - top) - rest;
    }
}
