// Cross-entropy over a vocabulary: rows are long, so a block reads its row once, keeps it in shared memory where it fits, and
// writes the gradient over the logits.

// e^(x - at) for x <= at; `less` is what `offset` makes of `at`.
#ifdef NARROW
#define LOG2_E 1.4426950408889634f
__device__ __forceinline__ float offset(float at) { return -LOG2_E * at; }
__device__ __forceinline__ float power(float x, float less) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaf(LOG2_E, x, less)));
    return y;
}
#else
__device__ __forceinline__ float offset(float at) { return at; }
__device__ __forceinline__ float power(float x, float less) { return expf(x - less); }
#endif

// The maximum of a set, the sum of exp(x - maximum) over it, and the sum of x.
struct Seen {
    float top, sum, plain;
};
// A set of nothing but -inf has the sum 0.
__device__ __forceinline__ float offset_of(float top) { return offset(top == -INF ? 0.f : top); }
__device__ __forceinline__ Seen joined(Seen a, Seen b) {
    float top = fmaxf(a.top, b.top), less = offset_of(top);
    Seen all = {top, a.sum * power(a.top, less) + b.sum * power(b.top, less), a.plain + b.plain};
    return all;
}

// loss[i] = weight ((1 - smoothing) (lse - x[target]) + smoothing (lse - mean x)) over the first c of `pitch` columns; where
// `wanted`, x becomes weight (softmax - target's share), and 0 in the columns beyond. `vec`: the pitch is a multiple of 8.
extern "C" __global__ void __launch_bounds__(512, 2) vocabulary_loss(
    T* logits, const int* targets, float* loss, int c, int pitch, int wanted, int kept, int has_ignore, int ignore,
    float smoothing, float weight, int vec, const Live* live
) {
    if (live) weight = live->weight;
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ Seen parts[16];
    int row = blockIdx.x, target = targets[row], lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    T *x = logits + (u64)row * pitch, *copy = (T*)memory;
    if ((has_ignore && target == ignore) || target < 0 || target >= c) {
        float none[8] = {};
        if (wanted)
            for (int j = threadIdx.x * 8; j < pitch; j += 4096) store8(x, j, pitch, vec, none);
        if (threadIdx.x == 0) loss[row] = 0.f;
        return;
    }
    float at = to_f(x[target]);
    Seen seen = {-INF, 0.f, 0.f};
#pragma unroll 4
    for (int j = threadIdx.x * 8; j < c; j += 4096) {
        float v[8];
        load8(x, j, pitch, vec, v);
        if (kept) store_vector(copy + j, v);
        if (j + 8 > c) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (j + i >= c) v[i] = -INF;
        }
        float top = seen.top, sum = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++) top = fmaxf(top, v[i]);
        float less = offset_of(top);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += power(v[i], less);
        seen.sum = seen.sum * power(seen.top, less) + sum;
        seen.top = top;
        if (smoothing != 0.f) {
#pragma unroll
            for (int i = 0; i < 8; i++) seen.plain += j + i < c ? v[i] : 0.f;
        }
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        Seen other = {
            __shfl_xor_sync(FULL, seen.top, step), __shfl_xor_sync(FULL, seen.sum, step),
            __shfl_xor_sync(FULL, seen.plain, step)};
        seen = joined(seen, other);
    }
    if (lane == 0) parts[warp] = seen;
    __syncthreads();
    seen = parts[0];
    for (int w = 1; w < 16; w++) seen = joined(seen, parts[w]);
    float lse = seen.top + logf(seen.sum), share = smoothing / c;
    if (threadIdx.x == 0) {
        float smooth = smoothing != 0.f ? smoothing * lse - share * seen.plain : 0.f;
        loss[row] = weight * ((1.f - smoothing) * (lse - at) + smooth);
    }
    if (!wanted) return;
    float less = offset(lse), spread = weight * share;
#pragma unroll 2
    for (int j = threadIdx.x * 8; j < pitch; j += 4096) {
        float v[8];
        if (kept)
            load_vector(copy + j, v);
        else
            load8(x, j, pitch, vec, v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = weight * power(v[i], less) - spread;
        if ((u32)(target - j) < 8) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (j + i == target) v[i] -= weight * (1.f - smoothing);
        }
        if (j + 8 > c) {
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (j + i >= c) v[i] = 0.f;
        }
        store8(x, j, pitch, vec, v);
    }
}
