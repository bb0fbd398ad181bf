// Number types: the three storage formats, their conversions, and aligned groups of them.
//
// The formats are defined here, bit by bit, rather than taken from cuda_fp16.h and cuda_bf16.h, so that the
// run-time compiler needs no CUDA header on the user's machine. All arithmetic is in float32.

typedef long long index_t;  // every index and size: token counts times hidden sizes pass 2^31

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

#ifdef __CUDACC__
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

__device__ inline float widen(float value) { return value; }

__device__ inline float widen(Half value) { return half_to_float(value.bits); }

__device__ inline float widen(BFloat16 value) { return __uint_as_float(unsigned(value.bits) << 16); }

template <typename Scalar>
__device__ inline Scalar narrow(float value);

template <>
__device__ inline float narrow<float>(float value) {
    return value;
}

template <>
__device__ inline Half narrow<Half>(float value) {
    return Half{float_to_half(value)};
}

template <>
__device__ inline BFloat16 narrow<BFloat16>(float value) {
    const unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return BFloat16{0x7fff};  // NaN: rounding could turn it to infinity
    const unsigned to_nearest_even = 0x7fffu + ((bits >> 16) & 1u);
    return BFloat16{static_cast<unsigned short>((bits + to_nearest_even) >> 16)};
}

// `width` neighbours that travel in one load or store of up to 16 bytes.
template <typename Scalar, int width>
struct alignas(sizeof(Scalar) * width) Group {
    Scalar element[width];
};

template <int width, typename Scalar>
__device__ inline Group<Scalar, width> load_group(const Scalar* address) {
    return *reinterpret_cast<const Group<Scalar, width>*>(address);
}

template <int width, typename Scalar>
__device__ inline void store_group(Scalar* address, const float (&values)[width]) {
    Group<Scalar, width> group;
#pragma unroll
    for (int i = 0; i < width; ++i) group.element[i] = narrow<Scalar>(values[i]);
    *reinterpret_cast<Group<Scalar, width>*>(address) = group;
}
