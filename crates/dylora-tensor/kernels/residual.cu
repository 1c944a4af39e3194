// A pre-norm block's residual stream.

// The gradients of s = x + dropout(out + bias) and of its normalised form at once: ds = above + rstd (g - mean(g) - xhat mean(g xhat))
// with g = dy gamma; dx = ds, dout = ds times the dropout factors. One warp a row. `above` is what s got from elsewhere.
template <int PIECES>
__device__ __forceinline__ void backward(
    const T* dy, const T* above, const T* sum, const float* mean_in, const float* rstd_in, const float* gamma, const Drop& drop,
    T* dx, T* dout, int n, int d, int vec
) {
    // A wide row does not fit into a warp's registers and is read again.
    constexpr bool KEPT = PIECES <= 8;
    constexpr int HELD = KEPT ? PIECES : 1;
    int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= n) return;
    u64 at = (u64)row * d;
    Eight<T> gs[HELD], xs[HELD], more[HELD];
    auto ask = [&](int p) {
        int j = p * 256 + lane * 8, k = KEPT ? p : 0;
        fetch8(dy + at, j, d, vec, gs[k]);
        fetch8(sum + at, j, d, vec, xs[k]);
        if (above) fetch8(above + at, j, d, vec, more[k]);
    };
    if (KEPT) {
#pragma unroll
        for (int p = 0; p < PIECES; p++)
            if (p * 256 < d) ask(p);
    }
    float mean = mean_in[row], rstd = rstd_in[row], total = 0.f, along = 0.f;
    // dy gamma and the normalised sum.
    auto take = [&](int p, float g[8], float x[8]) {
        float w[8];
        load8(gamma, p * 256 + lane * 8, d, vec, w);
        unpack8(gs[KEPT ? p : 0], g);
        unpack8(xs[KEPT ? p : 0], x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            g[i] *= w[i];
            x[i] = (x[i] - mean) * rstd;
        }
    };
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        if (p * 256 >= d) break;
        if (!KEPT) ask(p);
        float g[8], x[8];
        take(p, g, x);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            total += g[i];
            along += g[i] * x[i];
        }
    }
#pragma unroll
    for (int step = 16; step; step >>= 1) {
        total += __shfl_xor_sync(FULL, total, step);
        along += __shfl_xor_sync(FULL, along, step);
    }
    total /= d;
    along /= d;
    bool dropped = dout && drop.on;
    u32 keep = 0;
    if (PIECES <= 4 && dropped) keep = keep_pieces<PIECES <= 4 ? PIECES : 1>(drop, row, d, 0, lane);
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int j = p * 256 + lane * 8;
        if (p * 256 >= d) break;
        if (!KEPT) ask(p);
        float g[8], x[8], v[8] = {};
        take(p, g, x);
        if (above) unpack8(more[KEPT ? p : 0], v);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += rstd * (g[i] - total - x[i] * along);
        if (dx) store8(dx + at, j, d, vec, v);
        if (dout) {
            if (dropped) {
                u32 flags = PIECES <= 4 ? keep >> (8 * p) : keep8(drop, row, d, p * 256, lane);
#pragma unroll
                for (int i = 0; i < 8; i++) v[i] *= flags >> i & 1 ? drop.scale : 0.f;
            }
            store8(dout + at, j, d, vec, v);
        }
    }
}

#ifdef NARROW
#define BLOCKS(PIECES) (PIECES <= 4 ? 3 : 1)
#else
#define BLOCKS(PIECES) 1
#endif
#define INSTANCE(PIECES)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS(PIECES)) residual_norm_backward_##PIECES(               \
        const T* dy, const T* above, const T* sum, const float* mean, const float* rstd, const float* gamma,         \
        Drop drop, T* dx, T* dout, int n, int d, int vec                                                             \
    ) {                                                                                                              \
        settle(drop);                                                                                                \
        backward<PIECES>(dy, above, sum, mean, rstd, gamma, drop, dx, dout, n, d, vec);                              \
    }
INSTANCE(1)
INSTANCE(2)
INSTANCE(3)
INSTANCE(4)
INSTANCE(8)
INSTANCE(16)
