#include "decoder/projection.hpp"

#include <algorithm>

#include "simd/isa.hpp"
#include "simd/kernels.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

Projection compressed_projection(const TensorView& tiles, const LinearArguments& scales) {
    check_input_offset(scales);
    return {
        .n = tiles.geometry.n,
        .k = tiles.geometry.k,
        .tiles = tiles,
        .scales = scales,
        .type = FloatType::float32,
        .weight = nullptr,
        .bias = nullptr,
    };
}

Projection float_projection(FloatType type, const void* weight, const float* bias, int64_t n, int64_t k) {
    return {
        .n = n,
        .k = k,
        .tiles = std::nullopt,
        .scales = {},
        .type = type,
        .weight = weight,
        .bias = bias,
    };
}

void project(const Projection& projection, const float* x, int64_t tokens, float* y, int64_t stride, int threads) {
    if (projection.tiles) {
        LinearArguments arguments = projection.scales;
        arguments.x = x;
        arguments.y = y;
        arguments.y_stride = stride;
        arguments.type = FloatType::float32;
        arguments.tokens = tokens;
        return linear(*projection.tiles, arguments, threads);
    }
    const FloatRows rows{
        .type = projection.type,
        .weight = projection.weight,
        .bias = projection.bias,
        .k = projection.k,
        .x = x,
        .tokens = tokens,
        .y = y,
        .stride = stride,
    };
    constexpr int64_t kRowsATask = 64;
    const int64_t tasks = (projection.n + kRowsATask - 1) / kRowsATask;
    parallel_for(tasks, threads, [&](int64_t task) {
        isa().kernels.multiply_floats(rows, task * kRowsATask, std::min((task + 1) * kRowsATask, projection.n));
    });
}

}  // namespace tilepress
