// Clipping and AdamW over many tensors at once; f32. Compiled without fused multiply-add: where two operations are fused
// is written out, so that results equal the CPU's.

#define MANY 96

struct Spans {
    float* at[MANY];
    u64 len[MANY];
};

extern "C" __global__ void zero_many(Spans spans) {
    float* at = spans.at[blockIdx.y];
    u64 len = spans.len[blockIdx.y];
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (u64)gridDim.x * blockDim.x) at[i] = 0.f;
}

// partial[(first + tensor) gridDim.x + block] = sum of squares, in f64.
extern "C" __global__ void square_partial(Spans spans, double* partial, int first) {
    __shared__ double shared[256];
    const float* at = spans.at[blockIdx.y];
    u64 len = spans.len[blockIdx.y];
    double sum = 0.0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < len; i += (u64)gridDim.x * blockDim.x)
        sum += (double)at[i] * (double)at[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[(u64)(first + blockIdx.y) * gridDim.x + blockIdx.x] = shared[0];
}

// out = [min(1, max_norm / (norm + 1e-6)), norm]; max_norm below 0 is none. One block.
extern "C" __global__ void clip_finish(const double* partial, int n, double max_norm, float* out) {
    __shared__ double shared[256];
    double sum = 0.0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
    shared[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half; half >>= 1) {
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        double norm = sqrt(shared[0]), factor = 1.0;
        // A norm that is not a number stays one in the factor, as on the CPU.
        if (max_norm >= 0.0) factor = max_norm / (norm + 1e-6);
        if (factor > 1.0) factor = 1.0;
        out[0] = (float)factor;
        out[1] = (float)norm;
    }
}

// One parameter: its slab is rows or columns first .. last of [rows, cols]; factors are those of its first index.
struct Update {
    float *value, *grad, *m, *v;
    u32 rows, cols, axis, first, last, factors, per_index, pad;
    float decay_unused, beta1, rest1, beta2, rest2, eps;
    u32 near, huggingface;
};
#define UPDATES 32
struct Updates {
    Update at[UPDATES];
};

// factors[i] = {decay, step, root}.
extern "C" __global__ void adamw(Updates updates, const float* factors, const float* clip) {
    const Update& u = updates.at[blockIdx.y];
    u32 width = u.axis ? u.last - u.first : u.cols, height = u.axis ? u.rows : u.last - u.first;
    u64 len = (u64)width * height;
    float factor = clip ? clip[0] : 1.f;
    // The host looks at the norm after this launch; what is not a number must not reach the weights.
    if (clip && !(fabsf(clip[1]) < INF)) return;
    for (u64 e = (u64)blockIdx.x * blockDim.x + threadIdx.x; e < len; e += (u64)gridDim.x * blockDim.x) {
        u32 row = (u32)(e / width), column = (u32)(e % width);
        u32 index = u.axis ? column : row;
        u64 i = u.axis ? (u64)row * u.cols + u.first + column : (u64)(u.first + row) * u.cols + column;
        const float* f = factors + 3 * (u64)(u.factors + (u.per_index ? index : 0));
        float decay = f[0], step = f[1], root = f[2];
        float g = u.grad[i] * factor, p = u.value[i], m = u.m[i], v = u.v[i];
        if (u.huggingface) {
            m = fmaf(u.rest1, g, m * u.beta1);
            v = v * u.beta2 + u.rest2 * g * g;
            float value = p + step * m / (sqrtf(v) + u.eps);
            p = fmaf(decay, value, value);
        } else {
            float value = p * decay;
            m = u.near ? fmaf(u.rest1, g - m, m) : fmaf(u.rest1 - 1.f, g - m, g);
            v = v * u.beta2 + u.rest2 * g * g;
            p = value + step * m / (sqrtf(v) / root + u.eps);
        }
        u.value[i] = p;
        u.m[i] = m;
        u.v[i] = v;
    }
}
