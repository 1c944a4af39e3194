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

// y = x Phi(x), or its tanh form.
__device__ __forceinline__ float gelu(float x, int tanh_form) {
    if (tanh_form) return 0.5f * x * (1.f + tanhf(ROOT_2_PI * (x + CUBIC * x * x * x)));
    return 0.5f * x * (1.f + erff(x * ROOT_HALF));
}
__device__ __forceinline__ float gelu_slope(float x, int tanh_form) {
    if (tanh_form) {
        float square = CUBIC * x * x, t = tanhf(ROOT_2_PI * (x + square * x));
        return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * ROOT_2_PI * (3.f * square + 1.f);
    }
    return 0.5f * (1.f + erff(x * ROOT_HALF)) + x * DENSITY * expf(-0.5f * x * x);
}

extern "C" __global__ void gelu_forward(const T* x, T* y, u64 n, int tanh_form, int vec) {
    FLAT({
        float v[8];
        take(x + j, whole, left, v);
        for (int i = 0; i < 8; i++) v[i] = gelu(v[i], tanh_form);
        give(y + j, whole, left, v);
    })
}
extern "C" __global__ void gelu_backward(const T* x, const T* dy, T* dx, u64 n, int tanh_form, int vec) {
    FLAT({
        float v[8], g[8];
        take(x + j, whole, left, v);
        take(dy + j, whole, left, g);
        for (int i = 0; i < 8; i++) g[i] *= gelu_slope(v[i], tanh_form);
        give(dx + j, whole, left, g);
    })
}
// The same of x + bias for rows of x; a warp takes a row.
extern "C" __global__ void bias_gelu_forward(const T* x, const float* bias, T* y, int n, int d, int tanh_form, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j = lane * 8; j < d; j += 256) {
        float v[8], b[8];
        load8(x + (u64)row * d, j, d, vec, v);
        load8(bias, j, d, vec, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = gelu(v[i] + b[i], tanh_form);
        store8(y + (u64)row * d, j, d, vec, v);
    }
}
extern "C" __global__ void bias_gelu_backward(
    const T* x, const float* bias, const T* dy, T* dx, int n, int d, int tanh_form, int vec
) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j = lane * 8; j < d; j += 256) {
        float v[8], b[8], g[8];
        load8(x + (u64)row * d, j, d, vec, v);
        load8(dy + (u64)row * d, j, d, vec, g);
        load8(bias, j, d, vec, b);
#pragma unroll
        for (int i = 0; i < 8; i++) g[i] *= gelu_slope(v[i] + b[i], tanh_form);
        store8(dx + (u64)row * d, j, d, vec, g);
    }
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
