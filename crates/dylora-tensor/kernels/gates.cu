// Hard-concrete gates on rank-1 components, and the penalty on their expected number. Everything is f32.

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// ln u - ln(1 - u) of a uniform u between 1e-6 and 1 - 1e-6: the bits of the CPU's.
__device__ __forceinline__ float logistic_noise(const Drop& drop, u32 i) {
    uint4 p = philox(i, drop.site, drop.step, drop.purpose, drop.key0, drop.key1);
    float u = ((float)(p.x >> 9) + 0.5f) / 8388608.f;
    const float edge = 1e-6f, inside = 1.f - 2e-6f;
    return logf((edge + inside * u) / (edge + inside * (1.f - u)));
}

// z = clamp(s (high - low) + low) with s = sigmoid((noise + log alpha) / beta).
extern "C" __global__ void hard_concrete(const float* a, float* z, Drop drop, int n, float beta, float low, float high) {
    settle(drop);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float s = sigmoid((logistic_noise(drop, i) + a[i]) / beta);
    z[i] = fminf(fmaxf(s * (high - low) + low, 0.f), 1.f);
}
// da += dz (high - low) s (1 - s) / beta where the gate was not cut.
extern "C" __global__ void hard_concrete_gradient(
    const float* a, const float* dz, float* da, Drop drop, int n, float beta, float low, float high
) {
    settle(drop);
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float s = sigmoid((logistic_noise(drop, i) + a[i]) / beta), stretched = s * (high - low) + low;
    if (stretched >= 0.f && stretched <= 1.f) da[i] += dz[i] * (high - low) * s * (1.f - s) / beta;
}

// y = x with column j times z[j]; a warp takes a row.
extern "C" __global__ void gate(const float* x, const float* z, float* y, int n, int d, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j = lane * 8; j < d; j += 256) {
        float v[8], f[8];
        load8(x + (u64)row * d, j, d, vec, v);
        load8(z, j, d, vec, f);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= f[i];
        store8(y + (u64)row * d, j, d, vec, v);
    }
}
// y = a b, element by element.
extern "C" __global__ void multiply(const float* a, const float* b, float* y, u64 n) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a[i] * b[i];
}

// out[0] = lambda_1 (s - t) + lambda_2 (s - t)^2, out[1] = s - t with s = 1 - sum of share sigmoid(a + shift); one block.
extern "C" __global__ void sparsity_penalty(
    const float* a, const float* shares, const float* lambda, float* out, int n, float shift, float target
) {
    __shared__ float shared[32];
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += shares[i] * sigmoid(a[i] + shift);
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    float total = 0.f;
    for (int w = 0; w < blockDim.x / 32; w++) total += shared[w];
    float excess = 1.f - total - target;
    out[0] = excess * (lambda[0] + lambda[1] * excess);
    out[1] = excess;
}
// da -= dy (lambda_1 + 2 lambda_2 (s - t)) share sigmoid'; dlambda += dy (s - t, (s - t)^2).
extern "C" __global__ void sparsity_penalty_gradient(
    const float* a, const float* shares, const float* lambda, const float* excess, const float* dy, float* da,
    float* dlambda, int n, float shift
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float e = *excess, g = *dy;
    if (i == 0) dlambda[0] += g * e, dlambda[1] += g * e * e;
    if (i >= n) return;
    float open = sigmoid(a[i] + shift);
    da[i] -= g * (lambda[0] + 2.f * lambda[1] * e) * shares[i] * open * (1.f - open);
}
