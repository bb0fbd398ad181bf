// Reads an array again and again, 16 bytes at a time, past the multiprocessors' own caches: how fast the shared L2
// cache is where the array fits into it. The compiler's option BLOCK_THREADS defines the threads of a block.

typedef long long index_t;

__device__ inline float sum_of_group(const float* address) {
    float a, b, c, d;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(a), "=f"(b), "=f"(c), "=f"(d)
                 : "l"(address));
    return (a + b) + (c + d);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    read_repeatedly(index_t groups, index_t repetitions, const float* __restrict__ values, float* __restrict__ result) {
    const index_t stride = index_t(gridDim.x) * BLOCK_THREADS;
    float sum = 0.0f;
    for (index_t repetition = 0; repetition < repetitions; ++repetition) {
#pragma unroll 4
        for (index_t group = index_t(blockIdx.x) * BLOCK_THREADS + threadIdx.x; group < groups; group += stride)
            sum += sum_of_group(values + 4 * group);
    }
    result[index_t(blockIdx.x) * BLOCK_THREADS + threadIdx.x] = sum;
}
