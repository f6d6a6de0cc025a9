#include "activations.hpp"

#include <algorithm>

#include "float16.hpp"
#include "thread_pool.hpp"

namespace tilepress {

namespace {

// round_half_even(value / scale) + offset, clamped to int8. Beyond +-1024 the offset cannot bring a value back into the
// range; not-a-number becomes the lowest. Adding and taking away 1.5 * 2^23 rounds to nearest even, without a call for
// each element.
template <typename Float>
inline int8_t quantize_value(Float value, float scale, int offset) {
    constexpr float kRounder = 12582912.0f;
    float steps = widen(value) / scale;
    steps = steps > -1024.0f ? steps : -1024.0f;
    steps = steps < 1024.0f ? steps : 1024.0f;
    const float whole = (steps + kRounder) - kRounder;
    return static_cast<int8_t>(std::clamp(static_cast<int>(whole) + offset, -128, 127));
}

}  // namespace

template <typename Float>
void QuantizedActivations::quantize(const Float* x, int64_t token, float scale, int offset) {
    const int64_t chunk = token / kChunk, t = token % kChunk;
    for (int64_t j = 0; j < column_tiles_; ++j) {
        int8_t* const out = block_values(chunk, j) + t * width(j);
        const int64_t first = j * tile_columns_, used = std::min(width(j), k_ - first);
        for (int64_t column = 0; column < used; ++column) {
            out[column] = quantize_value(x[token * k_ + first + column], scale, offset);
        }
        int32_t total = 0, largest = 0;
        for (int64_t column = 0; column < used; ++column) {
            const int32_t value = out[column];
            total += value;
            largest = std::max(largest, value < 0 ? -value : value);
        }
        totals_[static_cast<size_t>(block_start(chunk, j) + t)] = total;
        largest_[static_cast<size_t>(block_start(chunk, j) + t)] = largest;
    }
}

QuantizedActivations::QuantizedActivations(const Geometry& geometry, const LinearArguments& arguments, int threads)
    : tokens_(arguments.tokens),
      k_(geometry.k),
      columns_(geometry.k1 * kFractalColumns),
      tile_columns_(geometry.tiling_k * kFractalColumns),
      column_tiles_(geometry.k_index),
      values_(static_cast<size_t>(tokens_ * columns_)),
      totals_(static_cast<size_t>(tokens_ * column_tiles_)),
      largest_(static_cast<size_t>(tokens_ * column_tiles_)) {
    constexpr int64_t kTokensATask = 8;
    parallel_for((tokens_ + kTokensATask - 1) / kTokensATask, threads, [&](int64_t task) {
        const int64_t end = std::min((task + 1) * kTokensATask, tokens_);
        for (int64_t token = task * kTokensATask; token < end; ++token) {
            const auto from = [&]<typename Float>(const Float* x) {
                quantize(x, token, arguments.input_scale, arguments.input_offset);
            };
            switch (arguments.type) {
                case FloatType::float32:
                    from(static_cast<const float*>(arguments.x));
                    break;
                case FloatType::bfloat16:
                    from(static_cast<const BFloat16*>(arguments.x));
                    break;
                case FloatType::float16:
                    from(static_cast<const Float16*>(arguments.x));
                    break;
            }
        }
    });
}

Activations QuantizedActivations::block(int64_t chunk, int64_t j) const {
    const int tokens = chunk_tokens(chunk);
    const int32_t* const largest = largest_.data() + block_start(chunk, j);
    return {
        .values = values_.data() + chunk * kChunk * columns_ + tokens * j * tile_columns_,
        .totals = totals_.data() + block_start(chunk, j),
        .tokens = tokens,
        .largest = *std::max_element(largest, largest + tokens),
    };
}

}  // namespace tilepress
