// Quantizing activations, in plain loops that the compiler vectorizes for the including file's target. No operation may
// be contracted or reordered: every target gives the same bits.
#pragma once

#include "simd/kernels.hpp"

namespace tilepress::TILEPRESS_TARGET {
namespace {

// round_half_even(value / scale) + offset, clamped to int8. Beyond +-1024 the offset cannot bring a value back into the
// range; not-a-number becomes the lowest. Adding and taking away 1.5 * 2^23 rounds to nearest even, without a call for
// each element.
template <typename Float>
TILEPRESS_ALWAYS_INLINE int8_t quantize_value(Float value, float scale, int offset) {
    constexpr float kRounder = 12582912.0f;
    float steps = widen(value) / scale;
    steps = steps > -1024.0f ? steps : -1024.0f;
    steps = steps < 1024.0f ? steps : 1024.0f;
    const float whole = (steps + kRounder) - kRounder;
    int quantized = static_cast<int>(whole) + offset;
    quantized = quantized > -128 ? quantized : -128;
    quantized = quantized < 127 ? quantized : 127;
    return static_cast<int8_t>(quantized);
}

template <typename Float>
QuantizedRow quantize_row(const Float* x, int64_t count, float scale, int offset, int8_t* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = quantize_value(x[i], scale, offset);
    QuantizedRow row{0, 0};
    for (int64_t i = 0; i < count; ++i) {
        const int32_t value = out[i];
        row.total += value;
        const int32_t magnitude = value < 0 ? -value : value;
        row.largest = magnitude > row.largest ? magnitude : row.largest;
    }
    return row;
}

// In lanes, which compilers turn into vectors: one comparison at a time took longer than quantizing.
template <typename Float>
FloatRange range_of(const Float* x, int64_t count) {
    constexpr int kLanes = 16;
    float low[kLanes] = {}, high[kLanes] = {};
    const auto take = [&](float value, int lane) __attribute__((always_inline)) {
        low[lane] = value < low[lane] ? value : low[lane];
        high[lane] = value > high[lane] ? value : high[lane];
    };
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) take(widen(x[i + lane]), lane);
    }
    for (; i < count; ++i) take(widen(x[i]), 0);
    for (int lane = 1; lane < kLanes; ++lane) {
        take(low[lane], 0);
        take(high[lane], 0);
    }
    return {low[0], high[0]};
}

QuantizedRow quantize(FloatType type, const void* x, int64_t first, int64_t count, float scale, int offset,
                      int8_t* out) {
    return with_floats(type, x,
                       [&](const auto* values) { return quantize_row(values + first, count, scale, offset, out); });
}

FloatRange find_range(FloatType type, const void* x, int64_t first, int64_t count) {
    return with_floats(type, x, [&](const auto* values) { return range_of(values + first, count); });
}

}  // namespace
}  // namespace tilepress::TILEPRESS_TARGET
