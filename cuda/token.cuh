// One token's row spread over a group of warps: where each thread's share lies, how shares are summed.
//
// The group has `warps` warps. Thread t of it owns, in chunk c, the `vector` neighbours that start at
// (c * 32 * warps + t) * vector, so that a warp's loads of a row are contiguous. What would lie past the
// row's end is neither read nor written.

// The shape of a layer and of its launch; everything a loop bound or a register array depends on.
template <typename ScalarType, int hidden_size, int tree_depth, int vector_width, int warps_per_token>
struct Layer {
    using Scalar = ScalarType;
    static constexpr int hidden = hidden_size;
    static constexpr int depth = tree_depth;
    static constexpr int levels = tree_depth + 1;
    static constexpr index_t nodes = (index_t(2) << tree_depth) - 1;
    static constexpr index_t leaf_count = index_t(1) << tree_depth;
    static constexpr int vector = vector_width;
    static constexpr int warps = warps_per_token;
    static constexpr int chunk = 32 * warps_per_token * vector_width;
    static constexpr int chunks = (hidden_size + chunk - 1) / chunk;
    // A row too long for registers is walked in a real loop, its values in local memory.
    static constexpr int unroll = chunks * vector_width <= 64 ? chunks : 1;
    static_assert(hidden_size % vector_width == 0, "a group of values must not cross the end of a row");
    static_assert(levels <= 32, "a warp keeps one level's logit per lane");
};

template <class L>
using Row = Group<typename L::Scalar, L::vector>[L::chunks];

template <class L>
__device__ inline int column_of(int chunk) {
    return chunk * L::chunk + int(threadIdx.x) * L::vector;
}

// The thread's share of a row; zeros past the row's end.
template <class L>
__device__ inline void load_row(const typename L::Scalar* row, Row<L>& share) {
#pragma unroll L::unroll
    for (int c = 0; c < L::chunks; ++c) {
        if (column_of<L>(c) < L::hidden) {
            share[c] = load_group<L::vector>(row + column_of<L>(c));
        } else {
            share[c] = {};  // all bits zero is 0.0 in every format
        }
    }
}

template <class L>
__device__ inline void widen_row(const Row<L>& share, float (&values)[L::chunks][L::vector]) {
#pragma unroll L::unroll
    for (int c = 0; c < L::chunks; ++c) {
#pragma unroll
        for (int i = 0; i < L::vector; ++i) values[c][i] = widen(share[c].element[i]);
    }
}

template <class L>
__device__ inline void store_row(typename L::Scalar* row, const float (&values)[L::chunks][L::vector]) {
#pragma unroll L::unroll
    for (int c = 0; c < L::chunks; ++c) {
        if (column_of<L>(c) < L::hidden) store_group<L::vector>(row + column_of<L>(c), values[c]);
    }
}

template <class L>
__device__ inline float dot_share(const float (&values)[L::chunks][L::vector], const Row<L>& weights) {
    float sum = 0.0f;
#pragma unroll L::unroll
    for (int c = 0; c < L::chunks; ++c) {
#pragma unroll
        for (int i = 0; i < L::vector; ++i) sum += values[c][i] * widen(weights[c].element[i]);
    }
    return sum;
}

template <class L>
__device__ inline void add_scaled(float (&values)[L::chunks][L::vector], float factor,
                                  const Row<L>& weights) {
#pragma unroll L::unroll
    for (int c = 0; c < L::chunks; ++c) {
#pragma unroll
        for (int i = 0; i < L::vector; ++i) values[c][i] += factor * widen(weights[c].element[i]);
    }
}

// Sums one number over the token's threads. Every thread gets the same bits (each step adds the same two
// numbers, in either order), so all of them take the same turn in the tree. With several warps `scratch` is
// shared memory; `turn` counts the calls, since two buffers in alternation need one barrier instead of two.
template <class L>
__device__ inline float sum_over_token(float value, float (&scratch)[2][L::warps], int& turn) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    if (L::warps > 1) {
        float* const partial = scratch[turn & 1];
        ++turn;
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
        __syncthreads();
        value = 0.0f;
        for (int w = 0; w < L::warps; ++w) value += partial[w];
    }
    return value;
}
