// Layer normalisation of s = dropout(x + bias) + residual; one warp a row, which it keeps in registers.

template <int PIECES>
__device__ __forceinline__ void forward(
    const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps, const Drop& drop, T* sum, T* y,
    float* mean_out, float* rstd_out, int n, int d, int vec
) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    u64 at = (u64)row * d;
    float v[PIECES][8], total = 0.f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
        load8(x + at, j, d, vec, v[p]);
        if (bias) {
            float b[8];
            load8(bias, j, d, vec, b);
#pragma unroll
            for (int i = 0; i < 8; i++) v[p][i] += b[i];
        }
        if (drop.on) {
            u32 keep = keep8(drop, row, d, p * 256, lane);
#pragma unroll
            for (int i = 0; i < 8; i++) v[p][i] *= keep >> i & 1 ? drop.scale : 0.f;
        }
        if (residual) {
            float r[8];
            load8(residual + at, j, d, vec, r);
#pragma unroll
            for (int i = 0; i < 8; i++) v[p][i] += r[i];
        }
        if (sum) {
            store8(sum + at, j, d, vec, v[p]);
#pragma unroll
            for (int i = 0; i < 8; i++) v[p][i] = stored(v[p][i], sum);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) total += v[p][i];
    }
    float mean = warp_sum(total) / d, square = 0.f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        if (p * 256 >= d) break;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float off = p * 256 + lane * 8 + i < d ? v[p][i] - mean : 0.f;
            square += off * off;
        }
    }
    float rstd = 1.f / sqrtf(warp_sum(square) / d + eps);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
        float g[8], b[8];
        load8(gamma, j, d, vec, g);
        load8(beta, j, d, vec, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[p][i] = (v[p][i] - mean) * rstd * g[i] + b[i];
        store8(y + at, j, d, vec, v[p]);
    }
    if (lane == 0) mean_out[row] = mean, rstd_out[row] = rstd;
}

// ds = rstd (g - mean(g) - xhat mean(g xhat)), g = dy gamma; dx = ds times the dropout factors.
template <int PIECES>
__device__ __forceinline__ void backward(
    const T* dy, const T* sum, const float* mean_in, const float* rstd_in, const float* gamma, const Drop& drop, T* ds,
    T* dx, int n, int d, int vec
) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    u64 at = (u64)row * d;
    float mean = mean_in[row], rstd = rstd_in[row], g[PIECES][8], x[PIECES][8], total = 0.f, along = 0.f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
        float w[8];
        load8(dy + at, j, d, vec, g[p]);
        load8(sum + at, j, d, vec, x[p]);
        load8(gamma, j, d, vec, w);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            g[p][i] *= w[i];
            x[p][i] = (x[p][i] - mean) * rstd;
            total += g[p][i];
            along += g[p][i] * x[p][i];
        }
    }
    total = warp_sum(total) / d;
    along = warp_sum(along) / d;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
#pragma unroll
        for (int i = 0; i < 8; i++) g[p][i] = rstd * (g[p][i] - total - x[p][i] * along);
        if (ds) store8(ds + at, j, d, vec, g[p]);
        if (dx) {
            if (drop.on) {
                u32 keep = keep8(drop, row, d, p * 256, lane);
#pragma unroll
                for (int i = 0; i < 8; i++) g[p][i] *= keep >> i & 1 ? drop.scale : 0.f;
            }
            store8(dx + at, j, d, vec, g[p]);
        }
    }
}

#define INSTANCE(PIECES)                                                                                             \
    extern "C" __global__ void norm_forward_##PIECES(                                                                \
        const T* x, const float* bias, const T* residual, const float* gamma, const float* beta, float eps,          \
        Drop drop, T* sum, T* y, float* mean, float* rstd, int n, int d, int vec                                     \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        forward<PIECES>(x, bias, residual, gamma, beta, eps, drop, sum, y, mean, rstd, n, d, vec);                         \
    }                                                                                                                \
    extern "C" __global__ void norm_backward_##PIECES(                                                               \
        const T* dy, const T* sum, const float* mean, const float* rstd, const float* gamma, Drop drop, T* ds,       \
        T* dx, int n, int d, int vec                                                                                 \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        backward<PIECES>(dy, sum, mean, rstd, gamma, drop, ds, dx, n, d, vec);                                       \
    }
INSTANCE(1)
INSTANCE(2)
INSTANCE(3)
INSTANCE(4)
INSTANCE(16)
