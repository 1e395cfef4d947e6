// CUDA's words in C++20, as far as TVM's kernels use them: a block is so many threads of the CPU, with real barriers.
// One block runs after another; shared memory is static. Warps exchange values by an array and a barrier each.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __restrict__
#define __shared__ static
#define __global__
#define __launch_bounds__(threads)
#define alignas(bytes) __attribute__((aligned(bytes)))
using std::max;
using std::min;

struct Index { unsigned x, y, z; };
struct int2 { int x, y; };
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
static int2 make_int2(int x, int y) { return {x, y}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static thread_local Index threadIdx, blockIdx;
static thread_local int thread;
static std::unique_ptr<std::barrier<>> everyone;
static std::vector<std::unique_ptr<std::barrier<>>> warps;
static float lanes[1024];

static void __syncthreads() { everyone->arrive_and_wait(); }
static unsigned __activemask() { return ~0u; }

static float exchanged(float value, int lane) {
    auto &warp = *warps[thread / 32];
    lanes[thread] = value;
    warp.arrive_and_wait();
    float found = lanes[thread / 32 * 32 + lane];
    warp.arrive_and_wait();
    return found;
}
static float __shfl_sync(unsigned, float value, int lane, int) { return exchanged(value, lane % 32); }
static float __shfl_down_sync(unsigned, float value, int by, int) {
    int own = thread % 32;
    return exchanged(value, own + by < 32 ? own + by : own);
}

template <class Kernel> void launch(const int *grid, const int *block, Kernel kernel) {
    int count = block[0] * block[1] * block[2];
    everyone = std::make_unique<std::barrier<>>(count);
    warps.clear();
    for (int first = 0; first < count; first += 32)
        warps.push_back(std::make_unique<std::barrier<>>(std::min(32, count - first)));
    auto work = [&](int number) {
        thread = number;
        threadIdx = {unsigned(number % block[0]), unsigned(number / block[0] % block[1]),
                     unsigned(number / block[0] / block[1])};
        for (unsigned z = 0; z < unsigned(grid[2]); z++)
            for (unsigned y = 0; y < unsigned(grid[1]); y++)
                for (unsigned x = 0; x < unsigned(grid[0]); x++) {
                    blockIdx = {x, y, z};
                    kernel();
                    everyone->arrive_and_wait();
                }
    };
    std::vector<std::thread> threads;
    for (int number = 0; number < count; number++) threads.emplace_back(work, number);
    for (auto &one : threads) one.join();
}
