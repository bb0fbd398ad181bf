// The forward pass as the paper's GPU kernel lays it out: a thread to a token, which reads its own row of x and
// the rows of its nodes one value after the other, so that the threads of a warp read from 32 distant places, and
// adds to its row of the output in memory at each node. A baseline of the benchmark; nothing else calls it.
//
// Unlike the paper's, it writes nothing past the last token. The compiler's options define
//   SCALAR            float, Half or BFloat16: the type of x, y and the weights
//   HIDDEN, DEPTH     H and D of the layer
//   BLOCK_THREADS     threads of a block
// `sums` (tokens, H) holds the float32 sums; for a SCALAR of float it may be y itself.

#include "scalars.cuh"
#include "gelu.cuh"

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    naive_forward(index_t tokens, index_t trees, const SCALAR* __restrict__ x, const SCALAR* __restrict__ w_in,
                  const SCALAR* __restrict__ b_in, const SCALAR* __restrict__ w_out, SCALAR* y, float* sums) {
    constexpr index_t nodes = (index_t(2) << DEPTH) - 1;
    const index_t token = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (token >= tokens) return;
    const SCALAR* const input = x + token * HIDDEN;
    float* const sum = sums + token * HIDDEN;
    for (int i = 0; i < HIDDEN; ++i) sum[i] = 0.0f;
    for (index_t tree = 0; tree < trees; ++tree) {
        index_t node = 0;
        for (int level = 0; level <= DEPTH; ++level) {
            const index_t neuron = tree * nodes + node;
            const SCALAR* const from = w_in + neuron * HIDDEN;
            const SCALAR* const to = w_out + neuron * HIDDEN;
            float logit = 0.0f;
            for (int i = 0; i < HIDDEN; ++i) logit += widen(input[i]) * widen(from[i]);
            logit += widen(b_in[neuron]);
            const float activation = gelu(logit);
            for (int i = 0; i < HIDDEN; ++i) sum[i] += activation * widen(to[i]);
            node = 2 * node + 1 + (logit > 0.0f ? 1 : 0);
        }
    }
    if (sizeof(SCALAR) == sizeof(float)) return;  // the sums are the output
    for (int i = 0; i < HIDDEN; ++i) y[token * HIDDEN + i] = narrow<SCALAR>(sum[i]);
}
