// Layer normalisation of s = dropout(x + bias) + residual; one warp a row, which it keeps in registers.

// Widths up to 1024 ask for everything a row needs before any of it is used. WHOLE: the width is 256 PIECES and rows are
// aligned.

template <bool WHOLE, class S>
__device__ __forceinline__ void row_load(const S* row, int j, int d, int vec, float v[8]) {
    if (WHOLE)
        load_vector(row + j, v);
    else
        load8(row, j, d, vec, v);
}
template <bool WHOLE>
__device__ __forceinline__ void row_store(T* row, int j, int d, int vec, const float v[8]) {
    if (WHOLE)
        store_vector(row + j, v);
    else
        store8(row, j, d, vec, v);
}
// Stores, and leaves in v what a reader will find.
template <bool WHOLE>
__device__ __forceinline__ void row_store_rounded(T* row, int j, int d, int vec, float v[8]) {
    if (WHOLE || (vec && j < d)) {
        store_rounded(row + j, v);
    } else {
        store8(row, j, d, vec, v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = stored(v[i], row);
    }
}

// AHEAD: vectors are asked for as early as the rows, which takes registers; for few rows, where latency counts.
template <int PIECES, bool WHOLE, bool AHEAD>
__device__ __forceinline__ void forward(
    const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps, const Drop& drop, T* sum, T* y,
    float* mean_out, float* rstd_out, int n, int width, int vec
) {
    constexpr int BATCH = PIECES <= 4 ? PIECES : 1;
    int d = WHOLE ? PIECES * 256 : width, lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    u64 at = (u64)row * d;
    float v[PIECES][8], total = 0.f, scale = drop.on ? drop.scale : 1.f;
#pragma unroll
    for (int p0 = 0; p0 < PIECES; p0 += BATCH) {
        if (p0 * 256 >= d) break;
        Eight<T> r[BATCH] = {};
        float shift[BATCH][8] = {};
#pragma unroll
        for (int p = 0; p < BATCH; p++) row_load<WHOLE>(x + at, (p0 + p) * 256 + lane * 8, d, vec, v[p0 + p]);
        if (residual) {
#pragma unroll
            for (int p = 0; p < BATCH; p++) fetch8(residual + at, (p0 + p) * 256 + lane * 8, d, WHOLE || vec, r[p]);
        }
        if (AHEAD && bias) {
#pragma unroll
            for (int p = 0; p < BATCH; p++) row_load<WHOLE>(bias, (p0 + p) * 256 + lane * 8, d, vec, shift[p]);
        }
        u32 keep = drop.on ? keep_pieces<BATCH>(drop, row, d, p0 * 256, lane) : FULL;
#pragma unroll
        for (int p = 0; p < BATCH; p++) {
            float add[8];
            unpack8(r[p], add);
            if (!AHEAD && bias) row_load<WHOLE>(bias, (p0 + p) * 256 + lane * 8, d, vec, shift[p]);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[p0 + p][i] = (v[p0 + p][i] + shift[p][i]) * (keep >> (8 * p + i) & 1 ? scale : 0.f) + add[i];
        }
    }
    constexpr int KEPT = AHEAD ? BATCH : 1;
    float g[KEPT][8], b[KEPT][8];
#pragma unroll
    for (int p = 0; p < KEPT; p++) {
        if (!AHEAD) break;
        row_load<WHOLE>(gamma, p * 256 + lane * 8, d, vec, g[p]);
        row_load<WHOLE>(beta, p * 256 + lane * 8, d, vec, b[p]);
    }
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        if (p * 256 >= d) break;
        if (sum) row_store_rounded<WHOLE>(sum + at, p * 256 + lane * 8, d, vec, v[p]);
#pragma unroll
        for (int i = 0; i < 8; i++) total += v[p][i];
    }
    float mean = warp_sum(total) / d, square = 0.f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        if (p * 256 >= d) break;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float off = WHOLE || p * 256 + lane * 8 + i < d ? v[p][i] - mean : 0.f;
            square += off * off;
        }
    }
    float rstd = 1.f / sqrtf(warp_sum(square) / d + eps);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
        if (!AHEAD || p >= KEPT) {
            row_load<WHOLE>(gamma, j, d, vec, g[0]);
            row_load<WHOLE>(beta, j, d, vec, b[0]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) v[p][i] = (v[p][i] - mean) * rstd * g[p % KEPT][i] + b[p % KEPT][i];
        row_store<WHOLE>(y + at, j, d, vec, v[p]);
    }
    if (lane == 0) mean_out[row] = mean, rstd_out[row] = rstd;
}

// ds = rstd (g - mean(g) - xhat mean(g xhat)), g = dy gamma; dx = ds times the dropout factors.
template <int PIECES, bool WHOLE>
__device__ __forceinline__ void backward(
    const T* dy, const T* sum, const float* mean_in, const float* rstd_in, const float* gamma, const Drop& drop, T* ds,
    T* dx, int n, int width, int vec
) {
    constexpr int BATCH = PIECES <= 4 ? PIECES : 1;
    int d = WHOLE ? PIECES * 256 : width, lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    u64 at = (u64)row * d;
    float mean = mean_in[row], rstd = rstd_in[row], g[PIECES][8], x[PIECES][8], total = 0.f, along = 0.f;
    u32 keep = FULL;
    bool dropped = dx && drop.on;
#pragma unroll
    for (int p0 = 0; p0 < PIECES; p0 += BATCH) {
        if (p0 * 256 >= d) break;
        float w[BATCH][8];
#pragma unroll
        for (int p = 0; p < BATCH; p++) {
            row_load<WHOLE>(dy + at, (p0 + p) * 256 + lane * 8, d, vec, g[p0 + p]);
            row_load<WHOLE>(sum + at, (p0 + p) * 256 + lane * 8, d, vec, x[p0 + p]);
            row_load<WHOLE>(gamma, (p0 + p) * 256 + lane * 8, d, vec, w[p]);
        }
        if (BATCH == PIECES && dropped) keep = keep_pieces<BATCH>(drop, row, d, 0, lane);
#pragma unroll
        for (int p = 0; p < BATCH; p++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                g[p0 + p][i] *= w[p][i];
                x[p0 + p][i] = (x[p0 + p][i] - mean) * rstd;
                total += g[p0 + p][i];
                along += g[p0 + p][i] * x[p0 + p][i];
            }
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        total += __shfl_xor_sync(FULL, total, step);
        along += __shfl_xor_sync(FULL, along, step);
    }
    total *= rstd / d, along *= rstd / d;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
#pragma unroll
        for (int i = 0; i < 8; i++) g[p][i] = rstd * g[p][i] - total - x[p][i] * along;
        if (ds) row_store<WHOLE>(ds + at, j, d, vec, g[p]);
        if (!dx) continue;
        if (dropped) {
            u32 flags = BATCH == PIECES ? keep >> (8 * p) : keep8(drop, row, d, p * 256, lane);
#pragma unroll
            for (int i = 0; i < 8; i++) g[p][i] *= flags >> i & 1 ? drop.scale : 0.f;
        }
        row_store<WHOLE>(dx + at, j, d, vec, g[p]);
    }
}

#define FORWARD(NAME, PIECES, WHOLE, AHEAD, BLOCKS)                                                                  \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) norm_forward_##NAME(                                   \
        const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps,          \
        Drop drop, T* sum, T* y, float* mean, float* rstd, int n, int d, int vec                                     \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        forward<PIECES, WHOLE, AHEAD>(x, bias, residual, gamma, beta, eps, drop, sum, y, mean, rstd, n, d, vec);     \
    }
#define BACKWARD(NAME, PIECES, WHOLE)                                                                                \
    extern "C" __global__ void __launch_bounds__(256) norm_backward_##NAME(                                          \
        const T* dy, const T* sum, const float* mean, const float* rstd, const float* gamma, Drop drop, T* ds,       \
        T* dx, int n, int d, int vec                                                                                 \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        backward<PIECES, WHOLE>(dy, sum, mean, rstd, gamma, drop, ds, dx, n, d, vec);                                \
    }
#define INSTANCE(PIECES)                                                                                             \
    FORWARD(PIECES, PIECES, false, false, 1)                                                                         \
    BACKWARD(PIECES, PIECES, false)
INSTANCE(1)
INSTANCE(2)
INSTANCE(3)
INSTANCE(4)
INSTANCE(16)
FORWARD(768, 3, true, true, 2)
FORWARD(768_many, 3, true, false, sizeof(T) == 2 ? 4 : 2)
BACKWARD(768, 3, true)
FORWARD(1024, 4, true, true, 2)
FORWARD(1024_many, 4, true, false, sizeof(T) == 2 ? 3 : 2)
BACKWARD(1024, 4, true)
