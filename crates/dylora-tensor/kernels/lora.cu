// The products of a low-rank path: one side has r columns, r small. Ranks from b on count as zero, so that the sizes of a
// launch do not depend on the rank of a step. W(k, j) = w[k ks + j js] serves A [r, d] and B [m, r] alike.

// The weights of eight ranks and 256 columns, zero outside.
__device__ __forceinline__ void stage(
    float (*tile)[256], const float* w, int k0, int j0, int b, int d, int ks, int js
) {
    for (int t = threadIdx.x; t < 2048; t += 256) {
        int k = js == 1 ? t >> 8 : t & 7, j = js == 1 ? t & 255 : t >> 3;
        tile[k][j] = k0 + k < b && j0 + j < d ? w[(u64)(k0 + k) * ks + (u64)(j0 + j) * js] : 0.f;
    }
}

// out[n, r] = scale sum_j x[n, j] W(k, j). A warp takes four rows.
extern "C" __global__ void __launch_bounds__(256) lora_dot(
    const T* x, const float* w, float* out, int n, int d, int r, int b, int ks, int js, float scale, int vec, const Live* live,
    int scaled
) {
    settle_rank(live, b);
    if (scaled) settle_scale(live, scale);
    __shared__ __align__(16) float tile[8][256];
    int lane = threadIdx.x & 31, row0 = (blockIdx.x * 8 + (threadIdx.x >> 5)) * 4;
    for (int k0 = 0; k0 < r; k0 += 8) {
        float sums[4][8] = {};
        for (int j0 = 0; j0 < d; j0 += 256) {
            __syncthreads();
            stage(tile, w, k0, j0, b, d, ks, js);
            __syncthreads();
            float v[4][8];
#pragma unroll
            for (int i = 0; i < 4; i++)
                load8(x + (u64)min(row0 + i, n - 1) * d, j0 + lane * 8, d, vec, v[i]);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float c[8];
                load_vector(&tile[k][lane * 8], c);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int e = 0; e < 8; e++) sums[i][k] += v[i][e] * c[e];
            }
        }
        float mine = 0.f;
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float sum = warp_sum(sums[i][k]);
                if (lane == i * 8 + k) mine = sum;
            }
        int row = row0 + lane / 8, k = k0 + lane % 8;
        if (row < n && k < r) out[(u64)row * r + k] = scale * mine;
    }
}

// y[n, j] = (y if accumulate) + bias[j] + scale sum_k h[n, k] W(k, j). A block takes 256 columns and `rows` rows.
extern "C" __global__ void __launch_bounds__(256) lora_outer(
    const float* h, const float* w, const float* bias, T* y, int n, int d, int r, int b, int ks, int js, float scale,
    int accumulate, int rows, int vec, const Live* live, int scaled
) {
    settle_rank(live, b);
    if (scaled) settle_scale(live, scale);
    __shared__ __align__(16) float tile[8][256];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, j0 = blockIdx.x * 256, j = j0 + lane * 8;
    int first = blockIdx.y * rows, last = min(n, first + rows);
    float shift[8] = {};
    if (bias) load8(bias, j, d, vec, shift);
    for (int k0 = 0; k0 < r; k0 += 8) {
        __syncthreads();
        stage(tile, w, k0, j0, b, d, ks, js);
        __syncthreads();
        float c[8][8];
#pragma unroll
        for (int k = 0; k < 8; k++) load_vector(&tile[k][lane * 8], c[k]);
        for (int row = first + warp; row < last; row += 8) {
            float v[8] = {}, mine = lane < 8 && k0 + lane < b ? scale * h[(u64)row * r + k0 + lane] : 0.f;
            if (accumulate || k0) load8(y + (u64)row * d, j, d, vec, v);
            if (!k0)
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] += shift[e];
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float factor = __shfl_sync(FULL, mine, k);
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] += factor * c[k][e];
            }
            store8(y + (u64)row * d, j, d, vec, v);
        }
    }
}

// partial[chunk][r][d] = sum over the chunk's rows of h[n, k] x[n, j].
extern "C" __global__ void __launch_bounds__(256) lora_reduce(
    const float* h, const T* x, float* partial, int n, int d, int r, int rows, int vec
) {
    __shared__ float sums[8][256];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, j = blockIdx.x * 256 + lane * 8;
    int first = blockIdx.y * rows, last = min(n, first + rows);
    for (int k0 = 0; k0 < r; k0 += 8) {
        float total[8][8] = {};
        for (int row = first + warp; row < last; row += 8) {
            float v[8], mine = lane < 8 && k0 + lane < r ? h[(u64)row * r + k0 + lane] : 0.f;
            load8(x + (u64)row * d, j, d, vec, v);
#pragma unroll
            for (int k = 0; k < 8; k++) {
                float factor = __shfl_sync(FULL, mine, k);
#pragma unroll
                for (int e = 0; e < 8; e++) total[k][e] += factor * v[e];
            }
        }
        for (int w = 0; w < 8; w++) {
            if (warp == w) {
#pragma unroll
                for (int k = 0; k < 8; k++)
#pragma unroll
                    for (int e = 0; e < 8; e++) {
                        float* at = &sums[k][lane * 8 + e];
                        *at = (w ? *at : 0.f) + total[k][e];
                    }
            }
            __syncthreads();
        }
        int column = blockIdx.x * 256 + threadIdx.x;
        for (int k = 0; k < 8 && k0 + k < r; k++)
            if (column < d) partial[((u64)blockIdx.y * r + k0 + k) * d + column] = sums[k][threadIdx.x];
        __syncthreads();
    }
}

// G(k, j) += scale sum over chunks of partial[chunk][k][j] for the ranks first .. last that learn; no other is touched.
extern "C" __global__ void lora_finish(
    const float* partial, float* g, int chunks, int r, int d, int first, int last, int ks, int js, float scale,
    const Live* live, int scaled
) {
    settle_writes(live, first, last);
    if (scaled) settle_scale(live, scale);
    int j = blockIdx.x * blockDim.x + threadIdx.x, k = blockIdx.y;
    if (j >= d || k < first || k >= last) return;
    float sum = 0.f;
    for (int chunk = 0; chunk < chunks; chunk++) sum += partial[((u64)chunk * r + k) * d + j];
    g[(u64)k * ks + (u64)j * js] += scale * sum;
}
