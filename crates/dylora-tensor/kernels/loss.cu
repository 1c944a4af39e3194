// The losses with their gradients, one block a row; the rows' losses are then added in order.

__device__ __forceinline__ float block_sum(float x, float* shared) {
    x = warp_sum(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    float total = 0.f;
    for (int w = 0; w < blockDim.x / 32; w++) total += shared[w];
    return total;
}
__device__ __forceinline__ float block_max(float x, float* shared) {
    x = warp_max(x);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = x;
    __syncthreads();
    float top = shared[0];
    for (int w = 1; w < blockDim.x / 32; w++) top = fmaxf(top, shared[w]);
    return top;
}

// loss[i] = weight ((1 - smoothing) (lse - x[target]) + smoothing (lse - mean x)); dx = weight (softmax - target's share).
extern "C" __global__ void cross_entropy(
    const T* logits, const int* targets, float* loss, T* gradient, int c, int has_ignore, int ignore, float smoothing,
    float weight, const Live* live
) {
    if (live) weight = live->weight;
    __shared__ float shared[32];
    int row = blockIdx.x, target = targets[row];
    const T* x = logits + (u64)row * c;
    T* dx = gradient ? gradient + (u64)row * c : 0;
    if ((has_ignore && target == ignore) || target < 0 || target >= c) {
        if (dx)
            for (int j = threadIdx.x; j < c; j += blockDim.x) put(dx + j, 0.f);
        if (threadIdx.x == 0) loss[row] = 0.f;
        return;
    }
    float top = -INF, plain = 0.f, sum = 0.f;
    for (int j = threadIdx.x; j < c; j += blockDim.x) {
        float v = to_f(x[j]);
        top = fmaxf(top, v);
        plain += v;
    }
    top = block_max(top, shared);
    for (int j = threadIdx.x; j < c; j += blockDim.x) sum += expf(to_f(x[j]) - top);
    sum = block_sum(sum, shared);
    plain = block_sum(plain, shared);
    float lse = top + logf(sum), share = smoothing / c, at = to_f(x[target]);
    if (dx) {
        for (int j = threadIdx.x; j < c; j += blockDim.x) {
            float g = expf(to_f(x[j]) - lse) - share;
            if (j == target) g -= 1.f - smoothing;
            put(dx + j, weight * g);
        }
    }
    if (threadIdx.x == 0) loss[row] = weight * ((1.f - smoothing) * (lse - at) + smoothing * lse - share * plain);
}

// out[0] = sum of x[0..n]; one block.
extern "C" __global__ void sum_all(const float* x, float* out, int n) {
    __shared__ float shared[32];
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *out = sum;
}

// out[0] = weight sum (p - t)^2, gradient 2 weight (p - t); one block.
extern "C" __global__ void mse(const T* p, const float* t, float* out, T* gradient, int n, float weight, const Live* live) {
    if (live) weight = live->weight;
    __shared__ float shared[32];
    float sum = 0.f;
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float off = to_f(p[i]) - t[i];
        sum += off * off;
        if (gradient) put(gradient + i, 2.f * weight * off);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *out = weight * sum;
}
