// Rows picked by number, and gradients that go back to them; one warp a row.

struct Tables {
    const void* rows[4];
    const int* ids[4];
    int limit[4];
    int is_f32[4];
    int count;
};

// y[i] = sum over tables of table[ids[i]], tables in order. An id outside its table reads its nearest row; the host has
// checked ids before.
extern "C" __global__ void embed(Tables tables, T* y, int n, int d, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    for (int j = lane * 8; j < d; j += 256) {
        float sum[8] = {};
        for (int t = 0; t < tables.count; t++) {
            int id = min(max(tables.ids[t][row], 0), tables.limit[t] - 1);
            float v[8];
            if (tables.is_f32[t])
                load8((const float*)tables.rows[t] + (u64)id * d, j, d, vec, v);
            else
                load8((const T*)tables.rows[t] + (u64)id * d, j, d, vec, v);
#pragma unroll
            for (int i = 0; i < 8; i++) sum[i] += v[i];
        }
        store8(y + (u64)row * d, j, d, vec, sum);
    }
}

extern "C" __global__ void gather_rows(const T* x, const int* rows, T* y, int n, int k, int d, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= k) return;
    int id = min(max(rows[row], 0), n - 1);
    for (int j = lane * 8; j < d; j += 256) {
        float v[8];
        load8(x + (u64)id * d, j, d, vec, v);
        store8(y + (u64)row * d, j, d, vec, v);
    }
}

// target[ids[i]] += dy[i], in the order of i: the warp of an id's first place adds all its places. blockIdx.y is the
// strip of 256 columns.
template <class S>
__device__ __forceinline__ void scatter(const T* dy, const int* ids, S* target, int k, int limit, int d, int vec) {
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5), j = blockIdx.y * 256 + lane * 8;
    if (row >= k) return;
    int id = ids[row];
    if (id < 0 || id >= limit) return;
    for (int i = 0; i < row; i += 32) {
        int other = i + lane;
        if (__any_sync(FULL, other < row && ids[other] == id)) return;
    }
    float sum[8], v[8];
    load8(target + (u64)id * d, j, d, vec, sum);
    for (int i = row / 32 * 32; i < k; i += 32) {
        int other = i + lane;
        u32 same = __ballot_sync(FULL, other >= row && other < k && ids[other] == id);
        while (same) {
            int place = i + __ffs(same) - 1;
            same &= same - 1;
            load8(dy + (u64)place * d, j, d, vec, v);
#pragma unroll
            for (int e = 0; e < 8; e++) sum[e] += v[e];
        }
    }
    store8(target + (u64)id * d, j, d, vec, sum);
}
extern "C" __global__ void scatter_rows(const T* dy, const int* rows, T* dx, int k, int n, int d, int vec) {
    scatter(dy, rows, dx, k, n, d, vec);
}
extern "C" __global__ void embed_gradient(const T* dy, const int* ids, float* table, int k, int n, int d, int vec) {
    scatter(dy, ids, table, k, n, d, vec);
}
