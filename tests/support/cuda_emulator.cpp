// Runs the CUDA kernels on the CPU, for the tests: KERNEL_FILE, a .cu file, compiled as plain C++, every GPU
// thread a fiber.
//
// Within a block the fibers run one at a time and hand over at barriers and warp shuffles only. Device arrays
// are heap blocks of their exact size, so that AddressSanitizer sees any access outside one and UBSan any
// misaligned one. A barrier that not all its threads reach ends the program. The job chooses whether the
// first or the last warp and lane of a block goes first; results must not depend on it.
//
// Usage: emulator JOB RESULT. Both are sequences of little-endian int64 and raw bytes:
//   JOB     backwards, number of arrays, per array its bytes and its content; number of launches, per
//           launch the kernel's number, grid, block x, block y, number of arguments, the arguments
//   RESULT  the contents of all arrays
// An argument of 2^40 or more is an address: array number + 1 in the bits from 40 up, byte offset below.

#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

struct Index {
    unsigned x, y, z;
};

struct Barrier {
    int arrived = 0;
    int generation = 0;
};

struct Fiber {
    ucontext_t context;
    Index index;
    bool done = false;
    void* sanitizer_stack = nullptr;
};

static const size_t STACK_BYTES = 256 * 1024;
static std::vector<std::unique_ptr<char[]>> stacks;
static std::vector<Fiber> fibers;
static std::vector<Barrier> warp_barriers;
static std::vector<float> warp_slots;
static Barrier block_barrier;
static ucontext_t scheduler;
#if defined(__SANITIZE_ADDRESS__)
static void* scheduler_stack = nullptr;
static const void* scheduler_bottom = nullptr;
static size_t scheduler_size = 0;
#endif
static Fiber* running = nullptr;
static bool progress = false;
static std::function<void()> body;
static Index gridDim, blockDim, blockIdx;

#define threadIdx (running->index)
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

static int linear_thread() { return int(threadIdx.x + threadIdx.y * blockDim.x); }

static void switch_to_scheduler(bool for_good) {
    Fiber* const self = running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &self->sanitizer_stack, scheduler_bottom,
                                   scheduler_size);
#endif
    swapcontext(&self->context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->sanitizer_stack, nullptr, nullptr);
#endif
}

static void wait_at(Barrier& barrier, int threads) {
    const int generation = barrier.generation;
    progress = true;
    if (++barrier.arrived == threads) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    while (barrier.generation == generation) switch_to_scheduler(false);
    progress = true;
}

static void __syncthreads() { wait_at(block_barrier, int(blockDim.x * blockDim.y)); }

static float shuffle(float value, int source) {
    const int warp = linear_thread() / 32;
    warp_slots[size_t(linear_thread())] = value;
    wait_at(warp_barriers[size_t(warp)], 32);
    const float result = warp_slots[size_t(warp * 32 + source)];
    wait_at(warp_barriers[size_t(warp)], 32);
    return result;
}

static float __shfl_xor_sync(unsigned, float value, int mask) {
    return shuffle(value, (linear_thread() % 32) ^ mask);
}
static float __shfl_sync(unsigned, float value, int lane) { return shuffle(value, lane); }
static int __clzll(long long value) { return __builtin_clzll(static_cast<unsigned long long>(value)); }

static float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static unsigned __float_as_uint(float value) {
    if (value != value) return 0x7fffffffu;  // the NaN that a GPU's arithmetic gives
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float half_to_float(unsigned short bits) {
    _Float16 value;
    memcpy(&value, &bits, sizeof value);
    return float(value);
}

static unsigned short float_to_half(float value) {
    const _Float16 half = _Float16(value);
    unsigned short bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

#include KERNEL_FILE

static void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    body();
    running->done = true;
    progress = true;
    switch_to_scheduler(true);
}

static void resume(int thread) {
    running = &fibers[size_t(thread)];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_stack, stacks[size_t(thread)].get(), STACK_BYTES);
#endif
    swapcontext(&scheduler, &running->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_stack, nullptr, nullptr);
#endif
}

// A warp runs as far as it gets before the next one moves: what one warp may do to another too early, it
// does.
static void run_block(bool backwards) {
    const int threads = int(blockDim.x * blockDim.y);
    block_barrier = Barrier();
    warp_barriers.assign(size_t(threads / 32), Barrier());
    warp_slots.assign(size_t(threads), 0.0f);
    fibers.assign(size_t(threads), Fiber());
    while (int(stacks.size()) < threads) stacks.emplace_back(new char[STACK_BYTES]);
    for (int t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[size_t(t)];
        fiber.index = Index{unsigned(t) % blockDim.x, unsigned(t) / blockDim.x, 0};
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stacks[size_t(t)].get();
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    const int warps = threads / 32;
    for (int left = threads; left > 0;) {
        bool moved = false;
        for (int w = 0; w < warps; ++w) {
            const int first = 32 * (backwards ? warps - 1 - w : w);
            do {
                progress = false;
                for (int i = 0; i < 32; ++i) {
                    const int t = first + (backwards ? 31 - i : i);
                    if (fibers[size_t(t)].done) continue;
                    resume(t);
                    if (fibers[size_t(t)].done) --left;
                }
                moved = moved || progress;
            } while (progress);
        }
        if (!moved) {
            fprintf(stderr, "a barrier was not reached by all threads\n");
            exit(3);
        }
    }
}

template <typename... Parameters, size_t... position>
static void call(void (*kernel)(Parameters...), const std::vector<long long>& arguments,
                 std::index_sequence<position...>) {
    if (arguments.size() != sizeof...(Parameters)) {
        fprintf(stderr, "a kernel of %zu parameters got %zu arguments\n", sizeof...(Parameters),
                arguments.size());
        exit(4);
    }
    kernel((Parameters)(arguments[position])...);
}

template <typename... Parameters>
static std::function<void()> bind_kernel(void (*kernel)(Parameters...),
                                         const std::vector<long long>& arguments) {
    return [=] { call(kernel, arguments, std::index_sequence_for<Parameters...>()); };
}

static long long read_number(FILE* file) {
    long long number = 0;
    if (fread(&number, sizeof number, 1, file) != 1) exit(5);
    return number;
}

int main(int, char** names) {
    FILE* const job = fopen(names[1], "rb");
    if (!job) return 2;
    const bool backwards = read_number(job) != 0;
    std::vector<std::pair<char*, size_t>> arrays(static_cast<size_t>(read_number(job)));
    for (auto& array : arrays) {
        array.second = size_t(read_number(job));
        array.first = static_cast<char*>(malloc(array.second));
        if (fread(array.first, 1, array.second, job) != array.second) return 5;
    }
    const long long launches = read_number(job);
    for (long long n = 0; n < launches; ++n) {
        const long long kernel = read_number(job);
        gridDim = Index{unsigned(read_number(job)), 1, 1};
        const unsigned width = unsigned(read_number(job));
        blockDim = Index{width, unsigned(read_number(job)), 1};
        std::vector<long long> arguments(size_t(read_number(job)));
        for (long long& argument : arguments) {
            argument = read_number(job);
            if (argument < (1LL << 40)) continue;
            char* const start = arrays.at(size_t((argument >> 40) - 1)).first;
            argument = reinterpret_cast<long long>(start + (argument & ((1LL << 40) - 1)));
        }
#ifdef NAIVE
        if (kernel == 0) body = bind_kernel(naive_forward, arguments);
#else
        if (kernel == 0) body = bind_kernel(cmm_forward, arguments);
        if (kernel == 1) body = bind_kernel(cmm_backward_tokens, arguments);
        if (kernel == 2) body = bind_kernel(cmm_backward_tiles, arguments);
        if (kernel == 3) body = bind_kernel(cmm_backward_combine, arguments);
#endif
        for (blockIdx = Index{0, 0, 0}; blockIdx.x < gridDim.x; ++blockIdx.x) run_block(backwards);
    }
    fclose(job);
    FILE* const result = fopen(names[2], "wb");
    if (!result) return 2;
    for (const auto& array : arrays) {
        if (fwrite(array.first, 1, array.second, result) != array.second) return 5;
        free(array.first);
    }
    return fclose(result) == 0 ? 0 : 5;
}
