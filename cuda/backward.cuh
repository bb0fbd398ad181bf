// Backward, in three kernels, without atomics: the same input gives the same bits.
//
// 1. `differentiate_tokens`, laid out like the forward: per visited node the two numbers that its weight
//    gradients need, ds = gelu'(s) * (g . w_out[node]) and a = gelu(s), and the token's grad_x.
// 2. `sum_tiles`: the caller has sorted the tokens of each tree by leaf, so the tokens of any node, at any
//    level, are neighbours: a run. A block takes a tile of the sorted tokens and a slice of columns, reads
//    each token's x and g once, and keeps one running sum per level in registers; where the path leaves a
//    node, that node's sum is complete and is written. A run that crosses a tile's edge is written as a
//    partial sum.
// 3. `combine_tiles`: nodes whose run crosses tiles add up their partial sums, in order; nodes that no token
//    visited get zeros. Together with 2 each gradient is written exactly once.
//
// Nodes are counted from 1 here where it helps (place = node + 1): the ancestor of a place at a level is then
// the place shifted right by the number of levels between them.

template <class L>
__device__ inline void differentiate_tokens(
    index_t tokens, index_t trees, const typename L::Scalar* __restrict__ grad_y,
    const typename L::Scalar* __restrict__ w_in, const typename L::Scalar* __restrict__ w_out,
    const float* __restrict__ logits, const index_t* __restrict__ leaves,
    typename L::Scalar* __restrict__ grad_x, float* __restrict__ coefficients) {
    __shared__ float scratch[2][L::warps];
    int turn = 0;
    const int lane = threadIdx.x % 32;
    const index_t stride = index_t(gridDim.x) * blockDim.y;
    for (index_t token = index_t(blockIdx.x) * blockDim.y + threadIdx.y; token < tokens; token += stride) {
        Row<L> row;
        float gradient[L::chunks][L::vector];
        float output[L::chunks][L::vector] = {};
        load_row<L>(grad_y + token * L::hidden, row);
        widen_row<L>(row, gradient);
        for (index_t tree = 0; tree < trees; ++tree) {
            const index_t walk = token * trees + tree;
            const index_t place = leaves[walk] + 1;
            // Lane `level` works on that level's logit; all lanes learn the slope when its turn comes.
            const float logit = lane < L::levels ? logits[walk * L::levels + lane] : 0.0f;
            const float slope = gelu_slope(logit);
            float kept = 0.0f;
            for (int level = 0; level < L::levels; ++level) {
                const index_t neuron = tree * L::nodes + (place >> (L::depth - level)) - 1;
                Row<L> from;
                Row<L> to;
                load_row<L>(w_out + neuron * L::hidden, from);
                load_row<L>(w_in + neuron * L::hidden, to);
                const float arriving = sum_over_token<L>(dot_share<L>(gradient, from), scratch, turn);
                const float ds = __shfl_sync(0xffffffffu, slope, level) * arriving;
                add_scaled<L>(output, ds, to);
                if (lane == level) kept = ds;
            }
            if (int(threadIdx.x) < L::levels) {
                float* const pair = coefficients + walk * 2 * L::levels;
                pair[threadIdx.x] = kept;
                pair[L::levels + threadIdx.x] = gelu(logit);
            }
        }
        store_row<L>(grad_x + token * L::hidden, output);
    }
}

// How the weight gradients are laid over threads and memory; shared by the second and third kernel.
template <class L, int columns_per_thread, int block_threads>
struct Tiling {
    static constexpr int columns = columns_per_thread;
    static constexpr int threads = block_threads;
    static constexpr int slices = (L::hidden + columns * threads - 1) / (columns * threads);
    static constexpr int stage = 32;  // tokens whose coefficients wait in shared memory
    static constexpr int batch = 8;   // tokens whose rows are fetched before the first is used
    static constexpr int quads = (2 * L::levels + 3) / 4;  // a token's coefficients in groups of 16 bytes
    static_assert(L::hidden % columns_per_thread == 0, "a thread's columns must not cross the end of a row");
    static_assert(stage % batch == 0, "a stage is a whole number of batches");

    // Row of the partial sums: a tile can share two runs of a level with its neighbours, the one that came in
    // over its left edge (side 0) and the one that only leaves over its right edge (side 1).
    __device__ static index_t partial_row(index_t tree, index_t tiles, index_t tile, int side, int level) {
        return ((tree * tiles + tile) * 2 + side) * L::levels + level;
    }
};

// The three weight gradients, and the partial sums of each, in float32.
template <typename Scalar>
struct Gradients {
    Scalar* w_in;
    Scalar* b_in;
    Scalar* w_out;
    float* partial_w_in;
    float* partial_b_in;
    float* partial_w_out;
};

// Running sums of one level: the node that the current path has there.
template <int columns>
struct Sums {
    float w_in[columns];
    float w_out[columns];
    float b_in;
};

template <class L, class T>
__device__ inline void write_sums(Sums<T::columns>& sums, int level, index_t place, index_t before,
                                  index_t after, index_t tree, index_t tiles, index_t tile, int column,
                                  const Gradients<typename L::Scalar>& gradients) {
    const int shift = L::depth - level;
    const index_t ancestor = place >> shift;
    // The same ancestor, written so that nothing but `place` varies over the tile: shifting `before` and
    // `after` for every level ahead of the loop would take dozens of registers.
    const bool came_in = ((before ^ place) >> shift) == 0;
    const bool goes_on = ((after ^ place) >> shift) == 0;
    if (column < L::hidden) {
        if (came_in || goes_on) {
            const index_t row = T::partial_row(tree, tiles, tile, came_in ? 0 : 1, level);
            store_group<T::columns>(gradients.partial_w_in + row * L::hidden + column, sums.w_in);
            store_group<T::columns>(gradients.partial_w_out + row * L::hidden + column, sums.w_out);
            if (column == 0) gradients.partial_b_in[row] = sums.b_in;
        } else {
            const index_t neuron = tree * L::nodes + ancestor - 1;
            store_group<T::columns>(gradients.w_in + neuron * L::hidden + column, sums.w_in);
            store_group<T::columns>(gradients.w_out + neuron * L::hidden + column, sums.w_out);
            if (column == 0) gradients.b_in[neuron] = narrow<typename L::Scalar>(sums.b_in);
        }
    }
    sums = {};
}

template <class L, class T>
__device__ inline void sum_tiles(index_t tokens, index_t trees, index_t tiles, index_t tile_tokens,
                                 const typename L::Scalar* __restrict__ x,
                                 const typename L::Scalar* __restrict__ grad_y,
                                 const index_t* __restrict__ leaves, const index_t* __restrict__ order,
                                 const float* __restrict__ coefficients,
                                 const Gradients<typename L::Scalar>& gradients) {
    using Scalar = typename L::Scalar;
    __shared__ index_t staged_token[T::stage];
    __shared__ index_t staged_place[T::stage];
    __shared__ Group<float, 4> staged[T::stage][T::quads];
    // Each thread reads back only what it wrote. Keeping a batch in registers would mean unrolling the loop
    // over it, and with it the code that writes sums: 190 registers at depth 11, against 128 (`nvcc -Xptxas
    // -v`).
    __shared__ Group<Scalar, T::columns> inputs[T::batch][T::threads];
    __shared__ Group<Scalar, T::columns> arrivals[T::batch][T::threads];
    const index_t items = trees * tiles * T::slices;
    for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
        const int slice = int(item % T::slices);
        const index_t tile = item / T::slices % tiles;
        const index_t tree = item / T::slices / tiles;
        const index_t begin = tile * tile_tokens;
        const index_t end = begin + tile_tokens < tokens ? begin + tile_tokens : tokens;
        const index_t* const sorted = order + tree * tokens;
        const int column = (slice * T::threads + int(threadIdx.x)) * T::columns;
        // Places of the neighbouring tiles' nearest tokens; 0, which is no place, where there is none.
        const index_t before = begin > 0 ? leaves[sorted[begin - 1] * trees + tree] + 1 : 0;
        const index_t after = end < tokens ? leaves[sorted[end] * trees + tree] + 1 : 0;
        index_t place = leaves[sorted[begin] * trees + tree] + 1;
        Sums<T::columns> sums[L::levels] = {};

        for (index_t start = begin; start < end; start += T::stage) {
            const int count = int(end - start < T::stage ? end - start : T::stage);
            __syncthreads();  // the stage before is used up
            for (int i = threadIdx.x; i < count; i += T::threads) {
                const index_t token = sorted[start + i];
                staged_token[i] = token;
                staged_place[i] = leaves[token * trees + tree] + 1;
            }
            __syncthreads();
            for (int i = threadIdx.x; i < count * 2 * L::levels; i += T::threads) {
                const int row = i / (2 * L::levels);
                const int entry = i % (2 * L::levels);
                staged[row][entry / 4].element[entry % 4] =
                    coefficients[(staged_token[row] * trees + tree) * 2 * L::levels + entry];
            }
            __syncthreads();
            for (int first = 0; first < count; first += T::batch) {
                Group<Scalar, T::columns> fetched[T::batch][2] = {};
#pragma unroll
                for (int j = 0; j < T::batch; ++j) {
                    if (first + j < count && column < L::hidden) {
                        const index_t offset = staged_token[first + j] * L::hidden + column;
                        fetched[j][0] = load_group<T::columns>(x + offset);
                        fetched[j][1] = load_group<T::columns>(grad_y + offset);
                    }
                }
#pragma unroll
                for (int j = 0; j < T::batch; ++j) {
                    inputs[j][threadIdx.x] = fetched[j][0];
                    arrivals[j][threadIdx.x] = fetched[j][1];
                }
                const int last = count - first < T::batch ? count - first : T::batch;
#pragma unroll 1
                for (int j = 0; j < last; ++j) {
                    const index_t next = staged_place[first + j];
                    const index_t changed = place ^ next;
                    if (changed != 0) {
#pragma unroll
                        for (int level = 0; level < L::levels; ++level) {
                            if ((changed >> (L::depth - level)) == 0) continue;
                            write_sums<L, T>(sums[level], level, place, before, after, tree, tiles, tile,
                                             column, gradients);
                        }
                        place = next;
                    }
                    Group<float, 4> pair[T::quads];
#pragma unroll
                    for (int q = 0; q < T::quads; ++q) pair[q] = staged[first + j][q];
                    const Group<Scalar, T::columns> input = inputs[j][threadIdx.x];
                    const Group<Scalar, T::columns> arrival = arrivals[j][threadIdx.x];
#pragma unroll
                    for (int level = 0; level < L::levels; ++level) {
                        const float ds = pair[level / 4].element[level % 4];
                        const float a = pair[(L::levels + level) / 4].element[(L::levels + level) % 4];
                        sums[level].b_in += ds;
#pragma unroll
                        for (int i = 0; i < T::columns; ++i) {
                            sums[level].w_in[i] += ds * widen(input.element[i]);
                            sums[level].w_out[i] += a * widen(arrival.element[i]);
                        }
                    }
                }
            }
        }
#pragma unroll
        for (int level = 0; level < L::levels; ++level) {
            write_sums<L, T>(sums[level], level, place, before, after, tree, tiles, tile, column, gradients);
        }
    }
}

template <int columns>
__device__ inline void add_partial(float (&sum)[columns], const float* partial) {
    const Group<float, columns> group = load_group<columns>(partial);
#pragma unroll
    for (int i = 0; i < columns; ++i) sum[i] += group.element[i];
}

template <class L, class T>
__device__ inline void combine_tiles(index_t trees, index_t tiles, index_t tile_tokens,
                                     const index_t* __restrict__ leaf_starts,
                                     const Gradients<typename L::Scalar>& gradients) {
    const index_t items = trees * L::nodes * T::slices;
    for (index_t item = blockIdx.x; item < items; item += gridDim.x) {
        const int slice = int(item % T::slices);
        const index_t neuron = item / T::slices;
        const index_t tree = neuron / L::nodes;
        const index_t place = neuron % L::nodes + 1;
        const int level = 63 - __clzll(place);
        const int shift = L::depth - level;
        const index_t first_leaf = (place << shift) - L::leaf_count;
        const index_t* const starts = leaf_starts + tree * (L::leaf_count + 1);
        const index_t begin = starts[first_leaf];
        const index_t end = starts[first_leaf + (index_t(1) << shift)];
        const index_t first_tile = begin / tile_tokens;
        const index_t last_tile = end > begin ? (end - 1) / tile_tokens : first_tile;
        if (end > begin && first_tile == last_tile)
            continue;  // the run lies in one tile, which has written it
        const int column = (slice * T::threads + int(threadIdx.x)) * T::columns;
        if (column >= L::hidden) continue;
        Sums<T::columns> sums = {};
        if (end > begin) {
#pragma unroll 4
            for (index_t tile = first_tile; tile <= last_tile; ++tile) {
                const index_t row = T::partial_row(tree, tiles, tile, tile == first_tile ? 1 : 0, level);
                add_partial(sums.w_in, gradients.partial_w_in + row * L::hidden + column);
                add_partial(sums.w_out, gradients.partial_w_out + row * L::hidden + column);
                sums.b_in += gradients.partial_b_in[row];
            }
        }
        store_group<T::columns>(gradients.w_in + neuron * L::hidden + column, sums.w_in);
        store_group<T::columns>(gradients.w_out + neuron * L::hidden + column, sums.w_out);
        if (column == 0) gradients.b_in[neuron] = narrow<typename L::Scalar>(sums.b_in);
    }
}
