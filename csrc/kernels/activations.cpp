#include "kernels/activations.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "simd/isa.hpp"
#include "threads/tasks.hpp"

namespace tilepress {

namespace {

// Exact for whole numbers of any size: std::nearbyint would obey a rounding mode that somebody else has set.
float round_half_even(float value) {
    constexpr float kWhole = 8388608.0f;  // from here on all floats are whole
    if (!(std::fabs(value) < kWhole)) return value;
    const float rounder = std::copysign(kWhole, value);
    return (value + rounder) - rounder;
}

}  // namespace

TokenScale QuantizedActivations::choose_scale(const LinearArguments& arguments, int64_t token, float& scale) const {
    const TokenScale fixed{false, 1.0f, arguments.input_offset};
    scale = arguments.input_scale;
    if (arguments.weight_sums == nullptr) return fixed;
    const FloatRange range = kernels_.find_range(arguments.type, arguments.x, token * k_, k_);
    if (arguments.input_offset == kSymmetric) {
        const float largest = std::max(range.high, -range.low) / 127.0f;
        scale = largest >= FLT_MIN && largest <= FLT_MAX ? largest : 1.0f;
        return {true, scale / arguments.input_scale, 0};
    }
    const float offset = static_cast<float>(arguments.input_offset);
    const bool overflows =
        round_half_even(range.high / scale) + offset > 127.0f || round_half_even(range.low / scale) + offset < -128.0f;
    const float own = (range.high - range.low) / 255.0f;
    if (!overflows || !(own >= FLT_MIN && own <= FLT_MAX)) return fixed;
    scale = own;
    return {true, own / arguments.input_scale, -128 - static_cast<int>(round_half_even(range.low / own))};
}

void QuantizedActivations::quantize(const LinearArguments& arguments, int64_t token) {
    const int64_t chunk = token / kChunk, t = token % kChunk;
    float scale;
    TokenScale& chosen = scales_[static_cast<size_t>(token)];
    chosen = choose_scale(arguments, token, scale);
    for (int64_t j = 0; j < column_tiles_; ++j) {
        int8_t* const out = block_values(chunk, j) + t * width(j);
        const int64_t first = j * tile_columns_, used = std::min(width(j), k_ - first);
        const QuantizedRow row =
            kernels_.quantize(arguments.type, arguments.x, token * k_ + first, used, scale, chosen.offset, out);
        totals_[static_cast<size_t>(block_start(chunk, j) + t)] = row.total;
        largest_[static_cast<size_t>(block_start(chunk, j) + t)] = row.largest;
    }
}

QuantizedActivations::QuantizedActivations(const Geometry& geometry, const LinearArguments& arguments, int threads)
    : kernels_(isa().kernels),
      tokens_(arguments.tokens),
      k_(geometry.k),
      columns_(geometry.k1 * kFractalColumns),
      tile_columns_(geometry.tiling_k * kFractalColumns),
      column_tiles_(geometry.k_index),
      values_(static_cast<size_t>(tokens_ * columns_)),
      totals_(static_cast<size_t>(tokens_ * column_tiles_)),
      largest_(static_cast<size_t>(tokens_ * column_tiles_)),
      scales_(static_cast<size_t>(tokens_)) {
    constexpr int64_t kTokensATask = 8;
    parallel_for((tokens_ + kTokensATask - 1) / kTokensATask, threads, [&](int64_t task) {
        const int64_t end = std::min((task + 1) * kTokensATask, tokens_);
        for (int64_t token = task * kTokensATask; token < end; ++token) quantize(arguments, token);
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
