// What every kernel file begins with. No header of the CUDA toolkit is needed: bf16 and mma are inline PTX.
//
// A file is compiled twice: T is float, or bf16 where NARROW is defined. Sums are f32 and have a fixed order; nothing is added
// atomically, so equal inputs give equal bytes.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;

struct bf16 {
    u16 bits;
};

#define FULL 0xffffffffu
#define INF __int_as_float(0x7f800000)

#ifdef NARROW
typedef bf16 T;
#else
typedef float T;
#endif

__device__ __forceinline__ float to_f(float x) { return x; }
__device__ __forceinline__ float to_f(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ void put(float* at, float x) { *at = x; }
__device__ __forceinline__ void put(bf16* at, float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    at->bits = bits;
}

// Two values as bf16 in one word, the first in the lower half.
__device__ __forceinline__ u32 pack2(float low, float high) {
    u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// The value that remains once x has been stored as T.
__device__ __forceinline__ float stored(float x, const float*) { return x; }
__device__ __forceinline__ float stored(float x, const bf16*) {
    bf16 rounded;
    put(&rounded, x);
    return to_f(rounded);
}

// Eight elements at once; p is 16-byte aligned.
__device__ __forceinline__ void load_vector(const float* p, float v[8]) {
    float4 a = *(const float4*)p, b = *(const float4*)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ __forceinline__ void load_vector(const bf16* p, float v[8]) {
    uint4 a = *(const uint4*)p;
    u32 words[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}
// The fastest forms of the special function unit: 2^x to 2 and 1 / x to 1 unit of the last place, small results as zero.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float inverse_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ void store_vector(float* p, const float v[8]) {
    *(float4*)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4*)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ __forceinline__ void store_vector(bf16* p, const float v[8]) {
    uint4 a;
    a.x = pack2(v[0], v[1]), a.y = pack2(v[2], v[3]), a.z = pack2(v[4], v[5]), a.w = pack2(v[6], v[7]);
    *(uint4*)p = a;
}

// The same, and v becomes what was stored.
__device__ __forceinline__ void store_rounded(float* p, float v[8]) { store_vector(p, v); }
__device__ __forceinline__ void store_rounded(bf16* p, float v[8]) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        words[i] = pack2(v[2 * i], v[2 * i + 1]);
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
    *(uint4*)p = make_uint4(words[0], words[1], words[2], words[3]);
}

// Elements j .. j + 8 of a row; zeros beyond its end. `vec`: rows are aligned and their width is a multiple of 8.
template <class S>
__device__ __forceinline__ void load8(const S* row, int j, int width, int vec, float v[8]) {
    if (!vec) {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = j + i < width ? to_f(row[j + i]) : 0.f;
    } else if (j < width) {
        load_vector(row + j, v);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = 0.f;
    }
}
// The same as they lie in memory, for loads that are to be on their way together.
template <class S>
struct Eight;
template <>
struct Eight<float> {
    float v[8];
};
template <>
struct Eight<bf16> {
    u32 words[4];
};
__device__ __forceinline__ void fetch8(const float* row, int j, int width, int vec, Eight<float>& e) {
    load8(row, j, width, vec, e.v);
}
__device__ __forceinline__ void fetch8(const bf16* row, int j, int width, int vec, Eight<bf16>& e) {
    if (vec) {
        uint4 a = j < width ? *(const uint4*)(row + j) : make_uint4(0, 0, 0, 0);
        e.words[0] = a.x, e.words[1] = a.y, e.words[2] = a.z, e.words[3] = a.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 low = j + 2 * i < width ? row[j + 2 * i].bits : 0, high = j + 2 * i + 1 < width ? row[j + 2 * i + 1].bits : 0;
            e.words[i] = low | high << 16;
        }
    }
}
__device__ __forceinline__ void unpack8(const Eight<float>& e, float v[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = e.v[i];
}
__device__ __forceinline__ void unpack8(const Eight<bf16>& e, float v[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(e.words[i] << 16);
        v[2 * i + 1] = __uint_as_float(e.words[i] & 0xffff0000u);
    }
}
template <class S>
__device__ __forceinline__ void store8(S* row, int j, int width, int vec, const float v[8]) {
    if (vec) {
        if (j < width) store_vector(row + j, v);
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (j + i < width) put(row + j + i, v[i]);
    }
}

// Tensor cores: 8 x 8 blocks of bf16 from shared memory, and c[16, 8] += a[16, 16] b[16, 8]. Lane 4 g + q holds of a the
// columns 2 q, 2 q + 1 (and 8 further) of rows g and g + 8, of b the rows 2 q, 2 q + 1 (and 8 further) of column g, of c
// the columns 2 q, 2 q + 1 of rows g and g + 8.
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void matrices(u32 r[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}
__device__ __forceinline__ void matrices_transposed(u32 r[4], const bf16* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(p))
                 : "memory");
}
__device__ __forceinline__ void mma(float c[4], const u32 a[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory: the first `bytes` of them, or all that are `valid`, and zeros.
__device__ __forceinline__ void copy_bytes(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void copy16(bf16* to, const bf16* from, bool valid) { copy_bytes(to, from, valid ? 16 : 0); }
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of copies but the latest ones.
template <int LATEST>
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory");
}
__device__ __forceinline__ void copies_done() {
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 0;" ::: "memory");
}

// Two values as bf16 in one word, and what they lose by that in another: together 16 bits of mantissa.
__device__ __forceinline__ u32 split2(float low, float high, u32* rest) {
    u32 word = pack2(low, high);
    *rest = pack2(low - __uint_as_float(word << 16), high - __uint_as_float(word & 0xffff0000u));
    return word;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step; step >>= 1) x += __shfl_xor_sync(FULL, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step; step >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, step));
    return x;
}

// Philox4x32-10, the integers of rng.rs.
__device__ __forceinline__ uint4 philox(u32 c0, u32 c1, u32 c2, u32 c3, u32 k0, u32 k1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
        u32 h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// What differs between two passes that launch the same work (step.rs): in device memory, so that a captured graph serves both.
struct Live {
    u32 step, site;
    int rank, first, last;
    float scale, weight;
    u32 pad;
};

struct Drop {
    u32 key0, key1, purpose, step, site, threshold;
    float scale;
    u32 on;
    const Live* live;
};

// The values of this pass. A kernel that takes dropout, ranks or a loss's weight begins with one of these; without `live` the
// arguments hold.
__device__ __forceinline__ void settle(Drop& drop) {
    if (drop.live) drop.step = drop.live->step, drop.site += drop.live->site;
}
__device__ __forceinline__ void settle_rank(const Live* live, int& b) {
    if (live) b = live->rank;
}
__device__ __forceinline__ void settle_scale(const Live* live, float& scale) {
    if (live) scale = live->scale;
}
__device__ __forceinline__ void settle_writes(const Live* live, int& first, int& last) {
    if (live) first = live->first, last = live->last;
}

// Keep flags of the eight elements 16 w + 8 h + block of a group of 64: bit 2 w + h.
__device__ __forceinline__ u32 keep_bits(const Drop& drop, u64 group, int block) {
    u32 site = drop.site ^ ((u32)(group >> 29) << 16);
    uint4 p = philox((u32)(group * 8) + (u32)block, site, drop.step, drop.purpose, drop.key0, drop.key1);
    u32 words[4] = {p.x, p.y, p.z, p.w}, bits = 0;
    u32 least = drop.threshold << 16;
#pragma unroll
    for (int w = 0; w < 4; w++) {
        if (words[w] << 16 >= least) bits |= 1u << (2 * w);
        if (words[w] >= least) bits |= 2u << (2 * w);
    }
    return bits;
}

// Keep flags of eight neighbouring elements of a row for each lane: a warp covers 256 elements from `j0` and 256 more for
// each further piece, up to four. Byte p of lane i has the flags of the eight elements from j0 + 256 p + 8 i. All lanes take
// part: eight lanes draw a group together, each a row of an 8 x 8 matrix of flags, and transpose it.
template <int PIECES>
__device__ __forceinline__ u32 keep_pieces(const Drop& drop, u64 row, int width, int j0, int lane) {
    u64 group = row * (u64)((width + 63) / 64) + (u64)(j0 / 64 + lane / 8);
    u32 bits = 0;
#pragma unroll
    for (int p = 0; p < PIECES; p++) bits |= keep_bits(drop, group + 4 * p, lane & 7) << (8 * p);
#pragma unroll
    for (int step = 4; step; step >>= 1) {
        u32 upper = step == 4 ? 0xf0f0f0f0u : step == 2 ? 0xccccccccu : 0xaaaaaaaau, mine = lane & step ? upper : ~upper;
        u32 theirs = __shfl_xor_sync(FULL, bits, step);
        bits = (bits & mine) | ((lane & step ? theirs >> step : theirs << step) & ~mine);
    }
    return bits;
}
__device__ __forceinline__ u32 keep8(const Drop& drop, u64 row, int width, int j0, int lane) {
    return keep_pieces<1>(drop, row, width, j0, lane) & 0xff;
}
