// One element by itself: activations, dropout, sums, conversions.

#define FLAT(...)                                                                    \
    u64 j = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;                        \
    if (j >= n) return;                                                              \
    int left = (int)(n - j < 8 ? n - j : 8), whole = vec && left == 8;               \
    __VA_ARGS__

template <class S>
__device__ __forceinline__ void take(const S* x, int whole, int left, float v[8]) {
    if (whole) {
        load_vector(x, v);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = i < left ? to_f(x[i]) : 0.f;
    }
}
template <class S>
__device__ __forceinline__ void give(S* y, int whole, int left, const float v[8]) {
    if (whole) {
        store_vector(y, v);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < left) put(y + i, v[i]);
    }
}

#define ROOT_HALF 0.70710678118654752f
#define DENSITY 0.39894228040143268f
#define ROOT_2_PI 0.79788456080286536f
#define CUBIC 0.044715f

#define LOG2_E 1.44269504088896341f

// y = x Phi(x), or its tanh form, and its slope.
#ifdef NARROW
// Phi(-a) = exp(-a^2 / 2) t p(t) with t = 1 / (1 + 0.376 a) for a >= 0. The polynomial was fitted for the least relative error
// over 0 .. 13.5, where bf16 ends: 2.8e-5. With what the special functions lose it stays below 2^-14, a sixty-fourth of
// what rounding to bf16 loses. `bell` is exp(-a^2 / 2).
__device__ __forceinline__ float lower_tail(float a, float bell) {
    float t = inverse_fast(1.f + 0.376f * a);
    float p = 0.149461111f + t * (0.158065661f + t * (0.084236041f + t * (0.199353689f - t * 0.0911300991f)));
    return bell * t * p;
}
// Phi of the tanh form: (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)).
__device__ __forceinline__ float logistic(float x) {
    return inverse_fast(1.f + exp2_fast(-2.f * LOG2_E * ROOT_2_PI * x * (1.f + CUBIC * x * x)));
}
template <bool TANH>
__device__ __forceinline__ float gelu(float x) {
    if (TANH) return x * logistic(x);
    float a = fabsf(x);
    return fmaxf(x, 0.f) - a * lower_tail(a, exp2_fast(-0.5f * LOG2_E * x * x));
}
template <bool TANH>
__device__ __forceinline__ float gelu_slope(float x) {
    if (TANH) {
        float s = logistic(x);
        return s + x * s * (1.f - s) * 2.f * ROOT_2_PI * (1.f + 3.f * CUBIC * x * x);
    }
    float bell = exp2_fast(-0.5f * LOG2_E * x * x), tail = lower_tail(fabsf(x), bell);
    return (x > 0.f ? 1.f - tail : tail) + x * DENSITY * bell;
}
#else
template <bool TANH>
__device__ __forceinline__ float gelu(float x) {
    if (TANH) return 0.5f * x * (1.f + tanhf(ROOT_2_PI * (x + CUBIC * x * x * x)));
    return 0.5f * x * (1.f + erff(x * ROOT_HALF));
}
template <bool TANH>
__device__ __forceinline__ float gelu_slope(float x) {
    if (TANH) {
        float square = CUBIC * x * x, t = tanhf(ROOT_2_PI * (x + square * x));
        return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * ROOT_2_PI * (3.f * square + 1.f);
    }
    return 0.5f * (1.f + erff(x * ROOT_HALF)) + x * DENSITY * expf(-0.5f * x * x);
}
#endif

template <bool TANH>
__device__ __forceinline__ void gelu8(float v[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = gelu<TANH>(v[i]);
}
template <bool TANH>
__device__ __forceinline__ void gelu_slope8(const float v[8], float g[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] *= gelu_slope<TANH>(v[i]);
}

extern "C" __global__ void gelu_forward(const T* x, T* y, u64 n, int tanh_form, int vec) {
    FLAT({
        float v[8];
        take(x + j, whole, left, v);
        if (tanh_form)
            gelu8<true>(v);
        else
            gelu8<false>(v);
        give(y + j, whole, left, v);
    })
}
extern "C" __global__ void gelu_backward(const T* x, const T* dy, T* dx, u64 n, int tanh_form, int vec) {
    FLAT({
        float v[8], g[8];
        take(x + j, whole, left, v);
        take(dy + j, whole, left, g);
        if (tanh_form)
            gelu_slope8<true>(v, g);
        else
            gelu_slope8<false>(v, g);
        give(dx + j, whole, left, g);
    })
}

// The same of x + bias for rows of x. A warp takes 256 columns of some rows, all of them asked for before the first is used:
// four, or two of two tensors. A block has the same columns of eight times as many rows, whose bias it reads once.
template <bool VEC, bool TANH>
__device__ __forceinline__ void bias_gelu(const T* x, const float* bias, T* y, int n, int d) {
    constexpr int ROWS = 4;
    int strips = (d + 255) / 256, lane = threadIdx.x & 31, j = blockIdx.x % strips * 256 + lane * 8;
    int row0 = (blockIdx.x / strips * 8 + (threadIdx.x >> 5)) * ROWS;
    if (row0 >= n) return;
    Eight<T> rows[ROWS];
    float b[8];
#pragma unroll
    for (int k = 0; k < ROWS; k++) fetch8(x + (u64)min(row0 + k, n - 1) * d, j, d, VEC, rows[k]);
    load8(bias, j, d, VEC, b);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        if (row0 + k >= n) return;
        float v[8];
        unpack8(rows[k], v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += b[i];
        gelu8<TANH>(v);
        store8(y + (u64)(row0 + k) * d, j, d, VEC, v);
    }
}
template <bool VEC, bool TANH>
__device__ __forceinline__ void bias_gelu_gradient(const T* x, const float* bias, const T* dy, T* dx, int n, int d) {
    constexpr int ROWS = 2;
    int strips = (d + 255) / 256, lane = threadIdx.x & 31, j = blockIdx.x % strips * 256 + lane * 8;
    int row0 = (blockIdx.x / strips * 8 + (threadIdx.x >> 5)) * ROWS;
    if (row0 >= n) return;
    Eight<T> rows[ROWS], gradients[ROWS];
    float b[8];
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        fetch8(x + (u64)min(row0 + k, n - 1) * d, j, d, VEC, rows[k]);
        fetch8(dy + (u64)min(row0 + k, n - 1) * d, j, d, VEC, gradients[k]);
    }
    load8(bias, j, d, VEC, b);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        if (row0 + k >= n) return;
        float v[8], g[8];
        unpack8(rows[k], v);
        unpack8(gradients[k], g);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += b[i];
        gelu_slope8<TANH>(v, g);
        store8(dx + (u64)(row0 + k) * d, j, d, VEC, g);
    }
}
#define CHOOSE(F, ...)                                                    \
    if (vec)                                                              \
        tanh_form ? F<true, true>(__VA_ARGS__) : F<true, false>(__VA_ARGS__);   \
    else                                                                  \
        tanh_form ? F<false, true>(__VA_ARGS__) : F<false, false>(__VA_ARGS__)

extern "C" __global__ void __launch_bounds__(256) bias_gelu_forward(
    const T* x, const float* bias, T* y, int n, int d, int tanh_form, int vec
) {
    CHOOSE(bias_gelu, x, bias, y, n, d);
}
extern "C" __global__ void __launch_bounds__(256) bias_gelu_backward(
    const T* x, const float* bias, const T* dy, T* dx, int n, int d, int tanh_form, int vec
) {
    CHOOSE(bias_gelu_gradient, x, bias, dy, dx, n, d);
}
extern "C" __global__ void tanh_forward(const T* x, T* y, u64 n, int vec) {
    FLAT({
        float v[8];
        take(x + j, whole, left, v);
        for (int i = 0; i < 8; i++) v[i] = tanhf(v[i]);
        give(y + j, whole, left, v);
    })
}
extern "C" __global__ void tanh_backward(const T* y, const T* dy, T* dx, u64 n, int vec) {
    FLAT({
        float v[8], g[8];
        take(y + j, whole, left, v);
        take(dy + j, whole, left, g);
        for (int i = 0; i < 8; i++) g[i] *= 1.f - v[i] * v[i];
        give(dx + j, whole, left, g);
    })
}
// z = x + y; z may be y.
extern "C" __global__ void add(const T* x, const T* y, T* z, u64 n, int vec) {
    FLAT({
        float v[8], w[8];
        take(x + j, whole, left, v);
        take(y + j, whole, left, w);
        for (int i = 0; i < 8; i++) v[i] += w[i];
        give(z + j, whole, left, v);
    })
}
// target += source, the target in f32.
extern "C" __global__ void add_to_f32(const T* x, float* z, u64 n, int vec) {
    FLAT({
        float v[8], w[8];
        take(x + j, whole, left, v);
        take(z + j, whole, left, w);
        for (int i = 0; i < 8; i++) v[i] += w[i];
        give(z + j, whole, left, v);
    })
}
// y = factor[0] x.
extern "C" __global__ void scale_by(const T* x, const float* factor, T* y, u64 n, int vec) {
    FLAT({
        float v[8], f = *factor;
        take(x + j, whole, left, v);
        for (int i = 0; i < 8; i++) v[i] *= f;
        give(y + j, whole, left, v);
    })
}
extern "C" __global__ void cast_from_f32(const float* x, T* y, u64 n, int vec) {
    FLAT({
        float v[8];
        take(x + j, whole, left, v);
        give(y + j, whole, left, v);
    })
}
extern "C" __global__ void cast_to_f32(const T* x, float* y, u64 n, int vec) {
    FLAT({
        float v[8];
        take(x + j, whole, left, v);
        give(y + j, whole, left, v);
    })
}

// y = x times its dropout factor; one warp takes 256 elements of a row. Rows are blockIdx.x * 8 + warp.
extern "C" __global__ void dropout(const T* x, T* y, Drop drop, int n, int d, int vec) {
    settle(drop);
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j0 = 0; j0 < d; j0 += 256) {
        int j = j0 + lane * 8;
        float v[8];
        load8(x + (u64)row * d, j, d, vec, v);
        u32 keep = keep8(drop, row, d, j0, lane);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= keep >> i & 1 ? drop.scale : 0.f;
        store8(y + (u64)row * d, j, d, vec, v);
    }
}

// y[n, d] += bias[d].
extern "C" __global__ void bias_add(T* y, const float* bias, int n, int d, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j = lane * 8; j < d; j += 256) {
        float v[8], b[8];
        load8(y + (u64)row * d, j, d, vec, v);
        load8(bias, j, d, vec, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += b[i];
        store8(y + (u64)row * d, j, d, vec, v);
    }
}

// Column sums of dy, and of dy (s - mean) rstd where s is given: partial[chunk][0 or 1][d]. Block (32 columns of 8,
// 8 warps that take the chunk's rows in turn).
extern "C" __global__ void column_partial(
    const T* dy, const T* s, const float* mean, const float* rstd, float* partial, int n, int d, int rows, int vec
) {
    __shared__ float sums[2][256];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, j = blockIdx.x * 256 + lane * 8;
    int first = blockIdx.y * rows, last = min(n, first + rows);
    float plain[8] = {}, along[8] = {};
    for (int row = first + warp; row < last; row += 8) {
        float g[8], x[8];
        load8(dy + (u64)row * d, j, d, vec, g);
#pragma unroll
        for (int i = 0; i < 8; i++) plain[i] += g[i];
        if (s) {
            load8(s + (u64)row * d, j, d, vec, x);
            float m = mean[row], r = rstd[row];
#pragma unroll
            for (int i = 0; i < 8; i++) along[i] += g[i] * (x[i] - m) * r;
        }
    }
    for (int w = 0; w < 8; w++) {
        if (warp == w) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float* at = &sums[0][lane * 8 + i];
                at[0] = (w ? at[0] : 0.f) + plain[i];
                at[256] = (w ? at[256] : 0.f) + along[i];
            }
        }
        __syncthreads();
    }
    for (int which = 0; which < (s ? 2 : 1); which++) {
        int column = blockIdx.x * 256 + threadIdx.x;
        if (column < d) partial[((u64)blockIdx.y * 2 + which) * d + column] = sums[which][threadIdx.x];
    }
}
// plain[j] += sum over chunks of partial[chunk][0][j]; along[j] likewise from [1]. Either may be missing.
extern "C" __global__ void column_finish(const float* partial, float* plain, float* along, int chunks, int d) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= d) return;
    for (int which = 0; which < 2; which++) {
        float* target = which ? along : plain;
        if (!target) continue;
        float sum = 0.f;
        for (int chunk = 0; chunk < chunks; chunk++) sum += partial[((u64)chunk * 2 + which) * d + j];
        target[j] += sum;
    }
}
