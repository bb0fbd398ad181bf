// Conditional matrix multiplication: the kernels that the launcher finds by name.
//
// Compiled at run time for one layer shape; the compiler's options define
//   SCALAR            float, Half or BFloat16: the type of x, y, the weights and the gradients
//   HIDDEN, DEPTH     H and D of the layer
//   VECTOR, WARPS, TOKENS_PER_BLOCK     layout of the kernels that give a token to each group of warps
//   COLUMNS, BLOCK_THREADS, BLOCKS      layout of the kernels that sum weight gradients
// Every parameter is 64 bits wide, a size or an address; all arrays are row-contiguous.

#include "scalars.cuh"
#include "gelu.cuh"
#include "token.cuh"
#include "forward.cuh"
#include "backward.cuh"

using TheLayer = Layer<SCALAR, HIDDEN, DEPTH, VECTOR, WARPS>;
using TheTiling = Tiling<TheLayer, COLUMNS, BLOCK_THREADS>;

static_assert(WARPS == 1 || TOKENS_PER_BLOCK == 1, "the barrier of several warps to a token is the block's");

extern "C" __global__ void __launch_bounds__(32 * WARPS * TOKENS_PER_BLOCK)
    cmm_forward(index_t tokens, index_t trees, const SCALAR* __restrict__ x, const SCALAR* __restrict__ w_in,
                const SCALAR* __restrict__ b_in, const SCALAR* __restrict__ w_out, SCALAR* __restrict__ y,
                float* __restrict__ logits, index_t* __restrict__ leaves) {
    walk_tokens<TheLayer>(tokens, trees, x, w_in, b_in, w_out, y, logits, leaves);
}

extern "C" __global__ void __launch_bounds__(32 * WARPS * TOKENS_PER_BLOCK)
    cmm_backward_tokens(index_t tokens, index_t trees, const SCALAR* __restrict__ grad_y,
                        const SCALAR* __restrict__ w_in, const SCALAR* __restrict__ w_out,
                        const float* __restrict__ logits, const index_t* __restrict__ leaves,
                        SCALAR* __restrict__ grad_x, float* __restrict__ coefficients) {
    differentiate_tokens<TheLayer>(tokens, trees, grad_y, w_in, w_out, logits, leaves, grad_x, coefficients);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS)
    cmm_backward_tiles(index_t tokens, index_t trees, index_t tiles, index_t tile_tokens,
                       const SCALAR* __restrict__ x, const SCALAR* __restrict__ grad_y,
                       const index_t* __restrict__ leaves, const index_t* __restrict__ order,
                       const float* __restrict__ coefficients, SCALAR* __restrict__ grad_w_in,
                       SCALAR* __restrict__ grad_b_in, SCALAR* __restrict__ grad_w_out,
                       float* __restrict__ partial_w_in, float* __restrict__ partial_b_in,
                       float* __restrict__ partial_w_out) {
    sum_tiles<TheLayer, TheTiling>(
        tokens, trees, tiles, tile_tokens, x, grad_y, leaves, order, coefficients,
        {grad_w_in, grad_b_in, grad_w_out, partial_w_in, partial_b_in, partial_w_out});
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS)
    cmm_backward_combine(index_t trees, index_t tiles, index_t tile_tokens,
                         const index_t* __restrict__ leaf_starts, SCALAR* __restrict__ grad_w_in,
                         SCALAR* __restrict__ grad_b_in, SCALAR* __restrict__ grad_w_out,
                         float* __restrict__ partial_w_in, float* __restrict__ partial_b_in,
                         float* __restrict__ partial_w_out) {
    combine_tiles<TheLayer, TheTiling>(
        trees, tiles, tile_tokens, leaf_starts,
        {grad_w_in, grad_b_in, grad_w_out, partial_w_in, partial_b_in, partial_w_out});
}
