// Forward: each token walks one root-to-leaf path in every tree.
//
// A block is (32 * warps, tokens) threads; with more than one warp to a token it holds one token, so that the
// block's barrier is the token's. The token's row and its output stay in registers over all trees; a row of
// w_out is fetched together with the row of w_in, before the logit is known.

template <class L>
__device__ inline void walk_tokens(index_t tokens, index_t trees, const typename L::Scalar* __restrict__ x,
                                   const typename L::Scalar* __restrict__ w_in,
                                   const typename L::Scalar* __restrict__ b_in,
                                   const typename L::Scalar* __restrict__ w_out,
                                   typename L::Scalar* __restrict__ y, float* __restrict__ logits,
                                   index_t* __restrict__ leaves) {
    __shared__ float scratch[2][L::warps];
    int turn = 0;
    const index_t stride = index_t(gridDim.x) * blockDim.y;
    for (index_t token = index_t(blockIdx.x) * blockDim.y + threadIdx.y; token < tokens; token += stride) {
        Row<L> row;
        float input[L::chunks][L::vector];
        float output[L::chunks][L::vector] = {};
        load_row<L>(x + token * L::hidden, row);
        widen_row<L>(row, input);
        for (index_t tree = 0; tree < trees; ++tree) {
            index_t node = 0;
            index_t leaf = 0;
            float kept = 0.0f;  // lane `level` of the first warp keeps that level's logit
            for (int level = 0; level < L::levels; ++level) {
                const index_t neuron = tree * L::nodes + node;
                Row<L> from;
                Row<L> to;
                load_row<L>(w_in + neuron * L::hidden, from);
                load_row<L>(w_out + neuron * L::hidden, to);
                const float bias = widen(b_in[neuron]);
                const float logit = sum_over_token<L>(dot_share<L>(input, from), scratch, turn) + bias;
                add_scaled<L>(output, gelu(logit), to);
                if (int(threadIdx.x) == level) kept = logit;
                leaf = node;
                node = 2 * node + 1 + (logit > 0.0f ? 1 : 0);  // a tie, and NaN, goes left
            }
            const index_t walk = token * trees + tree;
            if (int(threadIdx.x) < L::levels) logits[walk * L::levels + threadIdx.x] = kept;
            if (threadIdx.x == 0) leaves[walk] = leaf;
        }
        store_row<L>(y + token * L::hidden, output);
    }
}
